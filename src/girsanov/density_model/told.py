"""What a fitted density model says of itself: at a prompt, and on the card of a saved one."""

__all__ = ["card", "facts", "public", "title"]

import math
from pathlib import PurePath
from typing import Any

from girsanov.density_model.conditions import Conditioning
from girsanov.density_model.mixed import Mixed
from girsanov.density_model.networks import GIVEN, Architecture
from girsanov.display import counted, in_words, parameter_count
from girsanov.encoding import Encoding
from girsanov.hub import Card
from girsanov.pairs import ScoreModel
from girsanov.transforms import OnLattice, TruncatedNormalDequantise, VariationalDequantise
from girsanov.types import MeanEstimate, with_errors

STOPPED = {"finished": "all of them", "patience": "no more improvement", "time": "the time was up"}
MEASURES = {
    "density": "log-densities",
    "mass": "log-probabilities",
    "mixed": "log-densities of the continuous columns times probabilities of the discrete ones",
}
NOISES = {VariationalDequantise: "learned noise", TruncatedNormalDequantise: "truncated normal noise"}
SPLITS = {"train": "to train on", "validation": "to stop by", "test": "held out"}
NOT_COMPARABLE = "Numbers of another kind, of another model (SDE, ODE) or of other preparation are no rivals of these."
UNNAMED = "array"  # what rows are called that came without a name


def title(record: dict[str, Any]) -> str:
    """What the model is of, by the name of its source: of a path the last part, which tells no folder of anybody's."""
    name = PurePath(str(record.get("data", {}).get("name") or UNNAMED)).name
    return f"Density model of {'an array' if name == UNNAMED else name}"


def facts(
    encoding: Encoding,
    score: ScoreModel,
    *,
    conditioning: Conditioning,
    architecture: Architecture | None,
    record: dict[str, Any],
    mixed: Mixed | None,
    **_: Any,
) -> dict[str, str]:
    """Names and values of what a reader wants to know first; never a row of the data."""
    return {
        "data": _data(encoding, record),
        "splits": _splits(record.get("splits") or {}),
        "classes": in_words(conditioning.classes),
        "model": _kind(architecture, mixed),
        "network": f"{_network(architecture, score)}, {counted(parameter_count(score), 'parameter')}",
        "discrete": _dequantisation(encoding),
        "reached": _reached(record.get("training") or {}),
    }


def card(encoding: Encoding, architecture: Architecture | None, record: dict[str, Any], **others: Any) -> Card:
    """The card of the saved model."""
    load = (
        "gv.DensityModel.from_pretrained({source!r}"
        + "".join(f", {name}={name}" for name in _given(architecture))
        + ")"
    )
    calls = _likelihoods(encoding, architecture)
    usage = f"import girsanov as gv\n\nmodel = {load}\nx = model.sample(8)\nprint({next(iter(calls))})"
    parts = {"encoding": encoding, "architecture": architecture, "record": record}
    measured = record.get("evaluations") or {}
    return Card(
        title(record),
        "It gives every row a log-likelihood with its error bar, and draws new rows.",
        usage,
        facts=facts(**parts, **others),
        likelihoods=calls,
        evaluations={f"held-out rows, {name}": _evaluated(entry) for name, entry in measured.items() if entry},
        notes=[NOT_COMPARABLE, *(f"Give {name}= the {name} that it was fitted with." for name in _given(architecture))],
        tags=["density-estimation", "diffusion"],
    )


def public(record: dict[str, Any]) -> dict[str, Any]:
    """The record without the places where its data lie."""
    data = record.get("data") or {}
    named = {"data": data | {"name": PurePath(str(data["name"])).name}} if "name" in data else {}
    return {name: value for name, value in record.items() if name != "source"} | named


def _given(architecture: Architecture | None) -> list[str]:
    """What is a user's own, and is to be given again where the model is loaded."""
    if architecture is None:
        return []
    parts = {"network": architecture.network, "process": architecture.process}
    return [name for name, part in parts.items() if part["name"] == GIVEN]


def _evaluated(entry: dict[str, Any]) -> str:
    """An entry of ``metrics.json`` as the estimate prints itself."""
    own, rows = (math.nan if entry[name] is None else entry[name] for name in ("stderr", "rows_stderr"))
    mean = repr(MeanEstimate(entry["nats"], own, rows, entry["rows"]))
    bits = entry.get("bits_per_dim")
    what = f"{entry['kind'].replace('_', ' ')}, {entry['model'].upper()}"
    return f"{mean}, {what}" + ("" if bits is None else f"; {bits:.4g} bits per dimension")


def _likelihoods(encoding: Encoding, architecture: Architecture | None) -> dict[str, str]:
    """Calls of the model and what each returns, in nats per row."""
    of, flow = MEASURES[encoding.measure], architecture is not None and architecture.model == "cnf"
    decodes = isinstance(encoding.dequantiser, OnLattice)
    found = {"model.elbo(x)": f"lower bounds on {of} of the reverse-time SDE, with standard errors"}
    if decodes:
        return found
    exact = "" if encoding.measure == "density" else "lower bounds on "
    ode = {"model.log_prob(x)": f"{exact}{of} of the probability-flow ODE, another model of the same network"}
    formula = {"model.density(x)": f"lower bounds on {of} by the density formula, to a standard error of your choice"}
    return ode | found if flow else found | formula | ode


def _dequantisation(encoding: Encoding) -> str:
    """How discrete columns enter a continuous model; nothing where there are none."""
    step = encoding.dequantiser
    if step is None:
        return ""
    if isinstance(step, OnLattice):
        return "cells of a lattice, which the last step of the model decodes: no noise is added"
    noise = next((text for kind, text in NOISES.items() if isinstance(step, kind)), "uniform noise")
    return f"{noise} over one step of each discrete column (dequantisation): values are lower bounds on a log-mass"


def _data(encoding: Encoding, record: dict[str, Any]) -> str:
    schema, rows = encoding.schema, record.get("data", {}).get("rows")
    shape = " × ".join(map(str, schema.event_shape))
    what = (
        f"images of {shape}" if schema.kind == "images" else f"table of {counted(len(schema.columns or ()), 'column')}"
    )
    return what + ("" if rows is None else f", {rows:,} rows")


def _splits(splits: dict[str, Any]) -> str:
    parts = [f"{splits[name]:,} {words}" for name, words in SPLITS.items() if name in splits]
    return ", ".join(parts) + (f" (seed {splits['seed']})" if "seed" in splits else "")


def _kind(architecture: Architecture | None, mixed: Mixed | None) -> str:
    if architecture is None:
        return "of a network from elsewhere"
    if architecture.model == "cnf":
        return "continuous normalizing flow, trained by maximum likelihood"
    process = architecture.process["name"]
    beside = "" if mixed is None else f", mixed with {' and '.join(str(part.name) for part in mixed.companions)}"
    return f"diffusion, forward process {process}{beside}"


def _network(architecture: Architecture | None, score: ScoreModel) -> str:
    name = type(score.network).__name__ if architecture is None else str(architecture.network["name"])
    members = 1 if architecture is None else architecture.network.get("members", 1)
    return name + (f", {members} members" if members > 1 else "")


def _reached(training: dict[str, Any]) -> str:
    """The bound on validation rows, and what it cost."""
    if training.get("validation") is None:
        return ""
    value = with_errors(training["validation"], {"": training.get("validation_stderr") or 0.0})
    before = training.get("validation_before")
    start = "" if before is None else f", from {with_errors(before, {})} before training"
    spent = f"{counted(training['steps'], 'step')} in {training['seconds']:,.0f} s"
    return f"{value} nats per validation row{start}; {spent} ({STOPPED.get(training['stopped'], training['stopped'])})"
