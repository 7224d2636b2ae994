"""The pair of an adapted network: its reference, its prior and the self-test of its convention."""

__all__ = ["UNTESTED", "Facts", "pair_around", "pair_of"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from girsanov.adapters.adapted import AdaptedNetwork, arguments_of
from girsanov.adapters.conventions import Convention
from girsanov.adapters.evidence import FEWEST_ROWS, require_evidence, yardstick
from girsanov.densities import Density, Gaussian
from girsanov.inputs import as_condition, as_rows
from girsanov.pairs.score_model import ScoreModel
from girsanov.pairs.score_pair import ScorePair
from girsanov.processes import LinearProcess
from girsanov.types import InputError, State

UNTESTED = "The self-test did not run: pass rows as check=."


@dataclass(frozen=True)
class Facts:
    """What a caller knows beside the network.

    Attributes:
        prior: the law at the noise end of the range, in the process's coordinates.
        reference: a Gaussian of the data.
        check: rows of data, ``n *d``, of which the reference is made where none is given.
        condition: of these rows, leading dimension ``n`` or 1.
        notes: on what is approximate or left out in how the network is used.
    """

    prior: Density | None = None
    reference: Gaussian | None = None
    check: Any = None
    condition: Any = None
    notes: tuple[str, ...] = ()


def pair_around(
    net: Callable[..., Any],
    process: LinearProcess,
    conventions: Sequence[Convention],
    facts: Facts,
    *,
    order: str | None = None,
    time: str = "t",
    whole: bool = False,
) -> ScorePair:
    """The pair of a network that is called with rows and one number for each.

    Raises:
        InputError: where arguments, law at the noise end or convention are not what is stated.
    """
    network = AdaptedNetwork(net, process, conventions[0], arguments_of(net, order, time), whole=whole).eval()
    return pair_of(network, process, conventions, facts)


def pair_of(
    network: Any, process: LinearProcess, conventions: Sequence[Convention], facts: Facts, *, event_shape: Any = None
) -> ScorePair:
    """The pair, once the stated convention, the first, has stood against the others on the caller's rows.

    Args:
        network: a module ``(log_snr, x_t, condition) -> noise prediction`` that is also a
            :class:`girsanov.adapters.evidence.Tested`.
        process: in whose coordinates its rows are.
        conventions: the stated one, and those that it could be instead.
        facts: what is known beside it.
        event_shape: of one row, where no rows say it.

    Raises:
        InputError: where law at the noise end or convention are not what is stated.
    """
    rows, reference = _looked_at(network, facts.check), facts.reference
    if reference is None and rows is not None:
        reference = yardstick(rows)
    shape = event_shape if rows is None else rows.shape[1:]
    score = ScoreModel(network, process, "noise")
    pair = ScorePair(score, prior=facts.prior, reference=reference, event_shape=shape).eval()
    _require_prior(pair)
    if rows is None:
        network.notes += (UNTESTED,)
    else:
        condition = None if facts.condition is None else as_condition(facts.condition, rows)
        require_evidence(network, rows, conventions, pair.log_snr_range, condition)
    network.notes += facts.notes
    return pair


def _looked_at(network: nn.Module, check: Any) -> State | None:
    """Rows on the network's device and in its precision."""
    if check is None:
        return None
    rows = as_rows(check)
    if len(rows) < FEWEST_ROWS:
        raise InputError(
            f"The self-test needs {FEWEST_ROWS} rows or more; got {len(rows)}: pass more as check=, or a law of the "
            "data as reference= instead"
        )
    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return rows
    return rows.to(parameter.device, torch.promote_types(parameter.dtype, torch.float32))


def _require_prior(pair: ScorePair) -> None:
    """The law at the noise end is known, or made of what is."""
    try:
        _ = pair.prior
    except InputError as error:
        raise InputError(
            f"The data are not forgotten at log-SNR {pair.log_snr_range[0]:.3g}, where this network's noise ends: pass "
            "rows of data as check=, a law of them as reference=, or the law there as prior="
        ) from error
