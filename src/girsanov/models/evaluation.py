r"""Evaluating any score at a log-SNR: what likelihoods and samplers ask of a score, in one place.

A score may be a plain callable ``(t, x)``, a closed-form density's, or a :class:`ScoreModel`. All are read in
variance-preserving coordinates :math:`z = x_t / \sqrt{\alpha^2 + \sigma^2}`, where only the log-SNR matters, with
times in float64 so that both ends of a schedule stay resolved.
"""

__all__ = ["deviation", "gaussian_reference", "noise_prediction", "working_dtype"]

from functools import partial

import torch
from torch import Tensor, nn

from girsanov.calculus import expand_as_rows
from girsanov.densities import Density, DensityScore, Gaussian
from girsanov.inputs import ask, like_rows
from girsanov.models.score_model import ScoreModel, called
from girsanov.processes import LinearProcess
from girsanov.types import Score, State


def noise_prediction(
    score: Score, process: LinearProcess, log_snr: Tensor, z: State, condition: Tensor | None
) -> State:
    """Noise prediction of ``score`` at variance-preserving ``z`` ``b *d`` and float64 levels ``b``."""
    if isinstance(score, ScoreModel):
        return like_rows(score.noise(log_snr, z, condition), z, "score model")
    alpha, sigma = process.marginal_at(log_snr)
    x_t = expand_as_rows((alpha.square() + sigma.square()).sqrt(), z) * z
    time = process.time(log_snr)
    return -expand_as_rows(sigma, z) * ask(partial(called, score), time, x_t, condition)


def deviation(
    score: Score, process: LinearProcess, reference: Gaussian, log_snr: Tensor, z: State, condition: Tensor | None
) -> tuple[State, State]:
    """The reference's noise prediction, and the score's deviation from it (without cancellation where it can be)."""
    noise = reference.noise(log_snr, z)
    if isinstance(score, ScoreModel) and score.reference is reference:
        return noise, like_rows(score.deviation(log_snr, z, condition), z, "score model")
    return noise, noise_prediction(score, process, log_snr, z, condition) - noise


def gaussian_reference(score: Score, reference: Density | None) -> Gaussian | None:
    """The given reference, else the score's own, where it is a Gaussian."""
    found = reference if reference is not None else getattr(score, "reference", None)
    return found if isinstance(found, Gaussian) else None


def working_dtype(score: Score, x: State) -> torch.dtype:
    """Dtype in which a score is evaluated: the parameters', else that of the rows, single precision at least.

    A closed form has no parameters and resolves scales below single precision: it is evaluated in double precision.
    """
    if isinstance(score, DensityScore):
        return torch.float64
    parameter = next(score.parameters(), None) if isinstance(score, nn.Module) else None
    if parameter is not None:
        return torch.promote_types(parameter.dtype, torch.float32)
    return torch.promote_types(x.dtype, torch.float32) if x.dtype.is_floating_point else torch.float64
