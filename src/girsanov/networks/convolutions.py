"""A small U-Net of our own, for images where position matters and data are few; see :mod:`girsanov.networks.dense`."""

__all__ = ["ConvNetwork", "takes_convolutions"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from girsanov.networks.conditioning import LABEL_SCALE, Embedding, LabelMaps, Signature, condition_map, modulate


def takes_convolutions(event_shape: Sequence[int]) -> bool:
    """Whether rows of a shape get a convolutional network: images ``(c, h, w)`` whose sides are even and at least 4.

    Example:
        >>> takes_convolutions((1, 8, 8)), takes_convolutions((1, 7, 7)), takes_convolutions((64,))
        (True, False, False)
    """
    return len(event_shape) == 3 and all(side % 2 == 0 and side >= 4 for side in event_shape[1:])


class ChannelDropout(nn.Module):
    """Dropout of whole channels: one mask per row and channel, cheap and decorrelating for small data sets."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop entries of axis 1 of ``b c ...``."""
        if not self.training or self.rate == 0.0:
            return x
        mask = torch.rand(*x.shape[:2], *(1,) * (x.ndim - 2), device=x.device) >= self.rate
        return x * (mask.to(x.dtype) / (1.0 - self.rate))


class _ConvBlock(nn.Module):
    """Pre-norm convolutional residual block, modulated by the embedding."""

    def __init__(self, channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm2 = nn.GroupNorm(1, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.dropout = ChannelDropout(dropout)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        with torch.no_grad():
            self.conv2.weight.mul_(0.3)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        inner = modulate(self.norm2(self.conv1(silu(self.norm1(h)))), self.modulation(embedding))
        return h + self.conv2(self.dropout(silu(inner)))


class ConvNetwork(nn.Module):
    """A two-level U-Net with learned positions, for small images where position matters and data are few.

    Args:
        event_shape: ``(c, h, w)`` with even h and w.
        signature: numbers of maps, and what the condition is.
        width: channels at full resolution.
        deep_width: channels at half resolution.
        blocks: residual blocks on each side at full resolution.
        deep_blocks: residual blocks at half resolution.
        dropout: rate of channel dropout inside the blocks.

    Example:
        >>> network = ConvNetwork((1, 8, 8), Signature(inputs=2), width=8, deep_width=16)
        >>> network(torch.zeros(3), torch.ones(3, 2, 1, 8, 8), None).shape
        torch.Size([3, 1, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        signature: Signature = Signature(),  # noqa: B008  (a frozen value)
        *,
        width: int = 24,
        deep_width: int = 64,
        blocks: int = 1,
        deep_blocks: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        c, height, breadth = event_shape
        classes = signature.classes
        self.outputs = outputs = signature.outputs
        self.embedding = Embedding(64, signature)
        self.enter = nn.Conv2d(signature.inputs * c, width, 3, padding=1)
        self.position = nn.Parameter(0.3 * torch.randn(1, width, height, breadth))
        self.label_position = LabelMaps(classes, (width, height, breadth), scale=LABEL_SCALE)
        self.enter_condition = condition_map(signature, width)
        self.before = nn.ModuleList(_ConvBlock(width, 64, dropout) for _ in range(blocks))
        self.down = nn.Conv2d(width, deep_width, 2, stride=2)
        self.deep_position = nn.Parameter(0.3 * torch.randn(1, deep_width, height // 2, breadth // 2))
        self.deep_label_position = LabelMaps(classes, (deep_width, height // 2, breadth // 2), scale=LABEL_SCALE)
        self.deep = nn.ModuleList(_ConvBlock(deep_width, 64, dropout) for _ in range(deep_blocks))
        self.up = nn.ConvTranspose2d(deep_width, width, 2, stride=2)
        self.after = nn.ModuleList(_ConvBlock(width, 64, dropout) for _ in range(blocks))
        self.norm = nn.GroupNorm(1, width)
        self.leave = nn.Conv2d(width, outputs * c, 1)
        self.bias = nn.Parameter(torch.zeros(1, outputs * c, height, breadth))
        self.label_bias = LabelMaps(classes, (outputs * c, height, breadth), scale=0.0)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, log_snr: Tensor, features: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map ``b f c h w`` to ``b o c h w``; without conditions, ``m`` levels are those of ``b / m`` rows each."""
        embedding = self.embedding(log_snr, condition)
        h = self.enter(features.flatten(1, 2)) + self.position + self.label_position(log_snr, condition)
        if self.enter_condition is not None:
            h = h + self.enter_condition(log_snr, condition)[:, :, None, None]
        for block in self.before:
            h = block(h, embedding)
        deep = self.down(h) + self.deep_position + self.deep_label_position(log_snr, condition)
        for block in self.deep:
            deep = block(deep, embedding)
        h = h + self.up(deep)
        for block in self.after:
            h = block(h, embedding)
        out = self.leave(silu(self.norm(h))) + self.bias + self.label_bias(log_snr, condition)
        return out.unflatten(1, (self.outputs, features.shape[2]))
