r"""Second and third order in few evaluations: steps of a Gaussian about each row that is fitted to its own last two.

Near a row the law of the data is taken to be :math:`N(M, C)`, :math:`C = cS + eI` with the covariance S of the
reference. Under it, with s the score and :math:`\hat x` the denoised point in :math:`y = x_t/\alpha`,
:math:`v = e^{-l}`,

.. math::
    M = \hat x + C s, \qquad (c, e) = \arg\min_{c, e \ge 0} \|\Delta\hat x + (cS + eI)\, \Delta s\|^2,

where differences are those of the last two evaluations: c is 1 and e is 0 where the model is its reference, both are 0
where the denoised point stands still, as it does for noise between two scales that are far apart, and e is the variance
of a component of the data. That Gaussian's step is exact. In its own logarithm of noise, :math:`\tau = -\log(C + v)`,
the generative process of the family is :math:`dy = \kappa (M - y)\, d\tau` and noise, :math:`\kappa = 1 - \lambda/2`,
so that a change of M enters as in every exponential integrator,

.. math::
    y' = y + (1 - \rho)(M - y)
         + \kappa \int_\tau^{\tau'} e^{-\kappa (\tau' - u)} \big(M(u) - M\big)\, du,
    \qquad \rho = e^{-\kappa (\tau' - \tau)},

with M(u) the polynomial through the last values, all of them with the present C: order 2 or 3 for the ODE whatever C
is, at one evaluation a step. With C = 0 it is DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095).

A row that falls into a finer scale has a C that falls from step to step, and the next is smaller than what the last two
evaluations say: where C fell by a factor f, it is taken to fall by f squared on the way to the step's end.

Three things keep long steps in bounds. The polynomial's share falls with the length h of a step in :math:`\tau`, as
:math:`\exp(-(h/2.5)^4)`: within a few units of log-SNR a scale is resolved, and what came before says nothing of what
comes after. Of the ODE's line only as much is taken as the line before would have explained of the last change, which
is all of it but for a term of the first order in h. Of the SDE's members only :math:`(1 + \lambda)/2` is taken: a part
of what changed was noise.
"""

__all__ = ["Multistep"]

from collections import deque
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal, final

import torch
from torch import Tensor

from girsanov.calculus import expand_as_rows, sum_event
from girsanov.densities import Gaussian
from girsanov.pairs.ancestral import AncestralChain, denoising_density
from girsanov.pairs.paths import Noise
from girsanov.pairs.score_pair import ScorePair
from girsanov.pairs.steps import GaussianKernel, Move
from girsanov.types import InputError, State, require_count

APART = 1e-3  # squared sine between the changes of both shapes, below which they are one
REACH = 2.5  # log-SNR over which a row's past tells something of what follows
EVEN, BROAD = 0.3, 5  # share of even spacing in log-SNR beyond so many evaluations, which the law's broad shape takes
MARGIN = 0.5  # share of a step between the last level and the range's data end; as much at the noise end


@final
class Multistep:
    """A sampler of few evaluations, whose steps remember the row's earlier ones: no Markov chain, without densities.

    Levels are at equal shares of the reference's denoising, in the middle of each, and the more of them there are, the
    farther they are moved towards even spacing up to the data end, for scales finer than the reference's. With a
    reference the first step, from the prior, is the reference's own and needs no evaluation; without one it starts with
    an evaluation at the noise end.

    Args:
        pair: the model; without a reference, rows start from a still denoised point, and S is 1.
        steps: number of steps; as of :class:`girsanov.AncestralChain`, the residual decoder is one evaluation more.
        lmbd: member of the family of samplers, at most 1.
        order: 2 or 3.
        to_end: whether the last evaluation is at the range's data end itself, which with few steps leaves a long one
            before it: for what is to be the denoised point there.

    Raises:
        InputError: for another order, or ``lmbd`` above 1.
    """

    def __init__(self, pair: ScorePair, steps: int, *, lmbd: float = 0.0, order: int = 2, to_end: bool = False) -> None:
        if order not in (2, 3):
            raise InputError(f"order must be 1, 2 or 3; got {order}")
        count, leads = require_count("steps", steps) + 1, pair.reference is not None
        before, after = (MARGIN if left else 0.0 for left in (leads, not to_end))
        places = (torch.arange(count, dtype=torch.float64) + before) / (count - 1 + before + after)
        levels, _, _ = denoising_density(pair).quantile(places)
        even = levels[0] + (pair.log_snr_range[1] - levels[0]) * (places - places[0]) / (1.0 - places[0])
        levels = levels.lerp(even, EVEN * max(1.0 - BROAD / count, 0.0))
        if leads:
            levels = torch.cat([levels.new_tensor([pair.log_snr_range[0]]), levels])
        self.chain = AncestralChain(pair, len(levels) - 1, lmbd=lmbd, levels=levels.flip(0))
        self.order, self.leads = order, leads
        self.share = max(0.5 * (1.0 + lmbd), 0.0)

    @property
    def length(self) -> int:
        """Number of moves."""
        return self.chain.length

    def sample_prior(self, n: int, generator: torch.Generator) -> State:
        """Draw y at the noise end."""
        return self.chain.sample_prior(n, generator)

    def walk(
        self,
        x: State,
        noise: Noise,
        direction: Literal["backward"] = "backward",
        *,
        condition: Tensor | None = None,
        still: Container[int] = (),
    ) -> Iterator[Move]:
        """The chain's walk to the data, by the steps of this sampler."""
        law = self.chain.reference
        law = law if law is not None else Gaussian(torch.zeros(x.shape[1:]), 1.0).to(x.device)
        decode = partial(self._decode, law, deque(maxlen=3), deque(maxlen=2))
        return self.chain.walk(x, noise, direction, condition=condition, still=still, decode=decode)

    def _decode(
        self,
        law: Gaussian,
        past: "deque[_Point]",
        fits: "deque[_Local]",
        k: int,
        x: State,
        condition: Tensor | None,
    ) -> GaussianKernel:
        """The step from v_{k+1} to v_k, given the row's own evaluations before."""
        chain = self.chain
        if self.leads and k == chain.length - 1:
            pull, scale = chain.gaussian_step(k, x, law)
            return GaussianKernel(pull, scale, chain.decoder_log_variance[k])
        now = self._evaluated(law, k, x, condition)
        own = _Local.like(x, float(self.leads))
        if past:
            fits.append(_Local.between(law, past[-1], now))
            own = fits[-1].fallen(fits[0], law)
        past.append(now)
        means = [point.denoised + law.spectral(point.score, own) for point in past]
        pull, scale = chain.gaussian_step(k, x - means[-1], law, own)
        if k and len(past) > 1:
            pull = pull + self._drift(law, k, [point.v for point in past], means, own)
        return GaussianKernel(pull, scale, chain.decoder_log_variance[k])

    def _evaluated(self, law: Gaussian, k: int, x: State, condition: Tensor | None) -> "_Point":
        """The network's answer, without the cancellation that a score at much noise has."""
        v, correction = self.chain.variance(k + 1), self.chain.correction(k, x, condition)
        if not self.leads:
            return _Point(v, x + correction, correction / v.to(x.dtype))
        centred = x - law.mean.to(x.dtype)
        own = law.spectral(centred, lambda s: s / (s + v))
        score = correction / v.to(x.dtype) - law.spectral(centred, lambda s: 1.0 / (s + v))
        return _Point(v, own + correction, score)

    def _drift(self, law: Gaussian, k: int, v: list[Tensor], means: list[State], local: "_Local") -> State:
        """What the polynomial through the last means adds to the step, by their differences."""
        power, following = 1.0 - 0.5 * self.chain.lmbd, self.chain.variance(k)

        def factor(which: int, s: Tensor) -> Tensor:
            """Of the difference before the last (1) or the one before that (2)."""
            own = local(s)
            h = torch.log1p((v[-1] - following) / (own + following))
            places = [-torch.log1p((before - v[-1]) / (own + v[-1])) / h for before in reversed(v[:-1])]
            first, second = _weight(power * h, 1), 0.0
            if len(places) == 2:
                second = (_weight(power * h, 2) - places[0] * first) / -places[1]
            found = -second / (places[0] - places[1]) if which == 2 else (first + second) / -places[0]
            return self.share * torch.exp(-((h / REACH) ** 4)) * found

        changes = [after - before for before, after in pairwise(means)]
        foreseen = 1.0
        if self.order == 2 and len(changes) == 2:
            foreseen = _foreseen(law, local, v, changes) if self.chain.lmbd == 1.0 else foreseen
            changes, v = changes[1:], v[1:]
        parts = [law.spectral(change, partial(factor, j + 1)) for j, change in enumerate(reversed(changes))]
        return foreseen * (parts[0] if len(parts) == 1 else parts[0] + parts[1])


@dataclass(frozen=True)
class _Point:
    """An evaluation: level of noise, denoised point (less the reference's mean) and score."""

    v: Tensor
    denoised: State
    score: State


@dataclass(frozen=True)
class _Local:
    """Variances of the Gaussian about each row: ``c`` times the reference's and ``e`` in all directions, ``b 1``."""

    c: Tensor
    e: Tensor

    def __call__(self, s: Tensor) -> Tensor:
        return self.c * s + self.e

    def fallen(self, before: "_Local", law: Gaussian) -> "_Local":
        """What it will be at the end of the next step, if it goes on as since the one before; it does not rise."""
        mean = law.spectrum().mean().to(self.c.device)
        fall = (self(mean) / before(mean)).nan_to_num(1.0).clamp(max=1.0).square()
        return _Local(fall * self.c, fall * self.e)

    @classmethod
    def like(cls, x: State, c: float) -> "_Local":
        """The same for all rows."""
        zeros = torch.zeros(len(x), 1, dtype=torch.float64, device=x.device)
        return cls(zeros + c, zeros)

    @classmethod
    def between(cls, law: Gaussian, before: _Point, now: _Point) -> "_Local":
        """Of least squares, neither negative, for the change of the denoised point by that of the score."""
        target = (now.denoised - before.denoised).double()
        plain = (before.score - now.score).double()
        shaped = law.spectral(plain, lambda s: s)
        aa, bb, ab = (sum_event(p * q) for p, q in ((shaped, shaped), (plain, plain), (shaped, plain)))
        at, bt = sum_event(shaped * target), sum_event(plain * target)
        det = aa * bb - ab.square()
        alone_c, alone_e = ((f / square).nan_to_num(0.0).clamp_min(0.0) for f, square in ((at, aa), (bt, bb)))
        c, e = (bb * at - ab * bt) / det, (aa * bt - ab * at) / det
        shape_only = ~(det > APART * aa * bb) | (e < 0.0)
        flat_only = ~shape_only & (c < 0.0)
        c = torch.where(shape_only, alone_c, torch.where(flat_only, torch.zeros_like(c), c))
        e = torch.where(shape_only, torch.zeros_like(e), torch.where(flat_only, alone_e, e))
        return cls(c[:, None], e[:, None])


def _foreseen(law: Gaussian, local: _Local, v: list[Tensor], changes: list[State]) -> Tensor:
    """What share of the last change, from 0 to 1, the one before would have foretold by its rate: ``b 1 ...``."""

    def longer(s: Tensor) -> Tensor:
        own = local(s)
        return torch.log1p((v[1] - v[2]) / (own + v[2])) / torch.log1p((v[0] - v[1]) / (own + v[1]))

    guess = law.spectral(changes[0], longer)
    square = sum_event(guess.double().square())
    found = (sum_event((guess * changes[1]).double()) / square).clamp(0.0, 1.0)
    return expand_as_rows(torch.where(square > 0.0, found, 1.0), guess).to(guess.dtype)


def _weight(x: Tensor, power: int) -> Tensor:
    r""":math:`x \int_0^1 e^{-x(1 - u)} u^p\, du` of p = 1 or 2, by its series where the closed form cancels."""
    small = x < 0.1
    safe = torch.where(small, torch.ones_like(x), x)
    closed = 1.0 + torch.expm1(-safe) / safe
    if power == 2:
        closed = 1.0 - 2.0 * closed / safe
    term = x / (power + 1)
    series = term
    for j in range(1, 9):
        term = -term * x / (power + 1 + j)
        series = series + term
    return torch.where(small, series, closed)
