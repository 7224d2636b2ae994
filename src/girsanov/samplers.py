r"""Sampling the generative process: reverse SDE, probability-flow ODE, and the family between and beyond.

The plug-in generator with parameter :math:`\lambda \le 1` has drift :math:`f - (1 - \lambda/2) g^2 s` and diffusion
:math:`\sqrt{1 - \lambda}\, g` (note of paper 1, section 2.8): the reverse SDE at 0, the ODE at 1. In
:math:`y = x_t / \alpha` with :math:`v = \sigma^2/\alpha^2` the Gaussian reference :math:`\mathcal{N}(m, S)` is
integrated exactly over a step from v to v', and the network's correction of the denoised point is held fixed:

.. math::
    y' = m + \rho\, (y - m) + \Big(1 - (v'/v)^{1 - \lambda/2}\Big) \Delta\hat x
         + \sqrt{D' (1 - (D'/D)^{1-\lambda})}\; \varepsilon,
    \qquad D = S + v, \quad \rho = (D'/D)^{1 - \lambda/2}.

A model that equals its reference is sampled exactly in any number of steps; without a reference (S -> 0 around
the denoised point) the same line is DDPM's posterior step at 0 and DDIM's at 1. The last step is the
decoder's: its draw, or its mean.

Along the path of the reverse SDE the log-density follows without divergences (note of paper 2, section 2.8). In v
the forward process is Brownian, so Ito's formula leaves :math:`d \log q = s \cdot dY - \tfrac12 \|s\|^2 dv`; the same
holds for the reference with :math:`s_G`, whose density is known, and with :math:`\Delta s = s - s_G` only

.. math::
    \log \frac{q_{v'}(y')}{q_v(y)} = \log \frac{n_{v'}(y')}{n_v(y)}
      + \Delta s \cdot (y' - y) - \tfrac12 (v - v')\, \Delta s \cdot (s + s_G)

is discretised: exact for a model that equals its reference, of strong order 1/2 in the number of steps otherwise.
"""

__all__ = ["sample", "sample_with_log_prob"]

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from girsanov.calculus import sum_event
from girsanov.densities import Density, Gaussian, StandardNormal
from girsanov.models import deviation, gaussian_reference, log_snr_range, noise_prediction, working_dtype
from girsanov.processes import LinearProcess
from girsanov.solvers import LogSNRDensity
from girsanov.types import Estimate, InputError, Nats, Score, State

CHUNK = 1024


@torch.no_grad()
def sample(
    score: Score,
    process: LinearProcess,
    n: int,
    *,
    event_shape: Sequence[int],
    lmbd: float = 0.0,
    steps: int = 128,
    prior: Density | None = None,
    reference: Gaussian | None = None,
    denoise: bool = False,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> State:
    r"""Draw from the generative process.

    Args:
        score: ``(t, x) -> grad log p_t(x)``.
        process: the forward process.
        n: number of rows.
        event_shape: shape of one row.
        lmbd: member of the family, at most 1: 0 the reverse SDE, 1 the ODE, below 0 more noise.
        steps: number of steps.
        prior: law at the noise end; default ``process.prior(reference)``.
        reference: the Gaussian that is integrated exactly; default the score's own. It also gives the last
            decoder its covariance.
        denoise: end with the decoder's mean instead of its draw.
        condition: leading dimension ``n`` or 1.
        generator: source of all draws; ``None`` means seed 0.

    Returns:
        Rows ``n *event_shape`` in data coordinates.

    Raises:
        InputError: for ``lmbd`` above 1, or a process that needs a prior and has none.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> process, law = VariancePreserving(), Gaussian(torch.tensor([3.0, -3.0]), 0.01)
        >>> sample(law.score(process), process, 500, event_shape=(2,), steps=16).mean(0).round(decimals=1)
        tensor([ 3., -3.], dtype=torch.float64)
    """
    if lmbd > 1.0:
        raise InputError(f"lmbd must be at most 1, where the diffusion vanishes; got {lmbd}")
    law = gaussian_reference(score, reference)
    prior = prior if prior is not None else process.prior(law)
    generator = generator or torch.Generator().manual_seed(0)
    stepper = _Stepper(score, process, law, lmbd, generator)
    levels = _levels(score, process, law, steps).to(_device(score))
    ends = _ends(score, prior, n, event_shape, condition, generator)
    return torch.cat([stepper.run(x_end, levels, given, denoise=denoise) for x_end, given in ends])


@torch.no_grad()
def sample_with_log_prob(
    score: Score,
    process: LinearProcess,
    n: int,
    *,
    event_shape: Sequence[int],
    steps: int = 1024,
    prior: Density | None = None,
    reference: Gaussian | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[State, Estimate]:
    r"""Draw from the reverse SDE, with the log-density of every row from its own path at no further cost.

    The rows are those of :func:`sample` with ``lmbd=0`` and the same generator. Only rows drawn here have such a
    value; for given rows use a likelihood.

    Args:
        score: ``(t, x) -> grad log p_t(x)``.
        process: the forward process.
        n: number of rows.
        event_shape: shape of one row.
        steps: number of steps; the error of the value falls with its square root.
        prior: law at the noise end; default ``process.prior(reference)``.
        reference: the Gaussian that is integrated exactly; default the score's own.
        condition: leading dimension ``n`` or 1.
        generator: source of all draws; ``None`` means seed 0.

    Returns:
        Rows ``n *event_shape`` in data coordinates, and an estimate of kind ``estimate``, model ``sde``. Its standard
        error is that of the discretisation, from the change of the score over each step; how far an imperfect
        score is from that of the density it generates is not in it.

    Raises:
        InputError: for a process that needs a prior and has none.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> process, law = VariancePreserving(), Gaussian(torch.tensor([3.0, -3.0]).double(), 0.01)
        >>> options = {"event_shape": (2,), "steps": 16, "prior": law.marginal(process, 1.0)}
        >>> x, estimate = sample_with_log_prob(law.score(process), process, 5, **options)
        >>> torch.allclose(estimate.value, law.log_prob(x)), estimate.kind
        (True, 'estimate')
    """
    law = gaussian_reference(score, reference)
    prior = prior if prior is not None else process.prior(law)
    generator = generator or torch.Generator().manual_seed(0)
    stepper = _Stepper(score, process, law, 0.0, generator)
    levels = _levels(score, process, law, steps).to(_device(score))
    alpha, _ = process.marginal_at(levels[0])
    parts = []
    for x_end, given in _ends(score, prior, n, event_shape, condition, generator):
        path = _PathDensity(law)
        start = prior.log_prob(x_end) + x_end[0].numel() * alpha.log()
        x = stepper.run(x_end, levels, given, path=path)
        parts.append((x, *path.close(start, x, levels[0])))
    x, value, variance = (torch.cat(column) for column in zip(*parts, strict=True))
    return x, Estimate(
        value,
        variance.sqrt(),
        kind="estimate",
        model="sde",
        nfe=len(levels),
        event_dim=x[0].numel(),
        log_snr_range=(float(levels[0]), float(levels[-1])),
    )


@dataclass(frozen=True)
class _Stepper:
    """One generator run: states are y = x_t / alpha."""

    score: Score
    process: LinearProcess
    law: Gaussian | None
    lmbd: float
    generator: torch.Generator

    def run(
        self,
        x_end: State,
        levels: Tensor,
        condition: Tensor | None,
        *,
        denoise: bool = False,
        path: "_PathDensity | None" = None,
    ) -> State:
        alpha, _ = self.process.marginal_at(levels[0])
        y = x_end / alpha.to(x_end.dtype)
        for level, following in pairwise(levels):
            denoised, correction = self._denoise(y, level, condition)
            y_next = self._step(y, denoised, correction, level, following)
            if path is not None:
                path.add(y, y_next, denoised, correction, torch.exp(-level), torch.exp(-following))
            y = y_next
        denoised, correction = self._denoise(y, levels[-1], condition)
        if denoise:
            return denoised
        x = self._decode(y, denoised, levels[-1])
        if path is not None:
            v = torch.exp(-levels[-1])
            path.add(y, x, denoised, correction, v, torch.zeros_like(v))
        return x

    def _decode(self, y: State, denoised: State, level: Tensor) -> State:
        v = torch.exp(-level)
        if self.law is None:
            return denoised + v.sqrt().to(y.dtype) * self._noise(y)
        return denoised + self._spectral(self._noise(y), lambda s: (s * v / (s + v)).sqrt())

    def _step(self, y: State, denoised: State, correction: State, level: Tensor, following: Tensor) -> State:
        v, v_next = torch.exp(-level), torch.exp(-following)
        power = 1.0 - 0.5 * self.lmbd
        share = (1.0 - (v_next / v) ** power).to(y.dtype)
        if self.law is None:
            mean = y + share * (denoised - y)
            spread = (v_next * (1.0 - (v_next / v) ** (1.0 - self.lmbd))).sqrt().to(y.dtype)
            return mean if self.lmbd == 1.0 else mean + spread * self._noise(y)
        m = self.law.mean.to(y.dtype)
        pull = self._spectral(y - m, lambda s: ((s + v_next) / (s + v)) ** power)
        mean = m + pull + share * correction
        if self.lmbd == 1.0:
            return mean
        return mean + self._spectral(
            self._noise(y),
            lambda s: ((s + v_next) * (1.0 - ((s + v_next) / (s + v)) ** (1.0 - self.lmbd))).sqrt(),
        )

    def _denoise(self, y: State, level: Tensor, condition: Tensor | None) -> tuple[State, State]:
        """Denoised point, and how far it lies from the reference's."""
        levels = level.expand(len(y))
        given = condition if condition is None else condition.expand(len(y), *condition.shape[1:])
        r = torch.exp(-0.5 * level).to(y.dtype)
        z = torch.sigmoid(level).sqrt().to(y.dtype) * y
        if self.law is None:
            return y - r * noise_prediction(self.score, self.process, levels, z, given), y
        noise, delta = deviation(self.score, self.process, self.law, levels, z, given)
        return y - r * (noise + delta), -r * delta

    def _spectral(self, y: State, function: Callable[[Tensor], Tensor]) -> State:
        assert self.law is not None
        return self.law.spectral(y, function)

    def _noise(self, y: State) -> State:
        return torch.randn(y.shape, generator=self.generator, dtype=y.dtype).to(y.device)


class _PathDensity:
    """The log-density along paths of the reverse SDE, relative to the reference's, and its discretisation error."""

    def __init__(self, law: Gaussian | None) -> None:
        self.law = law
        self.start: State | None = None
        self.value = self.variance = torch.zeros(())
        self.previous: tuple[State, Tensor] | None = None

    def add(self, y: State, y_next: State, denoised: State, correction: State, v: Tensor, v_next: Tensor) -> None:
        """One step from v to v'. The score is (denoised - y) / v, the reference's lacks the correction."""
        h = v - v_next
        score = (denoised - y).double() / v
        excess = correction.double() / v if self.law is not None else score
        if self.start is None:
            self.start = y
        self.value = self.value + sum_event(excess * ((y_next - y).double() - 0.5 * h * (2.0 * score - excess)))
        if self.previous is not None:
            # the discarded iterated integral has variance h^2 |grad s|^2 / 2, and |s' - s|^2 is about h |grad s|^2
            before, width = self.previous
            self.variance = self.variance + 0.5 * h.square() / width * sum_event((excess - before).square())
        self.previous = (excess, h)

    def close(self, start: Nats, x: State, level: Tensor) -> tuple[Nats, Nats]:
        """Log-density of the last states, given that of the first ones in y, and the variance of its error."""
        assert self.start is not None
        if self.law is None:
            return start + self.value, self.variance
        noised = self.law.diffused(1.0, torch.exp(-0.5 * level))
        return start - noised.log_prob(self.start) + self.law.log_prob(x) + self.value, self.variance


def _ends(
    score: Score,
    prior: Density,
    n: int,
    event_shape: Sequence[int],
    condition: Tensor | None,
    generator: torch.Generator,
) -> Iterator[tuple[State, Tensor | None]]:
    """Draws at the noise end in chunks, with their conditions; each chunk is drawn when it is asked for."""
    if condition is not None and len(condition) not in (1, n):
        raise InputError(f"condition must have leading dimension 1 or {n}; got {len(condition)}")
    for start in range(0, n, CHUNK):
        count = min(CHUNK, n - start)
        given = condition if condition is None or len(condition) == 1 else condition[start : start + count]
        x_end = _draw_prior(prior, count, event_shape, generator)
        yield x_end.to(device=_device(score), dtype=working_dtype(score, x_end)), given


def _levels(score: Score, process: LinearProcess, law: Gaussian | None, steps: int) -> Tensor:
    """Levels from the noise end to the data end, by equal shares of the reference's denoising."""
    low, high = log_snr_range(score, process)
    variances = law.spectrum() if law is not None else torch.ones(1)
    return LogSNRDensity.from_spectrum(low, high, variances, floor=0.3).nodes(steps + 1)


def _device(score: Score) -> torch.device:
    tensor = next(score.buffers(), None) if isinstance(score, torch.nn.Module) else None
    return tensor.device if tensor is not None else torch.device("cpu")


def _draw_prior(prior: Density, n: int, event_shape: Sequence[int], generator: torch.Generator) -> State:
    if isinstance(prior, StandardNormal):
        return prior.sample(n, generator=generator, event_shape=event_shape)
    return prior.sample(n, generator=generator)
