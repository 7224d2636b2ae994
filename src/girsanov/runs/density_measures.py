"""What a fitted density model is worth on held-out rows, beside peers that are fitted to the same rows."""

__all__ = ["EvaluationConfig", "codecs_of", "evaluated", "peers_of"]

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from girsanov.datasets import Schema, Splits
from girsanov.density_model import DensityModel
from girsanov.evaluation import difference, evaluate, summary
from girsanov.networks.configs import LARGE_ROW
from girsanov.peers import SEARCHES, Peer, PeerData, compressed, peers_for
from girsanov.randomness import seed_of
from girsanov.reports import Attempts
from girsanov.runs.budget import Budget
from girsanov.runs.conditions import condition_of
from girsanov.runs.rows import Rows
from girsanov.types import FEWEST, Estimate, InputError, State, require_counts

PEER_SECONDS = 10.0  # peers get at least so long
SAMPLES, SAMPLES_OF_LARGE = 32, 8  # evaluations of a row
STEPS, STEPS_OF_LARGE = 128, 40  # of the sampler
PILOT = 64  # rows of the bound, and of codecs, that are timed first, where there is a time budget
FITTING = 0.8  # of a peer's time; the rest evaluates it


@dataclass(frozen=True)
class EvaluationConfig:
    """How a fitted model is evaluated.

    Attributes:
        samples: network evaluations per row of the bound; by default 32, of rows of over 256 numbers 8.
        ode_rows: held-out rows on which the ODE's likelihood is computed; 0 leaves it out.
        peers: whether other models are fitted to the same rows.
        peer_seconds: time for each peer; by default what our own training took.
        sampler_steps: steps of the sampler for the figures; by default 128, of rows of over 256 numbers 40.

    Raises:
        InputError: for a value that cannot work.
    """

    samples: int | None = None
    ode_rows: int = 32
    peers: bool = True
    peer_seconds: float | None = None
    sampler_steps: int | None = None

    def __post_init__(self) -> None:
        require_counts(self, "samples", "sampler_steps")
        require_counts(self, "ode_rows", least=0)
        if self.peer_seconds is not None and not 0.0 < self.peer_seconds < math.inf:
            raise InputError(f"peer_seconds must be positive; got {self.peer_seconds}")

    def samples_of(self, rows: Rows) -> int:
        """Evaluations of each of the rows."""
        return self.samples or (SAMPLES if rows.x[0].numel() <= LARGE_ROW else SAMPLES_OF_LARGE)

    @staticmethod
    def steps_of(schema: Schema) -> int:
        """Steps of the sampler where none were asked for: large rows take longer, and fewer do."""
        return STEPS if math.prod(schema.event_shape) <= LARGE_ROW else STEPS_OF_LARGE


def evaluated(
    model: DensityModel, rows: Rows, evaluation: EvaluationConfig, seed: int, attempts: Attempts, budget: Budget
) -> tuple[Estimate, dict[str, Any]]:
    """Our bound of each row, of the first rows where time is short, and the entries of every likelihood of ours."""

    def measure(part: Rows, likelihood: str, condition: Any = None) -> tuple[Estimate, dict[str, Any]]:
        begun = time.monotonic()
        generator = torch.Generator().manual_seed(seed)
        options = {"samples": evaluation.samples_of(rows), "condition": condition, "generator": generator}
        estimate = evaluate(model, part.data, likelihood, **options)
        seconds = {"fit_seconds": model.record["training"]["fit_seconds"], "seconds": _since(begun)}
        return estimate, summary(estimate) | seconds

    given = bool(model.classes) and rows.data.codes is not None
    alone = model.lattice is not None  # no ODE comes after it
    part = budget.part((0.5 if given else 1.0) if alone else (0.4 if given else 0.6))
    bound, entry = part.most("rows of the bound", len(rows), lambda n: measure(rows[:n], "elbo"), least=PILOT)
    rows, test = rows[: len(bound.value)], {"elbo": entry}
    if given:
        test["elbo_given_class"] = measure(rows, "elbo", condition_of(model, rows, own_class=True))[1]
    # a flow's own likelihood: of every row
    count = len(rows) if model.is_flow else min(evaluation.ode_rows, len(rows))

    def ode() -> dict[str, Any]:
        budget.require()
        return budget.most("rows of the ODE", count, lambda n: measure(rows[:n], "ode")[1], least=2)

    if count and model.lattice is None:
        found = attempts("likelihood of the ODE", ode)
        test |= {} if found is None else {"ode": found}
    return bound, test


def peers_of(
    model: DensityModel,
    x: State,
    rows: Rows,
    ours: Estimate,
    evaluation: EvaluationConfig,
    attempts: Attempts,
    budget: Budget,
) -> dict[str, tuple[dict[str, Any], Tensor]]:
    """Entry and values per row of each peer.

    Args:
        model: with which they are compared.
        x: all encoded rows, of which the peers get the same as the model.
        rows: held-out rows.
        ours: the model's bound of each.
        evaluation: how long a peer may take.
        attempts: keeps why one could not be fitted.
        budget: of all peers.
    """
    seed = seed_of(torch.Generator().manual_seed(model.record["config"]["seed"]))  # that of the bound's draws
    data = PeerData(model, x, Splits.from_json(model.record["splits"]), seed)
    wanted = evaluation.peer_seconds or max(PEER_SECONDS, model.record["training"]["fit_seconds"])

    def compare(fit_peer: Callable[[PeerData, float], Peer], seconds: float) -> tuple[dict[str, Any], Tensor]:
        budget.require()
        peer, begun = fit_peer(data, seconds), time.monotonic()
        estimate = data.estimate(peer, rows.x)
        gap = asdict(difference(ours, estimate)) if len(rows) >= FEWEST else None
        entry = summary(estimate) | {
            "fit_seconds": round(peer.seconds, 1),
            "seconds": _since(begun),
            "validation": peer.validation,
            "settings": peer.settings,
            "difference": gap,
        }
        return entry, estimate.value

    entries, peers = {}, peers_for(model.schema)
    for position, (name, fit_peer) in enumerate(peers.items()):
        left = list(peers)[position:]  # the quick ones come first and leave most of their time to those that search
        seconds, what = min(wanted, FITTING * budget.left / len(left)), name.replace("_", " ")
        shown = f" (at most about {seconds:.0f} s)" if name in SEARCHES else ""
        attempts.note(f"fitting for comparison: {what}{shown}")
        found = attempts(what, partial(compare, fit_peer, seconds))
        if found is not None:
            entries[name] = found
    return entries


def codecs_of(schema: Schema, rows: Rows, attempts: Attempts, budget: Budget) -> dict[str, dict[str, Any]]:
    """An entry for each lossless codec of pictures: bits per dimension of the rows, where they are images of bytes.

    Args:
        schema: of the rows.
        rows: held-out ones, all that the model's bound is of.
        attempts: keeps why there is none.
        budget: within which all rows must be written.
    """
    if schema.kind != "images" or len(schema.event_shape) != 3 or not bool((schema.bin_width > 0).all()):
        return {}
    levels = ((rows.x.cpu() - schema.offset) / schema.bin_width).round().long()
    lowest = int(levels.min())
    levels = levels if lowest >= 0 and int(levels.max()) <= 255 else levels - lowest  # as of pixels from -1 to 1

    def files() -> dict[str, float]:
        budget.require()
        begun = time.monotonic()
        found = compressed(levels[:PILOT])
        if len(levels) <= PILOT:
            return found
        if (time.monotonic() - begun) * len(levels) / PILOT > budget.left:
            raise InputError("no time was left for it: give a larger time budget")
        return compressed(levels)

    found = attempts("files of codecs", files) or {}
    return {name: {"bits_per_dim": bits, "rows": len(levels)} for name, bits in found.items()}


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 2)
