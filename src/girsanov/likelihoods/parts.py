"""What the bounds of diffusion models have in common: default grids, a sampled prior, and the way to an estimate."""

__all__ = [
    "REPLICATES",
    "default_proposal",
    "default_replicates",
    "estimate_of",
    "evaluations_spent",
    "require_cover",
    "sampled_prior",
]

from collections.abc import Callable

import torch
from torch import Tensor

from girsanov.densities import Gaussian
from girsanov.processes import LinearProcess, Span
from girsanov.solvers import LogSNRDensity
from girsanov.types import Estimate, InputError, Nats, State

REPLICATES = 8  # at least, where there are as many samples
POINTS = 16  # grid points of a replicate, beyond which more samples are more replicates


def default_proposal(low: float, high: float, reference: Gaussian | None, *, atom: bool) -> LogSNRDensity:
    """From the reference's spectrum; without one the spectrum is taken as 1, with more weight on the uniform floor."""
    if reference is None:
        return LogSNRDensity.from_spectrum(low, high, torch.ones(1), atom=atom, floor=0.3)
    return LogSNRDensity.from_spectrum(low, high, reference.spectrum(), atom=atom)


def require_cover(proposal: LogSNRDensity, low: float, high: float, *, atom: bool) -> None:
    """A proposal that misses part of the integral, or the residual, would estimate another number."""
    covered = float(proposal.edges[0]) == low and float(proposal.edges[-1]) == high
    if not covered or (atom and not proposal.atom > 0.0):
        raise InputError(
            f"The proposal must span the log-SNR range [{low}, {high}]"
            + (" and have an atom for the residual" if atom else "")
            + ": fit it with fit_proposal to this score and process"
        )


def sampled_prior(process: LinearProcess, span: Span) -> Callable[[State, State], Nats] | None:
    """The prior term from draws, for priors whose expected log-density is not closed form."""
    prior = span.prior
    if hasattr(prior, "expected_log_prob"):
        return None
    alpha, sigma = process.marginal_at(torch.tensor(span.low, dtype=torch.float64))

    def term(x: State, eps: State) -> Nats:
        ends = alpha * x[:, None] + sigma * eps
        return prior.log_prob(ends.flatten(0, 1)).reshape(eps.shape[:2]).mean(1)

    return term


def default_replicates(samples: int) -> int:
    """Eight replicates give a usable standard error; beyond 16 points in each, more samples are more replicates."""
    return max(REPLICATES, samples // POINTS)


def evaluations_spent(samples: int, replicates: int) -> int:
    """Evaluations per row that ``replicate`` makes of ``samples``: the same number in every replicate."""
    count = min(replicates, samples)
    return samples // count * count


def estimate_of(
    terms: dict[str, Tensor], x: State, samples: int, log_snr_range: tuple[float, float], **fields: object
) -> Estimate:
    """The sum of terms that were replicated, each ``r n``, as an estimate of the SDE model."""
    total = torch.stack(list(terms.values())).sum(0)
    return Estimate.from_replicates(
        total,
        model="sde",
        nfe=samples,
        event_dim=x[0].numel(),
        log_snr_range=log_snr_range,
        terms={name: value.mean(0) for name, value in terms.items() if name != "log_det" or bool(value.any())},
        **fields,
    )
