r"""Sampling the generative process: reverse SDE, probability-flow ODE, and the family between and beyond.

The plug-in generator with parameter :math:`\lambda \le 1` has drift :math:`f - (1 - \lambda/2) g^2 s` and diffusion
:math:`\sqrt{1 - \lambda}\, g` (note of paper 1, section 2.8): the reverse SDE at 0, the ODE at 1. Its steps are of
second order (:class:`girsanov.pairs.Multistep`): around each row the law is a Gaussian fitted to the row's last two
evaluations, which is integrated exactly, and what is left is extrapolated in log-SNR. Steps that remember have no
density; with ``order=1`` they are those of :class:`girsanov.AncestralChain`, so that :func:`girsanov.chain_elbo` bounds
the density of what is drawn here: the Gaussian reference is integrated exactly, and the network's correction of the
denoised point is held fixed over a step. A model that equals its reference is sampled exactly in any number of steps of
any order; without a reference the step of order 1 is DDPM's posterior at 0 and DDIM's at 1. The last step is the
decoder's: its draw, or its mean.

Along the path of the reverse SDE the log-density follows without divergences (note of paper 2, section 2.8). In
:math:`y = x_t / \alpha` with :math:`v = \sigma^2/\alpha^2` the forward process is Brownian, so Ito's formula leaves
:math:`d \log q = s \cdot dY - \tfrac12 \|s\|^2 dv`; the same holds for the reference with :math:`s_G`, whose density is
known, and with :math:`\Delta s = s - s_G` only

.. math::
    \log \frac{q_{v'}(y')}{q_v(y)} = \log \frac{n_{v'}(y')}{n_v(y)}
      + \Delta s \cdot (y' - y) - \tfrac12 (v - v')\, \Delta s \cdot (s + s_G)

is discretised: exact for a model that equals its reference, of strong order 1/2 in the number of steps otherwise.
"""

__all__ = ["sample", "sample_with_log_prob"]

from collections import deque
from collections.abc import Container, Iterable, Iterator

import torch
from torch import Tensor

from girsanov.calculus import sum_event
from girsanov.inputs import checked
from girsanov.pairs import AncestralChain, GaussianKernel, Move, Multistep, ScorePair
from girsanov.randomness import normal_blocks, source_of
from girsanov.rows import condition_at
from girsanov.types import Estimate, Nats, State

CHUNK = 1024


@checked
@torch.no_grad()
def sample(
    pair: ScorePair,
    n: int,
    *,
    lmbd: float = 0.0,
    steps: int = 128,
    order: int = 2,
    denoise: bool = False,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> State:
    r"""Draw from the generative process.

    Args:
        pair: the model; its reference is integrated exactly. Where no law of it knows the shape of a row, give it
            ``event_shape``.
        n: number of rows.
        lmbd: member of the family, at most 1: 0 the reverse SDE, 1 the ODE, below 0 more noise.
        steps: number of steps; there is one network evaluation for each, and one for the decoder.
        order: 2, or 3 where steps are many; 1 are the steps of :class:`girsanov.AncestralChain`, a Markov chain with a
            density.
        denoise: end with the decoder's mean instead of its draw.
        condition: leading dimension ``n`` or 1.
        generator: source of all draws; ``None`` means seed 0.

    Returns:
        Rows ``n *d`` in data coordinates.

    Raises:
        InputError: for ``lmbd`` above 1, an order that is none of these, or a process that needs a prior and has none.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.processes import VariancePreserving
        >>> pair = ScorePair(Gaussian(torch.tensor([3.0, -3.0]), 0.01).score(VariancePreserving()))
        >>> sample(pair, 500, steps=16).mean(0).round(decimals=1)
        tensor([ 3., -3.], dtype=torch.float64)
    """
    if order == 1:
        chain = AncestralChain(pair, steps, lmbd=lmbd)
    else:
        chain = Multistep(pair, steps, lmbd=lmbd, order=order, to_end=denoise)
    still = {*(() if lmbd < 1.0 else range(1, chain.length)), *((0,) if denoise else ())}  # steps without noise
    ends = (deque(moves, maxlen=1)[0].after for _, moves in _walks(chain, n, condition, generator, still))
    return torch.cat(list(ends))


@checked
@torch.no_grad()
def sample_with_log_prob(
    pair: ScorePair,
    n: int,
    *,
    steps: int = 1024,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[State, Estimate]:
    r"""Draw from the reverse SDE, with the log-density of every row from its own path at no further cost.

    The rows are those of :func:`sample` with ``lmbd=0, order=1`` and the same generator. Only rows drawn here have
    such a value; for given rows use a likelihood.

    Args:
        pair: the model; its reference is integrated exactly. Where no law of it knows the shape of a row, give it
            ``event_shape``.
        n: number of rows.
        steps: number of steps; the error of the value falls with its square root.
        condition: leading dimension ``n`` or 1.
        generator: source of all draws; ``None`` means seed 0.

    Returns:
        Rows ``n *d`` in data coordinates, and an estimate of kind ``estimate``, model ``sde``. Its standard
        error is that of the discretisation, from the change of the score over each step; how far an imperfect
        score is from that of the density it generates is not in it.

    Raises:
        InputError: for a process that needs a prior and has none.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.processes import VariancePreserving
        >>> process, law = VariancePreserving(), Gaussian(torch.tensor([3.0, -3.0]).double(), 0.01)
        >>> pair = ScorePair(law.score(process), prior=law.marginal(process, 1.0))
        >>> x, estimate = sample_with_log_prob(pair, 5, steps=16)
        >>> torch.allclose(estimate.value, law.log_prob(x)), estimate.kind
        (True, 'estimate')
    """
    chain = AncestralChain(pair, steps)
    ends = (_log_density(chain, start, moves) for start, moves in _walks(chain, n, condition, generator))
    x, value, variance = (torch.cat(column) for column in zip(*ends, strict=True))
    return x, Estimate(
        value,
        variance.sqrt(),
        kind="estimate",
        model="sde",
        nfe=chain.length,
        event_dim=x[0].numel(),
        log_snr_range=pair.log_snr_range,
    )


def _log_density(chain: AncestralChain, start: State, moves: Iterable[Move]) -> tuple[State, Nats, Nats]:
    """Last states of paths of the reverse SDE, their log-density by the reference's, and the variance of its error."""
    x, law, previous = start, chain.reference, None
    value = variance = start.new_zeros(len(start), dtype=torch.float64)
    for move in moves:
        assert isinstance(move.kernel, GaussianKernel)
        assert move.kernel.pull is not None
        v = chain.variance(move.k + 1)
        h = v - chain.variance(move.k)
        excess = move.kernel.pull.double() / v  # what the score has beyond the reference's
        both = excess  # the score and the reference's, added
        if law is not None:
            both = excess - 2.0 * law.spectral(x.double() - law.mean, lambda s, v=v: 1.0 / (s + v))
        value = value + sum_event(excess * ((move.after - x).double() - 0.5 * h * both))
        if previous is not None:
            # the discarded iterated integral has variance h^2 |grad s|^2 / 2, and |s' - s|^2 is about h |grad s|^2
            before, width = previous
            variance = variance + 0.5 * h.square() / width * sum_event((excess - before).square())
        x, previous = move.after, (excess, h)
    value = chain.log_prior(start) + value
    if law is not None:
        noised = law.diffused(1.0, chain.variance(chain.length).sqrt())
        value = value - noised.log_prob(start) + law.log_prob(x)
    return x, value, variance


def _walks(
    chain: AncestralChain | Multistep,
    n: int,
    condition: Tensor | None,
    generator: torch.Generator | None,
    still: Container[int] = (),
) -> Iterator[tuple[State, Iterator[Move]]]:
    """Rows that are drawn together: their states at the noise end, and the moves from there."""
    source = source_of(generator)
    for start in range(0, n, CHUNK):
        x = chain.sample_prior(min(CHUNK, n - start), source)
        given = condition_at(condition, slice(start, start + len(x)))
        yield x, chain.walk(x, normal_blocks(x, source), "backward", condition=given, still=still)
