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

__all__ = ["density", "elbo", "fit_proposal"]

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from girsanov.densities import Density, Gaussian
from girsanov.inputs import checked
from girsanov.likelihoods.baselines import Baseline, baseline_of
from girsanov.likelihoods.integral import Views, identity_view, keeps_graph, replicate, view_of
from girsanov.likelihoods.parts import (
    default_proposal,
    default_replicates,
    estimate_of,
    evaluations_spent,
    require_cover,
    sampled_prior,
)
from girsanov.likelihoods.proposals import fit_proposal
from girsanov.likelihoods.resolution import EVALUATIONS, confirmed, missing_at_ends, needed_range
from girsanov.models import gaussian_reference
from girsanov.processes import LinearProcess, Span, log_snr_range, span_of
from girsanov.randomness import seed_of
from girsanov.solvers import LogSNRDensity
from girsanov.types import Estimate, InputError, Measure, Nats, Score, State

ROUNDING = 1e-9  # relative, of a standard error that meets its target exactly


@checked
def elbo(
    score: Score,
    process: LinearProcess,
    x: State,
    *,
    prior: Density | None = None,
    reference: Gaussian | None = None,
    decoder: Gaussian | None = None,
    samples: int = 32,
    replicates: int | None = None,
    proposal: LogSNRDensity | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
    views: Views = identity_view,
    measure: Measure = "density",
    differentiable: bool = False,
) -> Estimate:
    r"""Lower bound on the log-density of the reverse-SDE model, per row, with its standard error.

    Args:
        score: ``(t, x) -> grad log p_t(x)``.
        process: the forward process.
        x: rows ``n *d``.
        prior: law at the noise end of the score's range. Default: N(0, I) at the horizon of a process that forgets
            the data, and before it the reference's law there; see :func:`girsanov.processes.span_of`.
        reference: Gaussian whose squared error is the control variate, which never changes the expectation.
            Default: the decoder, else the score's own ``reference``, if it has one.
        decoder: Gaussian whose posterior covariance the last decoder has; default isotropic. Where a reference
            is used too, both must be the same.
        samples: network evaluations per row, rounded down to a multiple of ``replicates``.
        replicates: independent replicates, each with its own dequantisation draw, among which the samples are
            divided. Default ``max(8, samples // 16)``.
        proposal: density in log-SNR from which grids are drawn; default from the reference's spectrum.
        condition: passed on to the score, leading dimension ``n`` or 1.
        generator: read once for a seed; ``None`` means seed 0.
        views: randomised preprocessing, one draw per replicate (used for dequantisation).
        measure: what ``views`` make of the value.
        differentiable: keep the graph of everything that requires a gradient, the score's parameters included.
            Without it a graph is kept for ``x`` alone, where ``x`` requires one; under ``no_grad``, never.

    Returns:
        Estimate of kind ``lower_bound``, model ``sde``, with terms ``prior``, ``diffusion`` and ``residual``.

    Raises:
        InputError: if the data are not forgotten at the noise end and neither prior nor reference is known.

    Example:
        >>> from girsanov.processes import VariancePreserving
        >>> process, law = VariancePreserving(), Gaussian(torch.zeros(3), torch.eye(3))
        >>> estimate = elbo(law.score(process), process, torch.zeros(1, 3), samples=8)
        >>> torch.allclose(estimate.value, law.log_prob(torch.zeros(1, 3)), atol=1e-4)
        True
    """
    reference = gaussian_reference(score, reference if reference is not None else decoder)
    span = span_of(score, process, prior=prior, reference=reference)
    if decoder is not None and reference is not None and decoder is not reference:
        raise InputError("decoder and reference must be the same Gaussian")
    proposal = proposal or default_proposal(*span.log_snr_range, reference, atom=True)
    require_cover(proposal, *span.log_snr_range, atom=True)
    baseline = baseline_of(score, process, reference, decoder)

    def closed_form(rows: State) -> dict[str, Nats]:
        return _elbo_terms(rows, baseline, process, span)

    replicates = replicates or default_replicates(samples)
    with torch.set_grad_enabled(keeps_graph(x, differentiable)):
        terms = replicate(
            baseline,
            x,
            proposal,
            closed_form,
            samples=samples,
            replicates=replicates,
            seed=seed_of(generator),
            condition=condition,
            views=views,
            sampled_prior=sampled_prior(process, span),
        )
    spent = evaluations_spent(samples, replicates)
    return estimate_of(terms, x, spent, span.log_snr_range, kind="lower_bound", measure=measure)


@checked
def density(
    score: Score,
    process: LinearProcess,
    x: State,
    *,
    reference: Gaussian | None = None,
    exact: bool = False,
    samples: int = 32,
    target_stderr: float | None = None,
    max_samples: int = 4096,
    replicates: int | None = None,
    proposal: LogSNRDensity | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
    views: Views = identity_view,
    measure: Measure = "density",
    differentiable: bool = False,
) -> Estimate:
    r"""Log-density by the score-based formula, with the reference's exact denoiser outside the score's range.

    Args:
        score: ``(t, x) -> grad log p_t(x)``.
        process: the forward process; only its log-SNR matters.
        x: rows ``n *d``.
        reference: the Gaussian of the formula; default the score's own, else N(0, I) for a score that
            declares no ``log_snr_range``.
        exact: declare the score exact: the kind is then ``unbiased``, where four more evaluations per row at the
            ends of the range show that the reference does outside, and the score computes in single precision at least.
        samples: network evaluations per row; those of the pilot, where there is a target.
        target_stderr: standard error to reach in every row, in nats. A pilot of ``samples`` evaluations decides how
            many fresh draws each row needs, and the fresh draws alone are the estimate (Stein's two-stage procedure):
            its ``stderr`` is the pilot's standard deviation over the root of the number of fresh replicates, and so
            is independent of its ``value``. ``nfe`` is then the mean over rows, pilot included.
        max_samples: evaluations of any row, pilot included, those at the ends aside.
        replicates: see :func:`elbo`.
        proposal: see :func:`elbo`.
        condition: see :func:`elbo`.
        generator: see :func:`elbo`.
        views: see :func:`elbo`.
        measure: see :func:`elbo`.
        differentiable: see :func:`elbo`.

    Returns:
        Estimate of kind ``lower_bound``, of an exact score ``unbiased``, or ``estimate`` where the range does not
        resolve some row: :attr:`Estimate.needed` is then beyond the range in that row, and :attr:`Estimate.caveat`
        says how far a score would have to be known. It has terms ``reference`` and ``diffusion``. Where a target
        was asked for, ``met`` says which rows reached it; for the others ``max_samples`` did not suffice.

    Raises:
        InputError: for a score with a finite range and no reference, or a target that cannot be reached.

    Example:
        >>> from girsanov.densities import GaussianMixture
        >>> from girsanov.processes import VariancePreserving
        >>> mixture = GaussianMixture(torch.ones(2), torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), torch.ones(2, 2))
        >>> x, process = torch.zeros(1, 2), VariancePreserving(log_snr_range=(-15.0, 15.0))
        >>> estimate = density(mixture.score(process), process, x, exact=True, samples=256)
        >>> bool((estimate.value - mixture.log_prob(x)).abs() < 4 * estimate.stderr)
        True
    """
    law = _formula_reference(score, reference, x)
    # an exact score is known beyond the process's horizon too, and the formula is about the whole line
    low, high = log_snr_range(score, process, whole_line=exact)
    proposal = proposal or default_proposal(low, high, law, atom=False)
    require_cover(proposal, low, high, atom=False)
    baseline = baseline_of(score, process, law, None)
    seed = seed_of(generator)

    def closed_form(rows: State) -> dict[str, Nats]:
        # what the formula says of the reference, less what is sampled against
        rest = 0.5 * (law.squared_error_integral(rows, low, high) - baseline.integral(rows, low, high))
        return {"reference": law.log_prob(rows), "diffusion": rest}

    count = min(replicates or default_replicates(samples), samples)

    def draw(index: Tensor, repeats: int, round_: int) -> dict[str, Tensor]:
        given = condition if condition is None or len(condition) == 1 else condition[index]
        return replicate(
            baseline,
            x[index],
            proposal,
            closed_form,
            samples=repeats * samples,
            replicates=repeats * count,
            seed=seed,
            condition=given,
            views=views,
            round_=round_,
        )

    def described(terms: dict[str, Tensor], nfe: int) -> Estimate:
        found = estimate_of(terms, x, nfe, (low, high), kind="lower_bound", measure=measure)
        return _unbiased(found, baseline, view_of(views, x, 1, seed).x[:, 0], seed, condition) if exact else found

    spent = evaluations_spent(samples, count)
    with torch.set_grad_enabled(keeps_graph(x, differentiable)):
        terms = draw(torch.arange(len(x), device=x.device), 1, 0)
        if target_stderr is None:
            return described(terms, spent)
        pilot = estimate_of(terms, x, spent, (low, high), kind="estimate", measure=measure).stderr
        rounds = _rounds(pilot.detach(), target_stderr, max_samples // spent - 1)
        final = described(_second_stage(draw, terms, rounds), math.ceil(spent * (1.0 + float(rounds.double().mean()))))
    stderr = pilot / rounds.sqrt()
    return replace(final, stderr=stderr, met=stderr.detach() <= target_stderr * (1.0 + ROUNDING))


def _unbiased(estimate: Estimate, baseline: Baseline, x: State, seed: int, condition: Tensor | None) -> Estimate:
    """The estimate of an exact score: unbiased, where nothing is missing beyond the range's ends."""
    assert estimate.log_snr_range is not None
    missing = missing_at_ends(baseline, x, estimate.log_snr_range, seed=seed, condition=condition)
    found = replace(estimate, kind="unbiased", nfe=estimate.nfe + EVALUATIONS)
    return confirmed(found, baseline.score, needed_range(*estimate.log_snr_range, missing, estimate.event_dim))


def _rounds(stderr: Nats, target: float, most: int) -> Tensor:
    """How many times the pilot's evaluations each row needs for the target, at least once and at most ``most``."""
    if not target > 0.0 or not bool(stderr.isfinite().all()):
        raise InputError("target_stderr must be positive, and needs samples of at least 2 for a first standard error")
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
            folded = value.unflatten(0, (1 << bit, -1)).sum(0)
            totals[name] = totals[name].index_add(1, index, folded)
    return {name: value / rounds for name, value in totals.items()}


def _formula_reference(score: Score, reference: Gaussian | None, x: State) -> Gaussian:
    found = gaussian_reference(score, reference)
    if found is not None:
        return found
    if getattr(score, "log_snr_range", None) is not None:
        raise InputError("This score is known on a finite log-SNR range only: pass reference=, fitted to the data")
    return Gaussian(torch.zeros(x.shape[1:], dtype=torch.float64), 1.0).to(x.device)


def _elbo_terms(x: State, baseline: Baseline, process: LinearProcess, span: Span) -> dict[str, Nats]:
    """Everything of the bound that needs no network evaluation; ``baseline`` stands in for the squared errors."""
    low, high = span.log_snr_range
    rows, d = x.double(), x[0].numel()
    ends = torch.tensor([high, low], dtype=torch.float64, device=x.device)
    (alpha_e, alpha_end), (sigma_e, sigma_end) = process.marginal_at(ends)
    diffusion = d * (alpha_end / alpha_e).log() + 0.5 * d * (high - low)
    residual = 0.5 * d + d * sigma_e.log()
    if baseline.decoder is None:
        residual = residual - d * (sigma_e / alpha_e).log()
    else:
        residual = residual - 0.5 * baseline.decoder.posterior_log_det(high)
    expected = getattr(span.prior, "expected_log_prob", None)
    return {
        "prior": expected(alpha_end * rows, sigma_end.square()) if expected else rows.new_zeros(len(rows)),
        "diffusion": diffusion - 0.5 * baseline.integral(rows, low, high),
        "residual": residual - 0.5 * baseline.end(rows, high),
    }
