import pytest
import torch
from torch.func import jacrev

from girsanov.pairs.matrix_calculus import diffusion_terms
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

MIX = torch.tensor([[0.4, -1.1, 0.3], [0.9, 0.2, -0.5], [-0.7, 0.6, 1.2]], dtype=torch.float64)

COEFFICIENTS = {
    "scalar": lambda x: 1 + x.square().sum(1),
    "diagonal": lambda x: 1 + x.sin() * x.sum(1, keepdim=True),
    "matrix": lambda x: torch.eye(3) + (x @ MIX).sin()[:, :, None] * x[:, None, :],
}


@pytest.mark.parametrize("coefficient", COEFFICIENTS.values(), ids=COEFFICIENTS)
def test_against_nested_jacobians(coefficient):
    x = torch.randn(4, 3, generator=seeded(0))

    def matrix(row):
        g = coefficient(row[None])[0]
        g = g if g.ndim == 2 else torch.diag(g.expand(3))
        return g @ g.T

    div_d, dd_d = diffusion_terms(coefficient, x)
    torch.testing.assert_close(div_d, torch.stack([torch.einsum("ijj->i", jacrev(matrix)(row)) for row in x]))
    torch.testing.assert_close(dd_d, torch.stack([torch.einsum("ijij->", jacrev(jacrev(matrix))(row)) for row in x]))


def test_a_constant_coefficient_has_no_terms():
    weight = torch.nn.Parameter(torch.ones(()))
    assert diffusion_terms(lambda x: weight.expand(len(x)), torch.zeros(2, 3)) is None
