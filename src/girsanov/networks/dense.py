r"""Networks conditioned on log-SNR: residual MLP, two-hidden-layer family with closed-form divergence, ensembles.

All share one convention: ``network(log_snr, features, condition)`` maps f feature maps of the event, shape
``b f *event``, to o maps, shape ``b o *event``; the last layer starts at zero. Features arrive with unit scale
at every log-SNR, so nothing here normalises or knows about noise.
"""

__all__ = ["Ensemble", "ResidualMLP", "TwoLayerNetwork"]

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from girsanov.networks.conditioning import LABEL_SCALE, Embedding, LabelMaps, Signature, condition_map, modulate


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
        signature: numbers of maps, and what the condition is.
        width: width of the residual stream.
        blocks: number of residual blocks.
        dropout: rate inside the blocks.

    Example:
        >>> network = ResidualMLP((5,), width=16, blocks=1)
        >>> network(torch.zeros(3), torch.ones(3, 1, 5), None).shape
        torch.Size([3, 1, 5])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        signature: Signature = Signature(),  # noqa: B008  (a frozen value)
        *,
        width: int = 256,
        blocks: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        d = math.prod(event_shape)
        self.outputs = outputs = signature.outputs
        self.embedding = Embedding(64, signature)
        self.enter = nn.Linear(signature.inputs * d, width)
        self.enter_label = LabelMaps(signature.classes, (width,), scale=LABEL_SCALE)
        self.enter_condition = condition_map(signature, width)
        self.blocks = nn.ModuleList(_Block(width, width, 64, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, outputs * d)
        self.leave_label = LabelMaps(signature.classes, (outputs * d,), scale=0.0)
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
        signature: what the condition is; one map in, one out.
        width: width of both hidden layers.

    Example:
        >>> network = TwoLayerNetwork((5,), width=16)
        >>> network(torch.zeros(3), torch.ones(3, 1, 5), None).shape
        torch.Size([3, 1, 5])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        signature: Signature = Signature(),  # noqa: B008  (a frozen value)
        *,
        width: int = 256,
    ) -> None:
        super().__init__()
        d = math.prod(event_shape)
        self.embedding = Embedding(64, signature)
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
