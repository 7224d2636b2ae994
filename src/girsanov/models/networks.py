r"""Networks conditioned on log-SNR: residual MLP, two-hidden-layer family with closed-form divergence, small U-Net.

All share one convention: ``network(log_snr, features, condition)`` maps f feature maps of the event, shape
``b f *event``, to o maps, shape ``b o *event``; the last layer starts at zero. Features arrive with unit scale
at every log-SNR, so nothing here normalises or knows about noise.

A class label enters twice: in the embedding that modulates every block, and as maps of its own that are added to the
features and to the output. At low log-SNR the exact correction is the class's mean, a map that modulation alone would
have to make out of nothing.
"""

__all__ = [
    "ConditionMap",
    "ConvNetwork",
    "Embedding",
    "Ensemble",
    "LabelMaps",
    "ResidualMLP",
    "TwoLayerNetwork",
    "takes_convolutions",
]

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

HALF_WIDTH = 15.0  # log-SNR at which the Fourier features complete half a period
LABEL_SCALE = 0.1  # of labels' initial feature maps, a third of the common positions'


class Embedding(nn.Module):
    """Embedding of log-SNR and, where there is one, of a condition.

    Args:
        width: length of the embedding.
        classes: number of class labels; conditions are then int64 labels of shape ``b``, with -1 for "no label".
        condition_dim: length of a continuous condition, shape ``b c``; rows of NaN mean "no condition".
        frequencies: number of Fourier features of the log-SNR.
    """

    frequency: Tensor

    def __init__(self, width: int, *, classes: int = 0, condition_dim: int = 0, frequencies: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.arange(frequencies) * (math.pi / 2.0), persistent=False)
        self.fourier = nn.Linear(2 * frequencies, width)
        self.labels = nn.Embedding(classes + 1, width) if classes else None
        self.condition = ConditionMap(condition_dim, width) if condition_dim else None
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


def modulate(h: Tensor, modulation: Tensor) -> Tensor:
    """Scale and shift the channels of rows ``b c ...`` by ``m 2c``, each of the m for ``b / m`` consecutive rows.

    Example:
        >>> modulate(torch.ones(4, 1), torch.tensor([[0.0, 0.0], [1.0, 3.0]])).flatten()
        tensor([1., 1., 5., 5.])
    """
    scale, shift = modulation.reshape(len(modulation), 1, -1, *(1,) * (h.ndim - 2)).chunk(2, 2)
    return (h.unflatten(0, (len(modulation), -1)) * (1.0 + scale) + shift).flatten(0, 1)


class _Block(nn.Module):
    """Pre-norm residual block, modulated by the embedding; the branch starts at zero."""

    def __init__(self, width: int, hidden: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        for parameter in (*self.modulation.parameters(), self.outer.weight, self.outer.bias):
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        inner = modulate(self.norm(h), self.modulation(embedding))
        return h + self.outer(self.dropout(silu(self.inner(inner))))


class Ensemble(nn.Module):
    """Networks of one architecture whose noise predictions a score model averages.

    In training each member sees its own share of the rows, so members stay independent; in evaluation every member
    sees every row. The average's squared error is at most the mean of the members', whatever the data.

    Args:
        members: the networks.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)


class ResidualMLP(nn.Module):
    """Residual network on flattened events.

    Args:
        event_shape: shape of one row.
        inputs: number f of feature maps.
        outputs: number o of output maps.
        width: width of the residual stream.
        blocks: number of residual blocks.
        dropout: rate inside the blocks.
        classes: see :class:`Embedding`.
        condition_dim: see :class:`Embedding`.

    Example:
        >>> network = ResidualMLP((5,), width=16, blocks=1)
        >>> network(torch.zeros(3), torch.ones(3, 1, 5), None).shape
        torch.Size([3, 1, 5])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        inputs: int = 1,
        outputs: int = 1,
        width: int = 256,
        blocks: int = 4,
        dropout: float = 0.0,
        classes: int = 0,
        condition_dim: int = 0,
    ) -> None:
        super().__init__()
        d = math.prod(event_shape)
        self.outputs = outputs
        self.embedding = Embedding(64, classes=classes, condition_dim=condition_dim)
        self.enter = nn.Linear(inputs * d, width)
        self.enter_label = LabelMaps(classes, (width,), scale=LABEL_SCALE)
        self.enter_condition = ConditionMap(condition_dim, width) if condition_dim else None
        self.blocks = nn.ModuleList(_Block(width, width, 64, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, outputs * d)
        self.leave_label = LabelMaps(classes, (outputs * d,), scale=0.0)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, log_snr: Tensor, features: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map ``b f *event`` to ``b o *event``; without conditions, ``m`` levels are those of ``b / m`` rows each."""
        embedding = self.embedding(log_snr, condition)
        h = self.enter(features.flatten(1)) + self.enter_label(log_snr, condition)
        if self.enter_condition is not None:
            h = h + self.enter_condition(log_snr, condition)
        for block in self.blocks:
            h = block(h, embedding)
        out = self.leave(self.norm(h)) + self.leave_label(log_snr, condition)
        return out.reshape(len(h), self.outputs, *features.shape[2:])


class TwoLayerNetwork(nn.Module):
    r"""Two hidden layers, log-SNR by affine modulation: its divergence is closed form.

    :math:`F(x) = W_3\, s(c_2 + m_2 \odot W_2\, s(c_1 + m_1 \odot W_1 x))` with level-dependent c and m, so that
    for any matrix A,

    .. math::
        \mathrm{tr}(A\, \partial_x F) = (s'(z_2) \odot m_2)^\top [W_2 \odot (W_1 A W_3)^\top] (m_1 \odot s'(z_1)),

    one product of two matrices instead of d backward passes.

    Args:
        event_shape: shape of one row.
        width: width of both hidden layers.
        classes: see :class:`Embedding`.
        condition_dim: see :class:`Embedding`.

    Example:
        >>> network = TwoLayerNetwork((5,), width=16)
        >>> network(torch.zeros(3), torch.ones(3, 1, 5), None).shape
        torch.Size([3, 1, 5])
    """

    def __init__(
        self, event_shape: Sequence[int], *, width: int = 256, classes: int = 0, condition_dim: int = 0
    ) -> None:
        super().__init__()
        d = math.prod(event_shape)
        self.embedding = Embedding(64, classes=classes, condition_dim=condition_dim)
        self.first = nn.Linear(d, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)
        self.third = nn.Linear(width, d, bias=False)
        self.modulation = nn.Linear(64, 4 * width)
        nn.init.zeros_(self.third.weight)

    def forward(self, log_snr: Tensor, features: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map ``b 1 *event`` to ``b 1 *event``."""
        m1, c1, m2, c2 = self._modulation(log_snr, condition)
        h = silu(c1 + m1 * self.first(features.flatten(1)))
        h = silu(c2 + m2 * self.second(h))
        return self.third(h).reshape(features.shape)

    def with_trace(
        self, log_snr: Tensor, features: Tensor, condition: Tensor | None, matrix: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Value and ``tr(A dF/dx)`` for one symmetric ``matrix`` A ``(d, d)`` common to all rows.

        Returns:
            Shapes ``b 1 *event`` and ``b``.
        """
        m1, c1, m2, c2 = self._modulation(log_snr, condition)
        z1 = c1 + m1 * self.first(features.flatten(1))
        z2 = c2 + m2 * self.second(silu(z1))
        value = self.third(silu(z2)).reshape(features.shape)
        inner = self.first.weight @ matrix.to(features.dtype) @ self.third.weight
        kernel = self.second.weight * inner.T
        trace = (_silu_slope(z2) * m2 * ((_silu_slope(z1) * m1) @ kernel.T)).sum(1)
        return value, trace

    def _modulation(self, log_snr: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        m1, c1, m2, c2 = self.modulation(self.embedding(log_snr, condition)).chunk(4, 1)
        return 1.0 + m1, c1, 1.0 + m2, c2


def _silu_slope(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1.0 + x * (1.0 - gate))


def takes_convolutions(event_shape: Sequence[int]) -> bool:
    """Whether rows of a shape get a convolutional network: images ``(c, h, w)`` whose sides are even and at least 4.

    Example:
        >>> takes_convolutions((1, 8, 8)), takes_convolutions((1, 7, 7)), takes_convolutions((64,))
        (True, False, False)
    """
    return len(event_shape) == 3 and all(side % 2 == 0 and side >= 4 for side in event_shape[1:])


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
        inputs: number f of feature maps.
        outputs: number o of output maps.
        width: channels at full resolution.
        deep_width: channels at half resolution.
        blocks: residual blocks on each side at full resolution.
        deep_blocks: residual blocks at half resolution.
        dropout: rate of channel dropout inside the blocks.
        classes: see :class:`Embedding`.
        condition_dim: see :class:`Embedding`.

    Example:
        >>> network = ConvNetwork((1, 8, 8), inputs=2, width=8, deep_width=16)
        >>> network(torch.zeros(3), torch.ones(3, 2, 1, 8, 8), None).shape
        torch.Size([3, 1, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        inputs: int = 1,
        outputs: int = 1,
        width: int = 24,
        deep_width: int = 64,
        blocks: int = 1,
        deep_blocks: int = 2,
        dropout: float = 0.0,
        classes: int = 0,
        condition_dim: int = 0,
    ) -> None:
        super().__init__()
        c, height, breadth = event_shape
        self.outputs = outputs
        self.embedding = Embedding(64, classes=classes, condition_dim=condition_dim)
        self.enter = nn.Conv2d(inputs * c, width, 3, padding=1)
        self.position = nn.Parameter(0.3 * torch.randn(1, width, height, breadth))
        self.label_position = LabelMaps(classes, (width, height, breadth), scale=LABEL_SCALE)
        self.enter_condition = ConditionMap(condition_dim, width) if condition_dim else None
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
