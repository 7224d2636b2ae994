"""What the bounds of diffusion models have in common: default grids and the way to an estimate."""

__all__ = [
    "REPLICATES",
    "estimate_of",
    "grid_for",
    "proposal_for",
    "replicates_for",
]

import torch
from torch import Tensor

from girsanov.densities import Gaussian
from girsanov.likelihoods.estimator import Grid, RandomisedRows, Replicates, keeps_graph
from girsanov.likelihoods.evaluation_noise import FEW_DIMENSIONS
from girsanov.pairs import ScorePair
from girsanov.solvers import LogSNRDensity
from girsanov.types import Estimate, InputError

REPLICATES = 8  # of many dimensions or rows that are dequantised, where there are as many samples
FEWER, FEWEST = 4, 2  # of few dimensions, and of few samples in these
SOME_DIMENSIONS = 16  # up to so many, jumps of a denoiser between modes are the noise, and replicates must be long
POINTS, MORE_POINTS = 16, 32  # grid points of a replicate, beyond which more samples are more replicates
FEW_SAMPLES = 32
LOCAL_SAMPLES = 32  # from so many on, a Gaussian about each row is fitted
PLATEAU = {True: 0.65, False: 0.5}  # share beyond what the reference shows, in few dimensions and in more


def proposal_for(
    pair: ScorePair,
    event_dim: int,
    *,
    atom: bool,
    reference: Gaussian | None = None,
    log_snr_range: tuple[float, float] | None = None,
) -> LogSNRDensity:
    """The pair's own proposal where it is over that range, else that of the reference's spectrum, with a plateau.

    Without a reference the spectrum is taken as 1.

    Args:
        pair: the model.
        event_dim: dimensions of a row.
        atom: whether the residual is to be drawn.
        reference: default the pair's.
        log_snr_range: default the pair's.

    Raises:
        InputError: for a proposal without an atom where the residual is to be drawn.
    """
    span, law = log_snr_range or pair.log_snr_range, reference or pair.reference
    if pair.proposal is None or span != pair.log_snr_range:
        spectrum = torch.ones(event_dim) if law is None else law.spectrum()
        return LogSNRDensity.from_spectrum(*span, spectrum, atom=atom, plateau=PLATEAU[event_dim <= FEW_DIMENSIONS])
    if atom and not pair.proposal.atom > 0.0:
        raise InputError("The proposal must have an atom for the residual: fit it with fit_proposal to this pair")
    return pair.proposal


def replicates_for(x: RandomisedRows, samples: int) -> int:
    """How many replicates the samples are divided among by default.

    Eight give a usable standard error, and average dequantisation draws. In few dimensions what fluctuates is rare, a
    denoiser's jumps between modes and scales: few long replicates then have errors nearer to normal than many short
    ones, and Student's t, whose degrees of freedom they are, makes up for their number.
    """
    d = x.event_dim
    if x.draws or d > SOME_DIMENSIONS:
        return max(REPLICATES, samples // POINTS)
    if d > FEW_DIMENSIONS:
        return max(FEWER, samples // POINTS)
    return max(FEWER if samples >= FEW_SAMPLES else FEWEST, samples // MORE_POINTS)


def grid_for(
    pair: ScorePair,
    x: RandomisedRows,
    samples: int,
    method: Replicates,
    *,
    atom: bool,
    reference: Gaussian | None = None,
    log_snr_range: tuple[float, float] | None = None,
) -> Grid:
    """Samples divided among replicates, the same number in each, at levels from the proposal.

    A score that no proposal was fitted to has a Gaussian fitted about each row, from 32 samples on, in more dimensions
    than the few where the noise is a net.

    Args:
        pair: the model.
        x: the rows.
        samples: evaluations per row.
        method: how they are divided.
        atom: see :func:`proposal_for`.
        reference: see :func:`proposal_for`.
        log_snr_range: see :func:`proposal_for`.
    """
    proposal = proposal_for(pair, x.event_dim, atom=atom, reference=reference, log_snr_range=log_snr_range)
    count = min(method.count or replicates_for(x, samples), samples)
    untuned = proposal is not pair.proposal and getattr(pair.proposal, "control", None) is None
    local = untuned and not x.draws and x.event_dim > FEW_DIMENSIONS
    local = local and samples >= LOCAL_SAMPLES and count >= FEWER and not keeps_graph(x.rows, method.differentiable)
    return Grid(proposal, samples // count * count, count, local)


def estimate_of(
    terms: dict[str, Tensor], x: RandomisedRows, samples: int, log_snr_range: tuple[float, float], **fields: object
) -> Estimate:
    """The sum of terms that were replicated, each ``r n``, as an estimate of the SDE model."""
    total = torch.stack(list(terms.values())).sum(0)
    return Estimate.from_replicates(
        total,
        model="sde",
        nfe=samples,
        event_dim=x.event_dim,
        measure=x.measure,
        log_snr_range=log_snr_range,
        terms={name: value.mean(0) for name, value in terms.items() if name != "log_det" or bool(value.any())},
        **fields,
    )
