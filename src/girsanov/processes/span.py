r"""Where a score is known, and which law stands at its noise end: one answer for all that evaluates a score.

A score that declares ``log_snr_range`` is known there and nowhere else. The model that a likelihood is of, or that a
sampler draws from, starts at the noise end of that range, so the prior is the law *there*: the one that the caller
gives, else the process's N(0, I) at its horizon or where the data are forgotten, else the law of the reference.
"""

__all__ = ["Span", "log_snr_range", "noise_end", "span_of"]

from dataclasses import dataclass

import torch

from girsanov.densities import Density, StandardNormal
from girsanov.processes.base import ROUNDING, LinearProcess
from girsanov.types import Score


@dataclass(frozen=True)
class Span:
    """A score's range, and the law at its noise end.

    Attributes:
        low: log-SNR of the noise end.
        high: log-SNR of the data end.
        prior: the law at ``low``, in the process's coordinates.
        endless: whether the process goes on from ``low`` to log-SNR -inf, with N(0, I) there.
    """

    low: float
    high: float
    prior: Density
    endless: bool = False

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """``(low, high)``."""
        return self.low, self.high


def log_snr_range(score: Score, process: LinearProcess, *, whole_line: bool = False) -> tuple[float, float]:
    """The log-SNR range on which a score is evaluated.

    A score that declares no range is known on the process's. One that does is known on its own, which ends at the
    process's horizon; a range that was given to the process cuts it, the process's default does not cut its data end.

    Args:
        score: ``(t, x) -> grad log p_t(x)``.
        process: the forward process.
        whole_line: for what is about the whole line of log-SNR and no process: the score's own range, uncut.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.processes import VariancePreserving
        >>> sharp = Gaussian(torch.zeros(1), 1e-8).score(VariancePreserving())
        >>> [round(level) for level in log_snr_range(sharp, VariancePreserving())]
        [-10, 27]
        >>> log_snr_range(sharp, VariancePreserving(log_snr_range=(-8.0, 8.0)))
        (-8.0, 8.0)
    """
    low, high = process.log_snr_range
    own = getattr(score, "log_snr_range", None)
    if own is None:
        return low, high
    if whole_line:
        return own[0], own[1]
    return max(low, own[0]), min(high, own[1]) if process.declares_range else own[1]


def span_of(
    score: Score, process: LinearProcess, *, prior: Density | None = None, reference: Density | None = None
) -> Span:
    """Where ``score`` is known, and the law at its noise end.

    Args:
        score: ``(t, x) -> grad log p_t(x)``.
        process: the forward process.
        prior: the law at the noise end of the score's range, where the caller knows it.
        reference: a law of the data, of which the noised version stands there otherwise; default the score's own.

    Raises:
        InputError: if the process remembers the data there and neither prior nor reference is known.

    Example:
        >>> from girsanov.processes import Cosine
        >>> span = span_of(lambda t, x: -x, Cosine())
        >>> span.log_snr_range, type(span.prior).__name__, span.endless
        ((-15.0, 15.0), 'StandardNormal', True)
    """
    low, high = log_snr_range(score, process)
    if prior is not None:
        return Span(low, high, prior)
    law = process.prior(reference if reference is not None else getattr(score, "reference", None), log_snr=low)
    return Span(low, high, law, isinstance(law, StandardNormal) and low > process.end_log_snr + ROUNDING)


def noise_end(score: Score, process: LinearProcess, law: Density) -> Density:
    """A law of the data, noised to the noise end of the range where ``score`` is known."""
    low, _ = log_snr_range(score, process)
    return law.diffused(*process.marginal_at(torch.tensor(low, dtype=torch.float64)))
