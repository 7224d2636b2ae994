import pytest
import torch

import girsanov as gv
from girsanov.pairs import SpectralScale, TriangularScale, scale_of
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = (2, 3)


def scales(n=5):
    generator = seeded(0)
    root = torch.randn(6, 6, generator=generator)
    law = gv.Gaussian(torch.zeros(SHAPE), root @ root.T + torch.eye(6))
    x = torch.zeros(n, *SHAPE)
    return {
        "isotropic": (scale_of(0.5 + torch.rand(n, generator=generator), x), x),
        "diagonal": (scale_of(0.5 + torch.rand(n, *SHAPE, generator=generator), x), x),
        "matrix": (scale_of(torch.eye(6) + 0.3 * torch.randn(n, 6, 6, generator=generator), x), x),
        "triangular": (
            TriangularScale(0.5 + torch.rand(n, generator=generator), torch.randn(6, 6, generator=generator)),
            x,
        ),
        "triangular, each": (
            TriangularScale(0.5 + torch.rand(n, generator=generator), torch.randn(n, 6, 6, generator=generator)),
            x,
        ),
        "spectral": (SpectralScale(law, lambda v: (v / (1.0 + v)).sqrt()), x),
    }


@pytest.mark.parametrize("name", list(scales()))
@pytest.mark.parametrize("factor", [None, 0.3])
def test_a_scale_is_an_invertible_linear_map(name, factor):
    scale, x = scales()[name]
    scale = scale if factor is None else scale.stretched(factor)
    columns = torch.eye(6).reshape(6, 1, *SHAPE).expand(6, len(x), *SHAPE)
    dense = torch.stack([scale.times(column).flatten(1) for column in columns], 2)  # n d d
    eps = torch.randn(x.shape, generator=seeded(1))
    torch.testing.assert_close(scale.times(eps).flatten(1), (dense @ eps.flatten(1)[:, :, None])[:, :, 0])
    torch.testing.assert_close(scale.solve(scale.times(eps)), eps)
    torch.testing.assert_close(scale.log_det(x), torch.linalg.slogdet(dense).logabsdet)


def test_a_coefficient_of_another_shape_is_refused():
    with pytest.raises(gv.InputError, match=r"diffusion\(t, x\) must return"):
        scale_of(torch.ones(5, 2), torch.zeros(5, 3))
