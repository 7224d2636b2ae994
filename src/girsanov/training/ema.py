r"""Exponential moving average of a module's weights.

After step t = 0, 1, ... the average is :math:`\bar\theta \leftarrow \bar\theta + (1 - d_t)(\theta
- \bar\theta)` with :math:`d_t = \min(d, (1 + t) / (10 + t))`. The warm-up makes the early average
span about a tenth of the steps so far, so that the initial weights are forgotten like a power of t
and short runs profit too.
"""

__all__ = ["MovingAverage", "warm_decay"]

import copy
from typing import final

import torch
from torch import Tensor, nn


def warm_decay(decay: float, step: int) -> float:
    """Decay of the average at a step: ``min(decay, (1 + step) / (10 + step))``.

    Example:
        >>> warm_decay(0.999, 0), warm_decay(0.999, 90), warm_decay(0.999, 10**6)
        (0.1, 0.91, 0.999)
    """
    return min(decay, (1 + step) / (10 + step))


@final
class MovingAverage:
    """A copy of a module whose parameters follow the original's, averaged.

    The copy is updated in place by one fused operation a step, so evaluating it costs nothing more. It is in evaluation
    mode and takes no gradient. Buffers are not averaged: :meth:`evaluated` copies them.
    Half-precision weights are averaged in float32.

    Args:
        module: the module that is trained.
        decay: largest decay, in [0, 1).

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> average = MovingAverage(layer, decay=0.5)
        >>> with torch.no_grad():
        ...     _ = layer.weight.add_(1.0)
        >>> average.update(10)
        >>> float(layer.weight.detach() - average.evaluated().weight) - 0.5 < 1e-6
        True
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._source = module
        self._decay = decay
        self._module = copy.deepcopy(module).eval().requires_grad_(False)
        if any(p.dtype in (torch.float16, torch.bfloat16) for p in module.parameters()):
            self._module.float()
        pairs = list(zip(self._module.parameters(), module.parameters(), strict=True))
        pairs = [(mine, theirs.detach()) for mine, theirs in pairs if theirs.requires_grad]
        self._averages: list[Tensor] = [mine for mine, _ in pairs]
        self._originals = [theirs for _, theirs in pairs]
        self._mixed = any(a.dtype != b.dtype for a, b in pairs)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the current weights, after step 0, 1, ..."""
        originals = [tensor.float() for tensor in self._originals] if self._mixed else self._originals
        weight = 1.0 - warm_decay(self._decay, step)
        torch._foreach_lerp_(self._averages, originals, weight)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def evaluated(self) -> nn.Module:
        """The averaged module, in evaluation mode, with the current buffers."""
        for mine, theirs in zip(self._module.buffers(), self._source.buffers(), strict=True):
            mine.copy_(theirs)
        return self._module
