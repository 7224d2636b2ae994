r"""Fresh dequantisation noise: for everything that is fitted to rows, or chosen by them.

Where discrete rows repeat, noise that a row's content keys would be the same in all of its copies, in training and in
held-out rows alike: a density fitted to them puts its mass where the few draws lie and is praised by the same draws.
Here every copy of every row has its own draw, from the stream of its purpose.
"""

__all__ = ["COPIES", "copies_for", "fresh_elbo", "fresh_log_prob", "spread"]

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from girsanov.datasets import Data
from girsanov.likelihoods import elbo, ode_log_prob
from girsanov.transforms import Compose, Dequantise
from girsanov.types import Estimate, State

if TYPE_CHECKING:
    from girsanov.density_model.model import DensityModel

COPIES = 4  # of training rows to which closed forms are fitted
MOST_COPIES = 8


def spread(transforms: Compose, rows: State, generator: torch.Generator, copies: int = COPIES) -> tuple[State, Tensor]:
    """Rows in the model's space, ``copies`` dequantisation draws of each in succession, with log-determinants.

    Args:
        transforms: from data units to the model's space; without a dequantiser nothing is drawn, and rows come once.
        rows: shape ``n *d``.
        generator: source of all draws, on the CPU.
        copies: draws of each row.
    """
    with torch.no_grad():
        if not any(isinstance(member, Dequantise) for member in transforms.transforms):
            return transforms(rows)
        uniform = torch.rand(len(rows) * copies, *rows.shape[1:], generator=generator, dtype=torch.float64)
        return transforms(rows.repeat_interleave(copies, 0), uniform.to(rows.device))


def copies_for(rows: int, wanted: int) -> int:
    """How many draws of each row bring ``rows`` to about ``wanted``, 8 at most.

    Example:
        >>> copies_for(500, 2000), copies_for(10, 2000), copies_for(3000, 2000)
        (4, 8, 1)
    """
    return max(1, min(MOST_COPIES, wanted // rows))


def fresh_elbo(
    model: "DensityModel", rows: Data, generator: torch.Generator, *, samples: int, condition: Tensor | None = None
) -> Estimate:
    """The bound of rows with noise of their own for every copy; dequantisation draws are its replicates.

    Args:
        model: whose bound is asked for.
        rows: as the model's schema encodes them.
        generator: source of the dequantisation draws.
        samples: network evaluations of each row.
        condition: leading dimension ``n`` or 1.
    """
    if not _draws(model):
        return model.elbo(rows, samples=samples, condition=_named(model, condition))
    copies = min(MOST_COPIES, samples)

    def evaluate(y: State, given: Tensor | None) -> Estimate:
        law = model.reference
        laws = {"prior": model.prior, "reference": law, "decoder": law, "proposal": model.proposal}
        score = model.score
        return elbo(score, score.process, y, samples=samples // copies, replicates=1, condition=given, **laws)

    return _merged(model, rows.x, generator, copies, condition, evaluate)


def fresh_log_prob(
    model: "DensityModel", rows: Data, generator: torch.Generator, *, condition: Tensor | None = None, **options: Any
) -> Estimate:
    """The ODE's log-density of rows, one dequantisation draw for every copy.

    Args:
        model: whose log-density is asked for.
        rows: as the model's schema encodes them.
        generator: source of the dequantisation draws.
        condition: leading dimension ``n`` or 1.
        options: ``divergence`` and ``solver`` of :func:`girsanov.ode_log_prob`.
    """
    if not _draws(model):
        return model.log_prob(rows, condition=_named(model, condition), **options)

    def evaluate(y: State, given: Tensor | None) -> Estimate:
        laws = {"prior": model.prior, "reference": model.reference}
        return ode_log_prob(model.score, model.score.process, y, condition=given, **laws, **options)

    return _merged(model, rows.x, generator, 1, condition, evaluate)


def _named(model: "DensityModel", condition: Tensor | None) -> Any:
    """Positions of classes as their names, which is what the model's own methods take."""
    if condition is None or not model.classes:
        return condition
    return [model.classes[k] for k in condition.tolist()]


def _draws(model: "DensityModel") -> bool:
    """Whether rows are dequantised: neither continuous ones are, nor those whose cells are decoded."""
    return model.measure != "density" and model.lattice is None


def _merged(
    model: "DensityModel",
    rows: State,
    generator: torch.Generator,
    copies: int,
    condition: Tensor | None,
    evaluate: Callable[[State, Tensor | None], Estimate],
) -> Estimate:
    """What ``evaluate`` says of rows in the model's space and their conditions, in data units."""
    y, log_det = spread(model.transforms, rows, generator, copies)
    if condition is not None and len(condition) > 1:
        condition = condition.repeat_interleave(copies, 0)
    found = evaluate(y, condition)
    return Estimate.from_replicates(
        (found.value + log_det).unflatten(0, (len(rows), copies)).T,
        kind="lower_bound",
        model=found.model,
        nfe=copies * found.nfe,
        event_dim=found.event_dim,
        log_snr_range=found.log_snr_range,
        measure=model.measure,
    )
