r"""A score-matching loss over random times: a training loss, and with the likelihood's weight the bound itself.

With :math:`\lambda(t)` the weight of the squared error of the noise prediction per unit of time,

.. math::
    \int \lambda(t)\, \sigma^2 \mathrm{SM}(t)\, dt = \int \lambda\, \tfrac{\sigma^2}{g^2}\, \sigma^2 \mathrm{SM}\, dl,

so the likelihood's :math:`\lambda = g^2/\sigma^2` (``weighting=None``) weighs log-SNR evenly, whatever the process.
Only with it are the loss's constants, the prior term and the residual at the data end added: its value is then minus
the bound of :func:`girsanov.elbo`, in nats, for every loss and every law of times (note of paper 1, section 2.6).
"""

__all__ = ["ScoreMatchingObjective", "Weighting", "fit_times", "uniform_weight"]

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from girsanov.calculus import expand_as_rows
from girsanov.inputs import checked
from girsanov.objectives.denoising import Batch
from girsanov.objectives.score_matching import DenoisingScoreMatching, Matching, Noised
from girsanov.objectives.times import ATOM, TimeLaw, low_discrepancy
from girsanov.pairs import ScorePair
from girsanov.processes import LinearProcess
from girsanov.randomness import keyed_generators, keyed_normal, keyed_rademacher, keyed_uniform, seed_of, source_of
from girsanov.rows import condition_at, conditions_for, row_blocks
from girsanov.solvers import LogSNRDensity
from girsanov.types import Estimate, InputError, Nats, State

CHUNK = 512  # evaluations per call, fixed so that a row's value does not depend on the number of rows

#: ``t -> lambda(t)``, shape ``b``: the weight of the squared error of the noise prediction per unit of time
Weighting = Callable[[Tensor], Tensor]


def uniform_weight(t: Tensor) -> Tensor:
    """The unweighted noise loss: with uniform times DDPM's simple loss, no bound of anything."""
    return torch.ones_like(t)


class ScoreMatchingObjective(nn.Module):
    """Score matching over random times, ``loss(pair, batch, generator, step) -> b``.

    Args:
        matching: the loss; default denoising score matching.
        weighting: ``None`` for the likelihood's weight, else a function of time.
        times: law of times; default uniform in log-SNR over the score's range, with the residual.
        draws: ``(count, generator) -> positions``: :func:`low_discrepancy` or :func:`independent`.

    Raises:
        InputError: if the law of times misses the residual that the likelihood's weight asks for; at a call, if it
            does not span the pair's log-SNR range, or if the pair knows neither the prior there nor a reference.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.processes import VariancePreserving
        >>> pair = ScorePair(Gaussian(torch.zeros(2), 1.0).score(VariancePreserving()))
        >>> ScoreMatchingObjective()(pair, Batch(torch.zeros(4, 2)), torch.Generator().manual_seed(0)).shape
        torch.Size([4])
    """

    def __init__(
        self,
        matching: Matching | None = None,
        *,
        weighting: Weighting | None = None,
        times: TimeLaw | None = None,
        draws: Callable[[int, torch.Generator | None], Tensor] = low_discrepancy,
    ) -> None:
        super().__init__()
        self.matching = matching or DenoisingScoreMatching()
        self.weighting, self.times, self.draws = weighting, times, draws
        if times is not None and weighting is None and not times.atom > 0.0:
            raise InputError(
                "The law of times must have an atom for the residual, which the likelihood's weight asks for"
            )

    def forward(self, pair: ScorePair, batch: Batch, generator: torch.Generator | None = None, step: int = 0) -> Nats:
        """Loss of every row, shape ``b``, float64: minus the bound in nats where the weight is the likelihood's.

        Differentiable in the score's parameters and in ``batch.x``, so that a dequantiser can be trained by it too.
        """
        del step
        generator = source_of(generator)
        x = batch.x.to(pair.dtype(batch.x))
        times = self._times(*pair.log_snr_range)
        levels, weights, at_end = (part.to(x.device) for part in times.quantile(self.draws(len(x), generator)))
        eps = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        at = self._noised(x, levels, eps, batch.condition, generator)
        if self.weighting is not None:
            return self._level_weight(pair.process, levels, at_end) * weights * self.matching.loss(pair, at)
        values = self.matching.loss(pair, at) + self.matching.constant(at)
        return weights * values - _closed_form(pair, batch.x, eps)

    @checked
    def bound(
        self,
        pair: ScorePair,
        x: State,
        *,
        samples: int = 32,
        replicates: int = 8,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """The bound that this loss is, per row, by randomised systematic grids of its law of times.

        Args:
            pair: the model.
            x: rows ``n *d``.
            samples: evaluations of the loss per row, rounded down to a multiple of ``replicates``.
            replicates: independent replicates among which the samples are divided.
            condition: passed on to the score, leading dimension ``n`` or 1.
            generator: read once for a seed; ``None`` means seed 0.

        Returns:
            Estimate of model ``sde`` and kind ``lower_bound`` (``estimate`` for explicit score matching, which is a
            bound in the mean over data only), with terms ``prior`` and ``matching``.

        Raises:
            InputError: if the loss is reweighted: a reported number may not be.
        """
        if self.weighting is not None:
            raise InputError("A reweighted loss is no likelihood bound: leave weighting out")
        count = min(replicates, samples)
        grid = _Grid(self, pair, self._times(*pair.log_snr_range), count, samples // count, seed_of(generator))
        rows = max(1, CHUNK // (grid.replicates * grid.points))
        parts = []
        with torch.no_grad():
            for index, count in row_blocks(len(x), rows, x.device):
                given = condition_at(condition, index)
                parts.append([part[:count] for part in grid.evaluate(x[index], given)])
        prior, matched = (torch.cat([part[k] for part in parts]).T for k in (0, 1))
        return Estimate.from_replicates(
            prior + matched,
            kind=self.matching.kind,
            model="sde",
            nfe=grid.replicates * grid.points * self.matching.cost(x[0].numel()),
            event_dim=x[0].numel(),
            log_snr_range=pair.log_snr_range,
            terms={"prior": prior.mean(0), "matching": matched.mean(0)},
        )

    def _times(self, low: float, high: float) -> TimeLaw:
        """The law of times over the range where a score is known."""
        if self.times is None:
            return LogSNRDensity.uniform(low, high, atom=ATOM if self.weighting is None else 0.0)
        _require_cover(self.times, (low, high))
        return self.times

    def _noised(
        self,
        x: State,
        levels: Tensor,
        eps: State,
        condition: Tensor | None,
        generator: torch.Generator | None,
    ) -> Noised:
        signs = None
        if self.matching.probes:
            shape = (self.matching.probes, *x.shape)
            signs = torch.randint(2, shape, generator=generator).to(x) * 2.0 - 1.0
        return Noised(levels, _mix(levels, x, eps), eps, signs, condition)

    def _level_weight(self, process: LinearProcess, levels: Tensor, at_end: Tensor) -> Tensor:
        """The weight per unit of log-SNR; nothing at the atom, which is the bound's residual."""
        assert self.weighting is not None
        t = process.time(levels)
        _, g2 = process.rates(t)
        _, sigma = process.marginal_at(levels)
        return torch.where(at_end, 0.0, self.weighting(t) * sigma.square() / g2)


@dataclass(frozen=True)
class _Grid:
    """Keyed draws of the objective's integrand: R replicates of K points for every row."""

    objective: ScoreMatchingObjective
    pair: ScorePair
    times: TimeLaw
    replicates: int
    points: int
    seed: int

    def evaluate(self, rows: State, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Closed-form and sampled part of every replicate, each ``b r``."""
        matching = self.objective.matching
        generators = keyed_generators(self.seed, "score-matching", rows)
        offset = keyed_uniform(generators, (self.replicates, 1), rows)
        positions = (torch.arange(self.points, device=rows.device) + offset) / self.points
        levels, weights, _ = (part.flatten() for part in self.times.quantile(positions))
        like = rows.new_empty(0, dtype=self.pair.dtype(rows))
        count = self.replicates * self.points
        eps = keyed_normal(generators, (count, *rows.shape[1:]), like).flatten(0, 1)
        signs = None
        if matching.probes:
            signs = keyed_rademacher(generators, (count, matching.probes, *rows.shape[1:]), like)
            signs = signs.flatten(0, 1).transpose(0, 1)
        x = rows.to(like.dtype).repeat_interleave(count, 0)
        given = conditions_for(condition, len(rows), count)
        at = Noised(levels, _mix(levels, x, eps), eps, signs, given)
        values = weights * (matching.loss(self.pair, at) + matching.constant(at))
        wide = rows.repeat_interleave(count, 0)
        shape = (len(rows), self.replicates, self.points)
        closed = _closed_form(self.pair, wide, eps)
        return closed.reshape(shape).mean(2), -values.reshape(shape).mean(2)


@checked
@torch.no_grad()
def fit_times(
    matching: Matching,
    pair: ScorePair,
    x: State,
    *,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
    levels: int = 48,
) -> LogSNRDensity:
    """The law of times proportional to the size of a loss, measured on held-out rows: the least variance of its mean.

    It spans the pair's log-SNR range.

    Args:
        matching: the loss.
        pair: the model.
        x: rows ``n *d``; some hundred suffice.
        condition: see :meth:`ScoreMatchingObjective.bound`.
        generator: source of the noise; ``None`` means seed 0.
        levels: number of levels at which the loss is measured.
    """
    low, high = pair.log_snr_range
    x, generator = x.to(pair.dtype(x)), source_of(generator)
    objective = ScoreMatchingObjective(matching, weighting=uniform_weight)
    grid = torch.linspace(low, high, levels, dtype=torch.float64, device=x.device)
    sizes = []
    for level in grid:
        eps = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        at = objective._noised(x, level.expand(len(x)), eps, condition, generator)
        sizes.append((matching.loss(pair, at) + matching.constant(at)).square().mean().sqrt())
    return LogSNRDensity.from_sizes(low, high, grid.cpu(), torch.stack(sizes).cpu(), end_size=float(sizes[-1]))


def _closed_form(pair: ScorePair, x: State, eps: State) -> Nats:
    """Everything of the bound that is free of the score: the prior term plus d log alpha at the noise end, ``b``.

    ``eps`` serves only priors whose expected log-density is not closed form.
    """
    low = torch.tensor(pair.log_snr_range[0], dtype=torch.float64, device=x.device)
    alpha, sigma = pair.process.marginal_at(low)
    expected = getattr(pair.prior, "expected_log_prob", None)
    if expected is not None:
        prior = expected(alpha * x.double(), sigma.square())
    else:
        prior = pair.prior.log_prob(alpha * x.double() + sigma * eps.double())
    return prior + x[0].numel() * alpha.log()


def _mix(levels: Tensor, x: State, eps: State) -> State:
    """Variance-preserving states."""
    alpha, sigma = torch.sigmoid(levels).sqrt(), torch.sigmoid(-levels).sqrt()
    return expand_as_rows(alpha, x) * x + expand_as_rows(sigma, x) * eps


def _require_cover(times: TimeLaw, span: tuple[float, float]) -> None:
    """A law that misses part of the integral would estimate another number."""
    ends, _, _ = times.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64))
    if not torch.allclose(ends, torch.tensor(span, dtype=torch.float64), rtol=0.0, atol=1e-6):
        raise InputError(
            f"The law of times must span the log-SNR range {span} where the score is known: "
            "make it of a process with that log_snr_range, or with fit_times"
        )
