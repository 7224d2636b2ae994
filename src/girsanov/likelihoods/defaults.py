"""What the bounds of diffusion models have in common: default grids and the way to an estimate."""

__all__ = [
    "REPLICATES",
    "estimate_of",
    "grid_for",
    "proposal_for",
]

import torch
from torch import Tensor

from girsanov.densities import Gaussian
from girsanov.likelihoods.estimator import Grid, RandomisedRows, Replicates
from girsanov.pairs import ScorePair
from girsanov.solvers import LogSNRDensity
from girsanov.types import Estimate, InputError

REPLICATES = 8  # at least, where there are as many samples
POINTS = 16  # grid points of a replicate, beyond which more samples are more replicates


def proposal_for(
    pair: ScorePair,
    *,
    atom: bool,
    reference: Gaussian | None = None,
    log_snr_range: tuple[float, float] | None = None,
) -> LogSNRDensity:
    """The pair's own proposal where it is over that range, else that of the reference's spectrum.

    Without a reference the spectrum is taken as 1, with more weight on the uniform floor.

    Args:
        pair: the model.
        atom: whether the residual is to be drawn.
        reference: default the pair's.
        log_snr_range: default the pair's.

    Raises:
        InputError: for a proposal without an atom where the residual is to be drawn.
    """
    span, law = log_snr_range or pair.log_snr_range, reference or pair.reference
    if pair.proposal is None or span != pair.log_snr_range:
        if law is None:
            return LogSNRDensity.from_spectrum(*span, torch.ones(1), atom=atom, floor=0.3)
        return LogSNRDensity.from_spectrum(*span, law.spectrum(), atom=atom)
    if atom and not pair.proposal.atom > 0.0:
        raise InputError("The proposal must have an atom for the residual: fit it with fit_proposal to this pair")
    return pair.proposal


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
