"""What the bounds of diffusion models have in common: default grids, a sampled prior, and the way to an estimate."""

__all__ = [
    "REPLICATES",
    "default_proposal",
    "estimate_of",
    "grid_for",
    "proposal_for",
    "sampled_prior",
]

from collections.abc import Callable

import torch
from torch import Tensor

from girsanov.densities import Gaussian
from girsanov.likelihoods.integral import Grid, RandomisedRows, Replicates
from girsanov.pairs import ScorePair
from girsanov.solvers import LogSNRDensity
from girsanov.types import Estimate, InputError, Nats, State

REPLICATES = 8  # at least, where there are as many samples
POINTS = 16  # grid points of a replicate, beyond which more samples are more replicates


def default_proposal(low: float, high: float, reference: Gaussian | None, *, atom: bool) -> LogSNRDensity:
    """From the reference's spectrum; without one the spectrum is taken as 1, with more weight on the uniform floor."""
    if reference is None:
        return LogSNRDensity.from_spectrum(low, high, torch.ones(1), atom=atom, floor=0.3)
    return LogSNRDensity.from_spectrum(low, high, reference.spectrum(), atom=atom)


def proposal_for(pair: ScorePair, *, atom: bool) -> LogSNRDensity:
    """The pair's own proposal, else that of its reference's spectrum, over its range.

    Raises:
        InputError: for a proposal without an atom where the residual is to be drawn.
    """
    if pair.proposal is None:
        return default_proposal(*pair.log_snr_range, pair.reference, atom=atom)
    if atom and not pair.proposal.atom > 0.0:
        raise InputError("The proposal must have an atom for the residual: fit it with fit_proposal to this pair")
    return pair.proposal


def sampled_prior(pair: ScorePair) -> Callable[[State, State], Nats] | None:
    """The prior term from draws, for priors whose expected log-density is not closed form."""
    prior = pair.prior
    if hasattr(prior, "expected_log_prob"):
        return None
    alpha, sigma = pair.process.marginal_at(torch.tensor(pair.log_snr_range[0], dtype=torch.float64))

    def term(x: State, eps: State) -> Nats:
        ends = alpha * x[:, None] + sigma * eps
        return prior.log_prob(ends.flatten(0, 1)).reshape(eps.shape[:2]).mean(1)

    return term


def grid_for(proposal: LogSNRDensity, samples: int, method: Replicates) -> Grid:
    """Samples divided among replicates, the same number in each.

    Eight replicates give a usable standard error; beyond 16 points in each, more samples are more replicates.
    """
    count = min(method.count or max(REPLICATES, samples // POINTS), samples)
    return Grid(proposal, samples // count * count, count)


def estimate_of(
    terms: dict[str, Tensor], x: RandomisedRows, samples: int, log_snr_range: tuple[float, float], **fields: object
) -> Estimate:
    """The sum of terms that were replicated, each ``r n``, as an estimate of the SDE model."""
    total = torch.stack(list(terms.values())).sum(0)
    return Estimate.from_replicates(
        total,
        model="sde",
        nfe=samples,
        event_dim=x.rows[0].numel(),
        measure=x.measure,
        log_snr_range=log_snr_range,
        terms={name: value.mean(0) for name, value in terms.items() if name != "log_det" or bool(value.any())},
        **fields,
    )
