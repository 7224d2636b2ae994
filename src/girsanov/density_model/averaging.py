"""ODE values of several dequantisation draws of the same rows, as one estimate."""

__all__ = ["averaged"]

import torch
from torch import Tensor

from girsanov.types import Estimate, Measure


def averaged(estimates: list[Estimate], log_det: Tensor, measure: Measure) -> Estimate:
    """The average of ODE values over dequantisation draws, in data units.

    Args:
        estimates: one for each of ``k`` draws, of the same ``n`` rows in the model's space.
        log_det: log-determinants that lead to data units, shape ``n k``.
        measure: of the model; with discrete columns the average is a lower bound.
    """
    values = torch.stack([estimate.value for estimate in estimates]) + log_det.T
    first = estimates[0]
    terms = {name: torch.stack([e.terms[name] for e in estimates]).mean(0) for name in first.terms}
    common = {
        "model": "ode",
        "nfe": sum(estimate.nfe for estimate in estimates),
        "event_dim": first.event_dim,
        "log_snr_range": first.log_snr_range,
        "terms": {**terms, "log_det": log_det.mean(1)},
        "measure": measure,
        "needed": _widest(estimates),
    }
    if measure != "density":
        promised = all(estimate.kind != "estimate" for estimate in estimates)
        kind = "lower_bound" if promised else "estimate"
        return Estimate.from_replicates(values, kind=kind, **common)
    if first.replicates is not None:  # probes: their spread is the error
        return Estimate.from_replicates(first.replicates + log_det[:, 0], kind=first.kind, **common)
    return Estimate(values[0], first.stderr, kind=first.kind, **common)  # type: ignore[arg-type]


def _widest(estimates: list[Estimate]) -> Tensor | None:
    """The range that a row needs in all its dequantisation draws."""
    needed = [estimate.needed for estimate in estimates if estimate.needed is not None]
    if not needed:
        return None
    low, high = torch.stack(needed).unbind(2)
    return torch.stack([low.amin(0), high.amax(0)], 1)
