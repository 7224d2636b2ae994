r"""A certificate of DDPM training: what each term of the bound is worth, and how far training by it can mislead.

Over a family that contains only exact scores of densities, the continuous bound of each member *is* its log-density,
so the minimiser of the objective is that of the Kullback-Leibler divergence (paper 2, claim 2; note, section 2.6).
For a network and a chain of K steps, three numbers say how far that claim reaches:

- the gap between the discrete bound of the chain and the continuous bound, in nats: what the steps cost, by the
  trapezoid rule on the same evaluations, and what the ends do, where the continuous bound is one over another range,
  with another prior and another last decoder;
- the distortion :math:`\rho`: both losses are sums :math:`\sum_k a_k \delta_k` of the excess errors :math:`\delta_k =
  E\|\hat\varepsilon - \varepsilon^*\|^2 \ge 0` with weights :math:`a_k` (discrete) and :math:`b_k` (continuous), so

  .. math::
      \sum_k b_k \delta_k(\theta_{disc}) \le \rho \sum_k b_k \delta_k(\theta_{cont}), \qquad
      \rho = \max_k \tfrac{a_k}{b_k} \Big/ \min_k \tfrac{a_k}{b_k} :

  training by the discrete loss costs at most :math:`\rho - 1` times what the best member lacks to the entropy,
  whatever the gap in nats, and nothing where the family contains the truth;
- the share of levels outside the range where the score was trained.
"""

__all__ = ["Certificate", "certificate"]

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from girsanov.display import Shown, Summary, cells
from girsanov.likelihoods.ddpm import DDPMBound, NoiseSchedule
from girsanov.types import Estimate, InputError, MeanEstimate

if TYPE_CHECKING:
    import pandas as pd

PRINTED = 8  # points of the curve in the plain text


@final
@dataclass(frozen=True, repr=False)
class Certificate(Shown):
    """Means over rows, in nats per row, of everything that the DDPM bound consists of.

    Attributes:
        schedule: the chain.
        event_dim: number of dimensions d of a row.
        terms: ``L_0``, ``L_t`` (the sum of the curve) and ``L_T``, each with its standard errors, and ``log_det``.
        curve: L_1 .. L_{K-1}, shape ``k - 1``.
        curve_stderr: standard error of each over rows and draws, shape ``k - 1``.
        discrete: the bound of the chain (``lower_bound``), minus the sum of the terms, plus ``log_det``.
        continuous: the model's own bound, the :func:`girsanov.elbo` that was given; else that of the chain's range.
        gap: continuous minus discrete, the sum of the next two.
        steps: what the chain's steps cost: its range's continuous bound, by the trapezoid rule on the same evaluations,
            minus the discrete one. Its error is that of the paired difference.
        ends: the continuous bound minus that of the chain's range, whose noise is independent; ``None`` for one bound.
        distortion: the factor rho of the module's page, 1 or more.
        outside: levels of the chain beyond the range where the score was trained.
        nfe: network evaluations per row.
        log_det: mean log-determinant from data units to the score's coordinates, part of both bounds.
        decodes: whether the model ends in a decoder of cells, whose bound is on a log-mass and no number of these.
        elbo_range: log-SNR range of the bound that was given.
    """

    schedule: NoiseSchedule
    event_dim: int
    terms: dict[str, MeanEstimate]
    curve: Tensor
    curve_stderr: Tensor
    discrete: MeanEstimate
    continuous: MeanEstimate
    gap: MeanEstimate
    steps: MeanEstimate
    ends: MeanEstimate | None
    distortion: float
    outside: int
    nfe: int
    log_det: float = 0.0
    decodes: bool = False
    elbo_range: tuple[float, float] | None = None

    def _summary(self) -> Summary:
        title = f"Certificate of {self.schedule.name}: {self.discrete.rows:,} rows of {self.event_dim} dimensions"
        return Summary(title, table=cells(self.to_pandas()), hint="print() it for the curve and what follows from it.")

    def to_pandas(self) -> "pd.DataFrame":
        """A line for each part: nats per row, with the standard errors of the estimator and over rows."""
        import pandas as pd

        return pd.DataFrame(self.table(), columns=pd.Index(["part", "nats", "stderr", "rows_stderr"]))

    def table(self) -> list[tuple[str, float, float, float]]:
        """Rows of (name, nats per row, standard error of the estimator, standard error over rows)."""
        entries = {
            "L_0, the last decoder": self.terms["L_0"],
            f"L_1 .. L_{len(self.curve)}, the curve": self.terms["L_t"],
            "L_T, the prior": self.terms["L_T"],
        }
        if "log_det" in self.terms:
            entries["log|det| to data units"] = self.terms["log_det"]
        entries["discrete bound of the chain"] = self.discrete
        if self.ends is None:
            entries["continuous bound, same evaluations"] = self.continuous
        else:
            entries["continuous bound, the diffusion's elbo"] = self.continuous
        entries["gap between them"] = self.gap
        if self.ends is not None:
            entries["  of it the chain's steps"] = self.steps
            entries["  of it the ends, and noise"] = self.ends
        return [(name, part.value, part.stderr, part.rows_stderr) for name, part in entries.items()]

    def statement(self) -> list[str]:
        """What follows from the numbers, one sentence each."""
        per_dim = self.gap.value / self.event_dim
        found = [
            f"The discrete bound of {self.schedule.name} lies {self.gap.value:.3f} nats per row "
            f"({per_dim:.4f} per dimension) below the continuous bound: it is a bound for the chain of "
            f"{len(self.schedule.betas)} steps, and no log p.",
            f"A network that minimises this discrete loss lacks at most {self.distortion:.2f} times what the minimiser "
            "of the continuous bound lacks to the entropy of the data; nothing where the network can be exact.",
            self._about_ends(),
        ]
        if self.outside:
            found.append(
                f"{self.outside} of {len(self.schedule.betas)} levels lie outside the range where the score was "
                "trained: their terms are extrapolations."
            )
        return found

    def _about_ends(self) -> str:
        """Which continuous bound this is, and what of the gap is not the chain's steps."""
        levels = self.schedule.log_snr
        chain = (
            f"the chain's log-SNR, from {float(levels[-1]):.2f} to {float(levels[0]):.2f}, with N(0, I) at the one end "
            "and an isotropic last decoder at the other"
        )
        if self.ends is not None:
            low, high = self.elbo_range or (math.nan, math.nan)
            return (
                "The continuous bound is the elbo of the model's diffusion on these rows. "
                f"{self.steps.value:.3f} nats of the gap are the chain's steps, on the same evaluations; "
                f"{self.ends.value:.3f} +- {self.ends.stderr:.3f} are its ends: it runs over {chain}, "
                f"elbo from {low:.2f} to {high:.2f} with the reference at both."
            )
        if self.decodes:
            return (
                f"Both bounds are on log-densities at the lattice's points and run over {chain}; this model decodes "
                "cells, so that its elbo is a log-mass, and another number."
            )
        return f"Both bounds run over {chain}; an elbo over another range or with another prior is another number."

    def to_json(self) -> dict[str, Any]:
        """Everything as plain numbers and lists."""
        header = ("name", "nats", "stderr", "rows_stderr")
        return {
            "schedule": self.schedule.name,
            "steps": len(self.schedule.betas),
            "event_dim": self.event_dim,
            "rows": self.discrete.rows,
            "nfe": self.nfe,
            "table": [dict(zip(header, row, strict=True)) for row in self.table()],
            "log_snr": self.schedule.log_snr[1:].tolist(),
            "curve": self.curve.tolist(),
            "curve_stderr": self.curve_stderr.tolist(),
            "distortion": self.distortion,
            "outside": self.outside,
            "log_det": self.log_det,
        }

    def __str__(self) -> str:
        """The certificate as plain text."""
        title = (
            f"{self.schedule.name}: {self.discrete.rows} rows of {self.event_dim} dimensions, {self.nfe} nfe per row"
        )
        lines = [title, f"{'nats per row':38s} {'value':>11s} {'± est.':>9s} {'± rows':>9s}"]
        lines += [f"{name:38s} {value:11.4f} {error:9.4f} {rows:9.4f}" for name, value, error, rows in self.table()]
        lines += [f"{'log-SNR':>12s} {'L_t':>12s} {'±':>9s}"]
        last = len(self.curve) - 1
        for k in sorted({round(i * last / (PRINTED - 1)) for i in range(PRINTED)}):
            level, value, error = self.schedule.log_snr[k + 1], self.curve[k], self.curve_stderr[k]
            lines.append(f"{float(level):12.3f} {float(value):12.6f} {float(error):9.6f}")
        return "\n".join([*lines, *self.statement()])


def certificate(
    bound: DDPMBound,
    log_snr_range: tuple[float, float],
    *,
    log_det: Tensor | None = None,
    elbo: Estimate | None = None,
    decodes: bool = False,
) -> Certificate:
    """Certify what DDPM training of a score by its discrete bound is worth on the rows of that bound.

    Args:
        bound: of held-out rows, two or more; draws of two replicates or more give the estimator's errors.
        log_snr_range: where the score was trained.
        log_det: log-determinants from data units to the score's coordinates, shape ``n``; default none.
        elbo: the score's own bound of the same rows, in data units; default that of the chain's range.
        decodes: see :class:`Certificate`.

    Raises:
        InputError: for fewer than two rows.

    Example:
        >>> import torch
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.likelihoods.ddpm import SCHEDULES, ddpm_bound
        >>> from girsanov.processes import VariancePreserving
        >>> from girsanov.pairs import ScorePair
        >>> law = Gaussian(torch.zeros(2).double(), 1.0)
        >>> rows = law.sample(4, generator=torch.Generator().manual_seed(0))
        >>> bound = ddpm_bound(ScorePair(law.score(VariancePreserving())), rows, schedule=SCHEDULES["linear"](50))
        >>> found = certificate(bound, (-12.0, 12.0))
        >>> found.gap.value > 0, found.outside
        (True, 0)
    """
    rows = len(bound.last)
    if rows < 2:
        raise InputError("A certificate is about means over rows: give 2 or more held-out rows")
    levels, curve = bound.schedule.log_snr, bound.curve.mean(0)
    low, high = log_snr_range
    shift = torch.zeros_like(bound.last) if log_det is None else log_det.double()
    discrete, chain = (_shifted(estimate, shift) for estimate in (bound.estimate, bound.continuous))
    terms = _terms(bound)
    if bool(shift.any()):
        terms["log_det"] = MeanEstimate(float(shift.mean()), 0.0, float(shift.std()) / rows**0.5, rows)
    return Certificate(
        bound.schedule,
        bound.event_dim,
        terms,
        curve.mean(1),
        curve.std(1) / rows**0.5,
        discrete.mean(),
        (elbo or chain).mean(),
        bound.gap.mean() if elbo is None else _difference(elbo, discrete),
        bound.gap.mean(),
        None if elbo is None else _difference(elbo, chain),
        bound.schedule.distortion(),
        int(((levels < low) | (levels > high)).sum()),
        bound.nfe + (elbo.nfe if elbo is not None else 0),
        float(shift.mean()),
        decodes,
        None if elbo is None else elbo.log_snr_range,
    )


def _shifted(estimate: Estimate, shift: Tensor) -> Estimate:
    """The same estimate of values that lie higher by ``shift``, shape ``n``."""
    replicates = estimate.replicates
    moved = None if replicates is None else replicates + shift
    return replace(estimate, value=estimate.value + shift, replicates=moved)


def _difference(first: Estimate, second: Estimate) -> MeanEstimate:
    """Mean of first minus second over their rows; their noise is independent."""
    means, gap = (first.mean(), second.mean()), first.value - second.value
    stderr = math.hypot(*(mean.stderr for mean in means))
    spread = float(gap.std()) / math.sqrt(len(gap))
    return MeanEstimate(float(gap.mean()), stderr, spread, len(gap), min(mean.degrees for mean in means))


def _terms(bound: DDPMBound) -> dict[str, MeanEstimate]:
    """Means of L_0, the sum of the curve and L_T."""
    parts = {
        "L_0": bound.first,
        "L_t": bound.curve.sum(1),
        "L_T": bound.last.expand_as(bound.first),
    }
    fields: dict[str, Any] = {"kind": "estimate", "model": "chain", "nfe": bound.nfe, "event_dim": bound.event_dim}
    return {name: Estimate.from_replicates(part, **fields).mean() for name, part in parts.items()}
