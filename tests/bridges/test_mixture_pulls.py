"""Pulls of mixture potentials: one time for all rows takes another route to the same numbers as many times."""

import torch

from girsanov.bridges import MixturePotentials
from girsanov.densities import GaussianMixture
from girsanov.processes import VariancePreserving
from tests.seeds import seeded


def test_one_time_for_all_rows_gives_the_same_pulls():
    g = seeded(0)
    weights = torch.tensor([0.2, 0.5, 0.3])
    mixtures = [
        GaussianMixture(weights, 2.0 * torch.randn(3, 4, generator=g), 0.2 + torch.rand(3, 4, generator=g))
        for _ in range(2)
    ]
    potentials = MixturePotentials(VariancePreserving(), *mixtures)
    x = 2.0 * torch.randn(6, 4, generator=g, dtype=torch.float64)
    t = torch.tensor([0.3, 0.3, 0.3, 0.3, 0.3, 0.7], dtype=torch.float64)
    for pull in (potentials.forward_pull, potentials.backward_pull):
        torch.testing.assert_close(pull(t[:5], x[:5]), pull(t, x)[:5], rtol=1e-10, atol=1e-10)
