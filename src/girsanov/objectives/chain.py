r"""The negative bound of a chain, trained through its own simulated paths.

With a learned encoder the state :math:`x_k` depends on every earlier step, so the gradient is that of fresh,
reparameterised paths, all the way along them (note of paper 1, section 2.9; note of paper 3, section 2.9 J):

.. math::
    \mathrm{loss}(x) = -\tfrac1d \log w(x, \varepsilon), \qquad E[\log w] \le \log p_{\mathrm{chain}}(x).

Memory is that of all steps, or with ``checkpoint`` that of one step at twice the time.
"""

__all__ = ["ChainObjective"]

import torch
from torch import Tensor

from girsanov.objectives.denoising import Batch, DequantisedLoss
from girsanov.pairs import Chain
from girsanov.randomness import normal_blocks
from girsanov.transforms import Transform


class ChainObjective(DequantisedLoss):
    """Negative log-weight per dimension of one encoder path per row, ``loss(chain, batch, generator, step) -> b``.

    Args:
        transform: from data units to the chain's space, drawing afresh at every step; default none.
        checkpoint: keep only the states of a path in memory.

    Example:
        >>> from girsanov.densities import StandardNormal
        >>> from girsanov.pairs import EulerChain, Pair
        >>> from girsanov.processes import OrnsteinUhlenbeck
        >>> process = OrnsteinUhlenbeck(2.0)
        >>> pair = Pair(process, lambda t, x: -process.drift(t, x), StandardNormal(), event_shape=(2,))
        >>> batch, generator = Batch(torch.zeros(5, 2)), torch.Generator().manual_seed(0)
        >>> ChainObjective()(EulerChain(pair, 8), batch, generator, 0).shape
        torch.Size([5])
    """

    def __init__(self, transform: Transform | None = None, *, checkpoint: bool = False) -> None:
        super().__init__(transform)
        self.checkpoint = checkpoint

    def forward(self, chain: Chain, batch: Batch, generator: torch.Generator, step: int) -> Tensor:
        """Loss of every row of ``batch``, shape ``b``."""
        del step
        x = self.rows(batch.x, generator)
        x = x if self.transform == [None] else x.to(torch.get_default_dtype())
        noise = normal_blocks(x, generator)
        weights = chain.log_weights(x, noise, condition=batch.condition, checkpoint=self.checkpoint)
        return -weights / x[0].numel()
