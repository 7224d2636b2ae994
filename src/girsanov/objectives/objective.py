r"""A score-matching loss over random times: a training loss, and with the likelihood's weight the bound itself.

With :math:`\lambda(t)` the weight of the squared error of the noise prediction per unit of time,

.. math::
    \int \lambda(t)\, \sigma^2 \mathrm{SM}(t)\, dt = \int \lambda\, \tfrac{\sigma^2}{g^2}\, \sigma^2 \mathrm{SM}\, dl,

so the likelihood's :math:`\lambda = g^2/\sigma^2` (``weighting=None``) weighs log-SNR evenly, whatever the process.
Only with it are the loss's constants, the prior term and the residual at the data end added: its value is then minus
the bound of :func:`girsanov.elbo`, in nats, for every loss and every law of times (note of paper 1, section 2.6);
:func:`girsanov.likelihoods.loss_bound` reports it.
"""

__all__ = ["ScoreMatchingObjective", "Weighting", "fit_times", "uniform_weight"]

from collections.abc import Callable

import torch
from torch import Tensor

from girsanov.calculus import Noised
from girsanov.inputs import checked
from girsanov.objectives.bound_loss import BoundLoss, LossDraws
from girsanov.objectives.denoising import Batch
from girsanov.objectives.score_matching import DenoisingScoreMatching, Matching
from girsanov.objectives.times import ATOM, TimeLaw, low_discrepancy
from girsanov.pairs import ScorePair
from girsanov.processes import LinearProcess
from girsanov.randomness import drawn_rows, normal_like, source_of
from girsanov.solvers import LogSNRDensity
from girsanov.types import InputError, Nats, State

#: ``t -> lambda(t)``, shape ``b``: the weight of the squared error of the noise prediction per unit of time
Weighting = Callable[[Tensor], Tensor]


def uniform_weight(t: Tensor) -> Tensor:
    """The unweighted noise loss: with uniform times DDPM's simple loss, no bound of anything."""
    return torch.ones_like(t)


class ScoreMatchingObjective(BoundLoss):
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

    blocks = 1

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
        self.kind, self.probes = self.matching.kind, self.matching.probes
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
        positions = self.draws(len(batch.x), generator)
        x = batch.x.to(pair.dtype(batch.x))
        eps = normal_like(x, generator)
        draws = LossDraws(positions, eps[None], self._signs(x, generator))
        if self.weighting is None:
            return -sum(self.terms(pair, batch.x, draws, batch.condition).values())  # type: ignore[return-value]
        at, weights, at_end = self._noised(pair, x, draws, batch.condition)
        return self._level_weight(pair.process, at.log_snr, at_end) * weights * self.matching.loss(pair, at)

    def terms(self, model: ScorePair, x: State, draws: LossDraws, condition: Tensor | None = None) -> dict[str, Nats]:
        """One draw of the bound's ``prior``, known in closed form, and of ``matching``, each ``b``.

        Raises:
            InputError: if the loss is reweighted: a reported number may not be.
        """
        if self.weighting is not None:
            raise InputError("A reweighted loss is no likelihood bound: leave weighting out")
        clean = x.to(model.dtype(x))
        at, weights, _ = self._noised(model, clean, draws, condition)
        values = self.matching.loss(model, at) + self.matching.constant(at)
        return {"prior": _closed_form(model, x, at.eps), "matching": -weights * values}

    def cost(self, event_dim: int) -> int:
        return self.matching.cost(event_dim)

    def dtype(self, model: ScorePair, x: State) -> torch.dtype:
        return model.dtype(x)

    def log_snr_range(self, model: ScorePair) -> tuple[float, float]:
        return model.log_snr_range

    def _noised(
        self, pair: ScorePair, x: State, draws: LossDraws, condition: Tensor | None
    ) -> tuple[Noised, Tensor, Tensor]:
        """Rows at their positions in the law of times, weights, and the residual's mark."""
        grid = self._times(*pair.log_snr_range).quantile(draws.positions)
        levels, weights, at_end = (part.flatten().to(x.device) for part in grid)
        return Noised.of(levels, x, draws.noise[0], condition, draws.signs), weights, at_end

    def _times(self, low: float, high: float) -> TimeLaw:
        """The law of times over the range where a score is known."""
        if self.times is None:
            return LogSNRDensity.uniform(low, high, atom=ATOM if self.weighting is None else 0.0)
        _require_cover(self.times, (low, high))
        return self.times

    def _signs(self, x: State, generator: torch.Generator) -> Tensor | None:
        if not self.probes:
            return None

        def draw(rows: int) -> Tensor:
            return torch.randint(2, (self.probes, rows, *x.shape[1:]), generator=generator)

        return drawn_rows(draw, len(x), generator, dim=1).to(x) * 2.0 - 1.0

    def _level_weight(self, process: LinearProcess, levels: Tensor, at_end: Tensor) -> Tensor:
        """The weight per unit of log-SNR; nothing at the atom, which is the bound's residual."""
        assert self.weighting is not None
        t = process.time(levels)
        _, g2 = process.rates(t)
        _, sigma = process.marginal_at(levels)
        return torch.where(at_end, 0.0, self.weighting(t) * sigma.square() / g2)


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
        condition: passed on to the score, leading dimension ``n`` or 1.
        generator: source of the noise; ``None`` means seed 0.
        levels: number of levels at which the loss is measured.
    """
    low, high = pair.log_snr_range
    x, generator = x.to(pair.dtype(x)), source_of(generator)
    objective = ScoreMatchingObjective(matching, weighting=uniform_weight)
    grid = torch.linspace(low, high, levels, dtype=torch.float64, device=x.device)
    sizes = []
    for level in grid:
        eps = normal_like(x, generator)
        at = Noised.of(level.expand(len(x)), x, eps, condition, objective._signs(x, generator))
        sizes.append((matching.loss(pair, at) + matching.constant(at)).square().mean().sqrt())
    return LogSNRDensity.from_sizes(low, high, grid.cpu(), torch.stack(sizes).cpu(), end_size=float(sizes[-1]))


def _closed_form(pair: ScorePair, x: State, eps: State) -> Nats:
    """Everything of the bound that is free of the score: the prior term plus d log alpha at the noise end, ``b``.

    ``eps`` serves only priors whose expected log-density is not closed form.
    """
    low = torch.tensor(pair.log_snr_range[0], dtype=torch.float64, device=x.device)
    alpha, _ = pair.process.marginal_at(low)
    return pair.expected_log_prior(x, eps[:, None]) + x[0].numel() * alpha.log()


def _require_cover(times: TimeLaw, span: tuple[float, float]) -> None:
    """A law that misses part of the integral would estimate another number."""
    ends, _, _ = times.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64))
    if not torch.allclose(ends, torch.tensor(span, dtype=torch.float64), rtol=0.0, atol=1e-6):
        raise InputError(
            f"The law of times must span the log-SNR range {span} where the score is known: "
            "make it of a process with that log_snr_range, or with fit_times"
        )
