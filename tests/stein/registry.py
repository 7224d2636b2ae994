"""An unnormalised model that the laws of paper 4 run over."""

from collections.abc import Callable

import torch
from torch import Tensor


def potential(x: Tensor, strength: Tensor | float = 0.25) -> Tensor:
    """An unnormalised log-density that is neither Gaussian nor radial, shape n."""
    flat = x.flatten(1)
    centre = 0.4 * torch.cos(torch.arange(flat.shape[1], dtype=flat.dtype))
    quadratic = (flat - centre).square().sum(1) + 0.3 * (flat * flat.roll(1, 1)).sum(1)
    return -strength * quadratic.square() / (1.0 + flat.square().sum(1)) - 0.1 * flat.square().sum(1)


def score_of(log_density: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The gradient of a log-density, differentiable."""

    def score(x: Tensor) -> Tensor:
        point = x if x.requires_grad else x.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(log_density(point).sum(), point, create_graph=True)[0]

    return score
