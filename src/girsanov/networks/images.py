r"""A network for images of every even size, built for where it runs: channels last, width at half resolution.

Blocks of two pixels by two are folded into channels, so that most of the work is done at a half and a quarter of the
resolution, in convolutions wide enough to keep a processor busy; a thin path at full resolution adds the detail. Images
of up to twelve pixels are not folded: there the work is done at their own resolution and a half. In training the
convolutions are done in bfloat16 where the processor multiplies it natively (twice as fast there); a trained network is
evaluated in the precision of its rows.
"""

__all__ = ["ImageNetwork"]

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle, silu

from girsanov.networks.conditioning import LABEL_SCALE, Embedding, LabelMaps, Signature, condition_map, modulate
from girsanov.networks.convolutions import ChannelDropout

EMBEDDING = 64
POSITION_SCALE = 0.3
THINNEST = 16  # channels at full resolution, at least
SMALL = 12  # sides up to which images are not folded


@cache
def takes_bfloat16(device: str) -> bool:
    """Whether a kind of device multiplies bfloat16 natively, so that training in it is faster.

    Example:
        >>> takes_bfloat16("meta")
        False
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(bool(check()) for check in checks if check is not None)


class _Block(nn.Module):
    """Pre-norm convolutional residual block, modulated by the embedding."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(1, channels)
        self.modulation = nn.Linear(EMBEDDING, 2 * channels)
        self.dropout = ChannelDropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        with torch.no_grad():
            self.conv2.weight.mul_(0.3)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        inner = self.norm2(self.conv1(silu(self.norm1(h))))
        inner = modulate(inner, self.modulation(embedding).to(inner.dtype))
        return h + self.conv2(self.dropout(silu(inner)))


class _Fine(nn.Module):
    """The thin path at full resolution: what folded pixels say, unfolded, and the pixels themselves."""

    def __init__(self, seen: int, width: int, thin_width: int, fold: int) -> None:
        super().__init__()
        self.fold = fold
        self.unfold = nn.Conv2d(width, fold**2 * thin_width, 1)
        self.enter = nn.Conv2d(seen, thin_width, 3, padding=1)
        self.block = _Block(thin_width, 0.0)

    def forward(self, h: Tensor, x: Tensor, embedding: Tensor) -> Tensor:
        return silu(self.block(self.enter(x) + pixel_shuffle(self.unfold(h), self.fold), embedding))


class ImageNetwork(nn.Module):
    """A U-Net of two resolutions on folded pixels, with learned positions and a thin path at full resolution.

    Args:
        event_shape: ``(c, h, w)`` with even h and w of 4 or more.
        signature: numbers of maps, and what the condition is.
        width: channels of folded pixels; at full resolution there are half as many, 16 at least.
        deep_width: channels at half their resolution.
        fold: pixels by pixels that are one; default 1 up to twelve pixels, else 2.
        blocks: residual blocks of folded pixels on each side.
        deep_blocks: residual blocks at half their resolution.
        dropout: rate of channel dropout inside the blocks.

    Example:
        >>> network = ImageNetwork((3, 6, 10), Signature(inputs=2), width=8, deep_width=16)
        >>> network(torch.zeros(3), torch.ones(3, 2, 3, 6, 10), None).shape
        torch.Size([3, 1, 3, 6, 10])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        signature: Signature = Signature(),  # noqa: B008  (a frozen value)
        *,
        width: int = 64,
        deep_width: int = 128,
        fold: int | None = None,
        blocks: int = 1,
        deep_blocks: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        c, height, breadth = event_shape
        self.fold = fold = fold or (1 if max(height, breadth) <= SMALL else 2)
        grid = height // fold, breadth // fold
        coarse = (grid[0] + 1) // 2, (grid[1] + 1) // 2
        seen, self.outputs, classes = signature.inputs * c, signature.outputs, signature.classes
        self.embedding = Embedding(EMBEDDING, signature)
        self.enter_condition = condition_map(signature, width)
        self.enter = nn.Conv2d(fold**2 * seen, width, 3, padding=1)
        self.position = nn.Parameter(POSITION_SCALE * torch.randn(1, width, *grid))
        self.label_position = LabelMaps(classes, (width, *grid), scale=LABEL_SCALE)
        self.before = nn.ModuleList(_Block(width, dropout) for _ in range(blocks))
        self.down = nn.Conv2d(width, deep_width, 2, stride=2)
        self.deep_position = nn.Parameter(POSITION_SCALE * torch.randn(1, deep_width, *coarse))
        self.deep_label_position = LabelMaps(classes, (deep_width, *coarse), scale=LABEL_SCALE)
        self.deep = nn.ModuleList(_Block(deep_width, dropout) for _ in range(deep_blocks))
        self.up = nn.Conv2d(deep_width, 4 * width, 1)
        self.after = nn.ModuleList(_Block(width, dropout) for _ in range(blocks))
        self.norm = nn.GroupNorm(1, width)
        thin = max(THINNEST, width // 2)
        self.fine = None if fold == 1 else _Fine(seen, width, thin, fold)
        self.leave = nn.Conv2d(width if fold == 1 else thin, self.outputs * c, 1)
        self.bias = nn.Parameter(torch.zeros(1, self.outputs * c, height, breadth))
        self.label_bias = LabelMaps(classes, (self.outputs * c, height, breadth), scale=0.0)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, log_snr: Tensor, features: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map ``b f c h w`` to ``b o c h w``; without conditions, ``m`` levels are those of ``b / m`` rows each."""
        half = self.training and features.dtype == torch.float32 and takes_bfloat16(features.device.type)
        context = torch.autocast(features.device.type, torch.bfloat16) if half else nullcontext()
        with context:
            out = self._convolved(log_snr, features.flatten(1, 2), condition)
        # one map after the other, as heads read them
        out = out.to(features.dtype, memory_format=torch.contiguous_format) + self.bias
        if self.label_bias.maps is not None:
            out = out + self.label_bias(log_snr, condition)
        return out.unflatten(1, (self.outputs, features.shape[2]))

    def _convolved(self, log_snr: Tensor, x: Tensor, condition: Tensor | None) -> Tensor:
        embedding = self.embedding(log_snr, condition)
        x = x.contiguous(memory_format=torch.channels_last)
        h = self.enter(pixel_unshuffle(x, self.fold).contiguous(memory_format=torch.channels_last))
        h = h + (self.position + self.label_position(log_snr, condition)).to(h.dtype)
        if self.enter_condition is not None:
            h = h + self.enter_condition(log_snr, condition)[:, :, None, None].to(h.dtype)
        for block in self.before:
            h = block(h, embedding)
        h = h + self._deeper(log_snr, h, embedding, condition)
        for block in self.after:
            h = block(h, embedding)
        h = silu(self.norm(h))
        return self.leave(h if self.fine is None else self.fine(h, x, embedding))

    def _deeper(self, log_snr: Tensor, h: Tensor, embedding: Tensor, condition: Tensor | None) -> Tensor:
        """What half the resolution has to say; odd sides are padded and cropped again."""
        height, breadth = h.shape[2:]
        deep = self.down(pad(h, (0, breadth % 2, 0, height % 2)))
        deep = deep + (self.deep_position + self.deep_label_position(log_snr, condition)).to(deep.dtype)
        for block in self.deep:
            deep = block(deep, embedding)
        return pixel_shuffle(self.up(deep), 2)[:, :, :height, :breadth]
