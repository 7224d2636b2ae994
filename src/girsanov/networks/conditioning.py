r"""What enters a network besides its rows: the log-SNR, and a class label or a continuous condition.

A class label enters twice: in the embedding that modulates every block, and as maps of its own that are added to the
features and to the output. At low log-SNR the exact correction is the class's mean, a map that modulation alone would
have to make out of nothing.
"""

__all__ = ["LABEL_SCALE", "ConditionMap", "Embedding", "LabelMaps", "Signature", "condition_map", "modulate"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

HALF_WIDTH = 15.0  # log-SNR at which the Fourier features complete half a period
LABEL_SCALE = 0.1  # of labels' initial feature maps, a third of the common positions'


@final
@dataclass(frozen=True)
class Signature:
    """What a network reads and writes besides rows of one shape.

    Attributes:
        inputs: number f of feature maps.
        outputs: number o of output maps.
        classes: number of class labels; conditions are then int64 labels of shape ``b``, with -1 for "no label".
        condition_dim: length of a continuous condition, shape ``b c``; rows of NaN mean "no condition".
    """

    inputs: int = 1
    outputs: int = 1
    classes: int = 0
    condition_dim: int = 0


class Embedding(nn.Module):
    """Embedding of log-SNR and, where there is one, of a condition.

    Args:
        width: length of the embedding.
        signature: what the condition is.
        frequencies: number of Fourier features of the log-SNR.
    """

    frequency: Tensor

    def __init__(self, width: int, signature: Signature = Signature(), *, frequencies: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.arange(frequencies) * (math.pi / 2.0), persistent=False)
        self.fourier = nn.Linear(2 * frequencies, width)
        self.labels = nn.Embedding(signature.classes + 1, width) if signature.classes else None
        self.condition = condition_map(signature, width)
        self.out = nn.Linear(width, width)

    def forward(self, log_snr: Tensor, condition: Tensor | None) -> Tensor:
        """Embed levels ``b`` and conditions into ``b width``."""
        phase = (log_snr / HALF_WIDTH).to(self.fourier.weight.dtype)[:, None] * self.frequency
        h = self.fourier(torch.cat([phase.cos(), phase.sin()], 1))
        if self.labels is not None:
            h = h + self.labels(_label_index(log_snr, condition))
        elif self.condition is not None:
            h = h + self.condition(log_snr, condition)
        return silu(self.out(silu(h)))


class ConditionMap(nn.Module):
    """Linear map of a standardised continuous condition; a missing one has a vector of its own.

    Args:
        condition_dim: length c of a condition.
        width: length of the result.

    Example:
        >>> encode = ConditionMap(2, 4)
        >>> encode(torch.zeros(3), torch.tensor([[1.0, 2.0], [0.5, 1.0], [math.nan, math.nan]])).shape
        torch.Size([3, 4])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, condition_dim: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(condition_dim))
        self.register_buffer("scale", torch.ones(condition_dim))
        self.linear = nn.Linear(condition_dim, width)
        self.absent = nn.Parameter(torch.zeros(width))

    def standardise(self, condition: Tensor) -> None:
        """Take mean and scale from conditions ``n c``."""
        self.mean.copy_(condition.mean(0))
        scale = condition.std(0)
        self.scale.copy_(torch.where(scale > 0, scale, 1.0))

    def forward(self, log_snr: Tensor, condition: Tensor | None) -> Tensor:
        """Conditions ``b c`` or none to ``b width``."""
        if condition is None:
            return self.absent.expand(len(log_snr), -1)
        known = condition.isfinite().all(1, keepdim=True)
        standard = torch.where(known, (condition - self.mean) / self.scale, 0.0)
        return torch.where(known, self.linear(standard.to(self.absent.dtype)), self.absent)


def condition_map(signature: Signature, width: int) -> ConditionMap | None:
    """The map of a continuous condition to ``b width``, where there is one."""
    return ConditionMap(signature.condition_dim, width) if signature.condition_dim else None


def _label_index(log_snr: Tensor, condition: Tensor | None) -> Tensor:
    """Rows of a table of labels whose first row is "no label"."""
    return torch.zeros_like(log_snr, dtype=torch.int64) if condition is None else condition + 1


class LabelMaps(nn.Module):
    """One learned map per class label, and one for "no label"; nothing where there are no classes.

    Args:
        classes: number of class labels, 0 for none.
        shape: shape of a map.
        scale: standard deviation of the initial entries.

    Example:
        >>> maps = LabelMaps(3, (2, 4), scale=0.1)
        >>> maps(torch.zeros(5), torch.tensor([0, 1, 2, 2, -1])).shape
        torch.Size([5, 2, 4])
        >>> LabelMaps(0, (2, 4), scale=0.1)(torch.zeros(5), None)
        0.0
    """

    def __init__(self, classes: int, shape: Sequence[int], *, scale: float) -> None:
        super().__init__()
        self.maps = nn.Parameter(scale * torch.randn(classes + 1, *shape)) if classes else None

    def forward(self, log_snr: Tensor, condition: Tensor | None) -> Tensor | float:
        """Maps of the rows' labels, ``b *shape``, or 0."""
        return 0.0 if self.maps is None else self.maps[_label_index(log_snr, condition)]


def modulate(h: Tensor, modulation: Tensor) -> Tensor:
    """Scale and shift the channels of rows ``b c ...`` by ``m 2c``, each of the m for ``b / m`` consecutive rows.

    Example:
        >>> modulate(torch.ones(4, 1), torch.tensor([[0.0, 0.0], [1.0, 3.0]])).flatten()
        tensor([1., 1., 5., 5.])
    """
    scale, shift = modulation.reshape(len(modulation), 1, -1, *(1,) * (h.ndim - 2)).chunk(2, 2)
    return (h.unflatten(0, (len(modulation), -1)) * (1.0 + scale) + shift).flatten(0, 1)
