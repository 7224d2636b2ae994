r"""The evidence lower bound of the reverse SDE, and the density formula, in log-SNR and without divergences.

With :math:`l_e` the data end and :math:`l_T` the noise end of the range (note of paper 1, section 2.7):

.. math::
    \log p_0(x) \ge E[\log \pi(x_T)] + d \log \tfrac{\alpha_T}{\alpha_e}
      - \tfrac12 \int_{l_T}^{l_e} (E\|\varepsilon - \hat\varepsilon\|^2 - d)\, dl + R_e(x)

is a bound on the density of the model "reverse SDE from T to e, then a Gaussian decoder", whose residual is
:math:`R_e = E[\log p(x \mid x_e) - \log q(x_e \mid x)]`. The density formula (note of paper 2, section 2.4) is

.. math::
    \log q_0(x) = \log \mathcal{N}(x; m, S)
      + \tfrac12 \int E[\|\varepsilon - \hat\varepsilon_G\|^2 - \|\varepsilon - \hat\varepsilon\|^2]\, dl,

an equality for the exact score; over a finite range, the bound of the hybrid that uses the reference outside.
"""

__all__ = ["Target", "density", "elbo"]

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from girsanov.densities import Gaussian
from girsanov.inputs import checked
from girsanov.likelihoods.baselines import Baseline, baseline_of
from girsanov.likelihoods.defaults import estimate_of, grid_for
from girsanov.likelihoods.estimator import RandomisedRows, Replicates, keeps_graph, replicate
from girsanov.likelihoods.resolution import EVALUATIONS, confirmed, missing_at_ends, needed_range
from girsanov.pairs import ScorePair
from girsanov.randomness import seed_of
from girsanov.rows import condition_at
from girsanov.types import Estimate, InputError, Nats, State

ROUNDING = 1e-9  # relative, of a standard error that meets its target exactly


@dataclass(frozen=True)
class Target:
    """A standard error to reach in every row.

    Args:
        stderr: in nats.
        max_samples: evaluations of any row, pilot included, those at the ends aside.
    """

    stderr: float
    max_samples: int = 4096


@checked
def elbo(
    pair: ScorePair,
    x: State | RandomisedRows,
    *,
    samples: int = 32,
    method: Replicates | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Lower bound on the log-density of the reverse-SDE model, per row, with its standard error.

    Args:
        pair: the model.
        x: rows ``n *d``.
        samples: network evaluations per row, rounded down to a multiple of the replicates.
        method: how they are divided into replicates, and whether gradients are kept; default ``Replicates()``.
        condition: passed on to the score, leading dimension ``n`` or 1.
        generator: read once for a seed; ``None`` means seed 0.

    Returns:
        Estimate of kind ``lower_bound``, model ``sde``, with terms ``prior``, ``diffusion`` and ``residual``.

    Raises:
        InputError: if the data are not forgotten at the noise end and the pair has neither prior nor reference.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> law = Gaussian(torch.zeros(3), torch.eye(3))
        >>> estimate = elbo(ScorePair(law.score(VariancePreserving())), torch.zeros(1, 3), samples=8)
        >>> torch.allclose(estimate.value, law.log_prob(torch.zeros(1, 3)), atol=1e-4)
        True
    """
    rows, method = RandomisedRows.of(x), method or Replicates()
    grid = grid_for(pair, rows, samples, method, atom=True)
    baseline = baseline_of(pair, pair.decoder)
    with torch.set_grad_enabled(keeps_graph(rows.rows, method.differentiable)):
        terms = replicate(
            baseline,
            rows,
            grid,
            partial(_elbo_terms, baseline),
            seed=seed_of(generator),
            condition=condition,
        )
    return estimate_of(terms, rows, grid.samples, pair.log_snr_range, kind="lower_bound")


@checked
def density(
    pair: ScorePair,
    x: State | RandomisedRows,
    *,
    exact: bool = False,
    samples: int = 32,
    target: Target | float | None = None,
    method: Replicates | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Log-density by the score-based formula, with the reference's exact denoiser outside the score's range.

    Args:
        pair: the model; of its process only the log-SNR matters. Without a reference, and where the score declares no
            range, N(0, I) is the formula's Gaussian.
        x: rows ``n *d``.
        exact: declare the score exact: the kind is then ``unbiased``, where four more evaluations per row at the
            ends of the range show that the reference does outside, and the score computes in single precision at least.
        samples: network evaluations per row; those of the pilot, where there is a target.
        target: standard error to reach in every row, in nats, or a :class:`Target` that limits the evaluations too. A
            pilot of ``samples`` evaluations decides how many fresh draws each row needs, and the fresh draws alone are
            the estimate (Stein's two-stage procedure): its ``stderr`` is the pilot's standard deviation over the root
            of the number of fresh replicates, and so is independent of its ``value``. ``nfe`` is then the mean over
            rows, pilot included.
        method: see :func:`elbo`.
        condition: see :func:`elbo`.
        generator: see :func:`elbo`.

    Returns:
        Estimate of kind ``lower_bound``, of an exact score ``unbiased``, or ``estimate`` where the range does not
        resolve some row: :attr:`Estimate.needed` is then beyond the range in that row, and :attr:`Estimate.caveat`
        says how far a score would have to be known. It has terms ``reference`` and ``diffusion``. Where a target
        was asked for, ``met`` says which rows reached it; for the others its ``max_samples`` did not suffice.

    Raises:
        InputError: for a score with a finite range and no reference, or a target that cannot be reached.

    Example:
        >>> from girsanov.densities import GaussianMixture
        >>> from girsanov.processes import VariancePreserving
        >>> mixture = GaussianMixture(torch.ones(2), torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), torch.ones(2, 2))
        >>> x, process = torch.zeros(1, 2), VariancePreserving(log_snr_range=(-15.0, 15.0))
        >>> estimate = density(ScorePair(mixture.score(process)), x, exact=True, samples=256)
        >>> bool((estimate.value - mixture.log_prob(x)).abs() < 4 * estimate.stderr)
        True
    """
    rows, method, seed = RandomisedRows.of(x), method or Replicates(), seed_of(generator)
    formula = _Formula.of(pair, rows, exact)
    law, span = formula.reference, formula.log_snr_range
    grid = grid_for(pair, rows, samples, method, atom=False, reference=law, log_snr_range=span)

    def draw(index: Tensor, repeats: int, round_: int) -> dict[str, Tensor]:
        given = condition_at(condition, index)
        more = replace(grid, samples=repeats * grid.samples, replicates=repeats * grid.replicates)
        part = replace(rows, rows=rows.rows[index])
        return replicate(formula.baseline, part, more, formula.terms, seed=seed, condition=given, round_=round_)

    def described(terms: dict[str, Tensor], nfe: int) -> Estimate:
        found = estimate_of(terms, rows, nfe, formula.log_snr_range, kind="lower_bound")
        return _unbiased(found, formula.baseline.plain, rows.view(1, seed).x[:, 0], seed, condition) if exact else found

    with torch.set_grad_enabled(keeps_graph(rows.rows, method.differentiable)):
        terms = draw(torch.arange(len(rows), device=rows.rows.device), 1, 0)
        if target is None:
            return described(terms, grid.samples)
        goal = target if isinstance(target, Target) else Target(target)
        pilot = estimate_of(terms, rows, grid.samples, formula.log_snr_range, kind="estimate").stderr
        rounds = _rounds(pilot.detach(), goal.stderr, goal.max_samples // grid.samples - 1)
        spent = math.ceil(grid.samples * (1.0 + float(rounds.double().mean())))
        final = described(_second_stage(draw, terms, rounds), spent)
    stderr = pilot / rounds.sqrt()
    return replace(final, stderr=stderr, met=stderr.detach() <= goal.stderr * (1.0 + ROUNDING))


@dataclass(frozen=True)
class _Formula:
    """The density formula of a pair: its Gaussian, over the range where it is evaluated."""

    baseline: Baseline
    reference: Gaussian
    log_snr_range: tuple[float, float]

    @classmethod
    def of(cls, pair: ScorePair, rows: RandomisedRows, exact: bool) -> "_Formula":
        law = pair.reference
        if law is None:
            if pair.declares_range:
                raise InputError(
                    "This score is known on a finite log-SNR range only: give the pair a reference, fitted to the data"
                )
            law = Gaussian(torch.zeros(rows.rows.shape[1:], dtype=torch.float64), 1.0).to(rows.rows.device)
        # an exact score is known beyond the process's horizon too, and the formula is about the whole line
        span = pair.known_range if exact else pair.log_snr_range
        return cls(baseline_of(pair, reference=law), law, span)

    def terms(self, rows: State, near: State | None) -> dict[str, Nats]:
        """What is known exactly."""
        law, span = self.reference, self.log_snr_range
        base = law.log_prob(rows)
        if near is None and self.baseline.law is law:
            return {"reference": base, "diffusion": torch.zeros_like(base)}
        # what the formula says of the reference, less what is sampled against
        about = rows.double() if near is None else near
        rest = 0.5 * (law.squared_error_integral(rows.double(), *span) - self.baseline.integral(about, *span))
        return {"reference": base, "diffusion": rest}


def _unbiased(estimate: Estimate, baseline: Baseline, x: State, seed: int, condition: Tensor | None) -> Estimate:
    """The estimate of an exact score: unbiased, where nothing is missing beyond the range's ends."""
    assert estimate.log_snr_range is not None
    missing = missing_at_ends(baseline, x, estimate.log_snr_range, seed=seed, condition=condition)
    found = replace(estimate, kind="unbiased", nfe=estimate.nfe + EVALUATIONS)
    return confirmed(found, baseline.pair, needed_range(*estimate.log_snr_range, missing, estimate.event_dim))


def _rounds(stderr: Nats, target: float, most: int) -> Tensor:
    """How many times the pilot's evaluations each row needs for the target, at least once and at most ``most``."""
    if not target > 0.0 or not bool(stderr.isfinite().all()):
        raise InputError("target must be positive, and needs samples of at least 2 for a first standard error")
    if most < 1:
        raise InputError("max_samples must be at least twice samples: those of the pilot and as many fresh ones")
    return (stderr / target).square().ceil().clamp(1, most).long()


def _second_stage(
    draw: Callable[[Tensor, int, int], dict[str, Tensor]], pilot: dict[str, Tensor], rounds: Tensor
) -> dict[str, Tensor]:
    """Fresh replicates, as many as the pilot's, each the mean of a row's ``rounds`` fresh draws.

    Rounds are drawn by the binary digits of their number, so that rows with a digit in common are evaluated together
    and each row's draws are its own.
    """
    totals = {name: torch.zeros_like(value) for name, value in pilot.items()}
    for bit in range(int(rounds.max()).bit_length()):
        index = ((rounds >> bit) & 1).nonzero()[:, 0]
        if not len(index):
            continue
        for name, value in draw(index, 1 << bit, 1 + bit).items():
            # along contiguous memory: the order of a row's sum does not depend on the number of rows
            folded = value.unflatten(0, (1 << bit, -1)).movedim(0, -1).contiguous().sum(-1)
            totals[name] = totals[name].index_add(1, index, folded)
    return {name: value / rounds for name, value in totals.items()}


def _elbo_terms(baseline: Baseline, x: State, near: State | None) -> dict[str, Nats]:
    """Everything of the bound that needs no network evaluation; ``baseline`` stands in for the squared errors."""
    pair = baseline.pair
    low, high = pair.log_snr_range
    rows, d = x.double(), x[0].numel()
    about = rows if near is None else near
    ends = torch.tensor([high, low], dtype=torch.float64, device=x.device)
    (alpha_e, alpha_end), (sigma_e, _) = pair.process.marginal_at(ends)
    diffusion = d * (alpha_end / alpha_e).log() + 0.5 * d * (high - low)
    residual = 0.5 * d + d * sigma_e.log()
    if baseline.decoder is None:
        residual = residual - d * (sigma_e / alpha_e).log()
    else:
        residual = residual - 0.5 * baseline.decoder.posterior_log_det(high)
    return {
        "prior": pair.expected_log_prior(rows) if pair.prior_is_closed else rows.new_zeros(len(rows)),
        "diffusion": diffusion - 0.5 * baseline.integral(about, low, high),
        "residual": residual - 0.5 * baseline.end(about, high),
    }
