"""What a person sees at a prompt: one screen, no dump of numbers, and HTML that is well-formed and escaped."""

import dataclasses
import importlib
import xml.etree.ElementTree as ElementTree
from typing import Any

import pandas as pd
import pytest
import torch

import girsanov as gv
from girsanov.applications.annealing import LogNormaliser
from girsanov.applications.energy import EnergyModel, TiltedGaussian
from girsanov.applications.tokens import TokenModel
from girsanov.bridges.reference_size import ReferenceSize
from girsanov.datasets import from_array
from girsanov.display import Shown, Summary, cells, in_words
from girsanov.likelihoods.ddpm import SCHEDULES
from girsanov.networks import MLPConfig
from girsanov.training import TrainingResult
from girsanov.types import Estimate, MeanEstimate, with_errors

HOSTILE = "<script>alert('&')</script>"
NUMBERS = ("Tensor", "State", "Nats", "Estimate")  # what fields of a result are annotated with
# what one gives to the package, or what its parts give to each other
NO_RESULTS = {
    *("Constant", "Diagonal", "Full", "Function", "Isotropic", "Radial", "Spectral", "Triangular", "ValueMap"),  # maps
    *("InverseLog", "InverseMultiquadric", "Matern", "RadialKernel", "SquaredExponential"),  # kernels
    *("Batch", "CellHistogram", "Checkpoint", "ContinuousFlow", "EndRows", "Guidance", "LevelPrior", "LogSNRDensity"),
    *("Noised", "ParametricBootstrap", "PeerData", "Pinned", "Splits", "Step"),
}


def public_classes():
    """The classes that the package exports, by its own list and those of its parts."""
    parts = [importlib.import_module(f"girsanov.{name}") for name in gv._PARTS]
    found = [getattr(part, name) for part in parts for name in part.__all__] + [getattr(gv, n) for n in gv.__all__]
    return {value.__name__: value for value in found if isinstance(value, type)}


RESULTS = {
    name: value
    for name, value in public_classes().items()
    if dataclasses.is_dataclass(value)
    and any(word in str(field.type) for field in dataclasses.fields(value) for word in NUMBERS)
}


def filled(kind: str) -> Any:
    """Something that a field of this annotation may hold, large where it can be."""
    if "MeanEstimate" in kind:
        return MeanEstimate(-1.0, 0.1, 0.2, 2000)
    if "Estimate" in kind:
        return Estimate.from_replicates(torch.randn(4, 2000), kind="exact", model="sde", nfe=1, event_dim=2)
    if any(word in kind for word in NUMBERS):
        return torch.randn(2000, 30)
    plain = {"float": 0.25, "int": 2000, "str": HOSTILE, "tuple": (HOSTILE,) * 300, "dict": {HOSTILE: "x" * 500}}
    return next((value for name, value in plain.items() if kind.startswith(name)), None)


@pytest.fixture(scope="module")
def objects():
    """Objects with a summary of their own, large or with hostile names where they can be."""
    generator = torch.Generator().manual_seed(0)
    law = gv.Gaussian(torch.zeros(2), 1.0)
    x = law.sample(300, generator=generator)
    pair = gv.ScorePair(law.score(gv.VariancePreserving()))
    table = pd.DataFrame(torch.randn(60, 40, generator=generator).numpy(), columns=[f"{HOSTILE}{i}" for i in range(40)])
    data = dataclasses.replace(from_array(table), name=f"/home/somebody/{HOSTILE}.csv")
    model = gv.fit(data, config=gv.Config(steps=2, network=MLPConfig(width=8), flow=False))
    bridge = gv.SchrodingerBridge(gv.BrownianMotion(), dim=2, steps=2)
    training = TrainingResult(bridge, 5, 9, 1.0, "patience", None, None, None, ())
    return {
        "estimate": gv.elbo(pair, x, samples=8),
        "mean": gv.elbo(pair, x, samples=8).mean(),
        "model": model,
        "data": data,
        "pair": pair,
        "plain pair": gv.Pair(gv.OrnsteinUhlenbeck(), lambda t, x: x, law),
        "bridge": bridge,
        "score test": gv.score_test(pair, x, torch.linspace(0.0, 6.0, 12)),
        "goodness": gv.goodness_of_fit(x, lambda x: -x),
        "certificate": gv.certify(model, table[:8], schedule=SCHEDULES["linear"](50)),
        "curve": gv.evaluation.denoising_curve(model, table[:8], levels=torch.tensor([-1.0, 1.0])),
        "difference": gv.evaluation.difference(torch.arange(12.0), torch.zeros(12)),
        "bracket": gv.chain_bracket(pair, 12, paths=2, steps=4),
        "classifier": gv.DiffusionClassifier(pair, classes=[f"{HOSTILE}{i}" for i in range(200)]),
        "novelty": gv.applications.Novelty(),
        "model from elsewhere": model.replace(architecture=None, record={}),
        "tokens": TokenModel(torch.zeros(3, 2), torch.eye(6)),
        "log Z": LogNormaliser(-2.5, 0.04, torch.randn(16), 300.0, 0.8, 2000),
        "energy": EnergyModel(TiltedGaussian(law), law, training),
        "size": ReferenceSize(0.5, 1.0, "left-out times", {0.25: 2.0, 0.5: 1.5}, 3.0),
    }


OWN = (
    "estimate", "mean", "model", "data", "pair", "plain pair", "bridge", "score test", "goodness", "certificate",
    "curve", "difference", "bracket", "classifier", "novelty", "model from elsewhere", "tokens", "log Z", "energy",
    "size",
)  # fmt: skip


def require_one_screen(shown):
    text = repr(shown)
    assert 0 < len(text.splitlines()) <= 25
    assert max(map(len, text.splitlines())) <= 120
    assert "tensor(" not in text
    assert " at 0x" not in text
    page = shown._repr_html_()
    assert len(page) < 20_000
    assert "<script" not in page
    assert "color" not in page  # the notebook's own, light or dark
    ElementTree.fromstring(f"<div>{page}</div>")


@pytest.mark.parametrize("name", OWN)
def test_an_object_shows_one_screen(name, objects):
    assert set(OWN) == set(objects)
    require_one_screen(objects[name])


@pytest.mark.parametrize("name", sorted(RESULTS.keys() - NO_RESULTS - {"Estimate"}))
def test_a_result_shows_one_screen(name):
    kind = RESULTS[name]
    assert issubclass(kind, Shown)
    assert kind.__repr__ is Shown.__repr__
    if kind._summary is Shown._summary:
        blank = object.__new__(kind)
        for field in dataclasses.fields(kind):
            object.__setattr__(blank, field.name, filled(str(field.type)))
        require_one_screen(blank)


def test_what_is_no_result_is_exported():
    assert set(RESULTS) >= NO_RESULTS


def test_a_long_summary_is_cut_with_its_hint_kept():
    facts = {f"fact {i}": "word " * 200 for i in range(40)}
    long = Summary("title " * 60, facts, [["a", "b"]] + [["x" * 80, "y" * 80]] * 400, hint="go on")
    assert len(long.lines()) <= 25
    assert long.lines()[-1] == "  go on"
    assert max(map(len, long.lines())) <= 120


def test_a_table_says_how_many_lines_are_left_out():
    lines = Summary("t", table=cells(pd.DataFrame({"a": range(30), "b": 0.5}))).lines()
    assert lines[1].split() == ["a", "b"]
    assert lines[-1].split() == ["…", str(30 - (len(lines) - 3)), "more"]
    assert "<td" in Summary("t", table=cells(pd.DataFrame({"a": range(30)}))).html()


def test_the_page_holds_what_the_text_holds(objects):
    model = objects["model"]
    page = "".join(ElementTree.fromstring(model._repr_html_()).itertext())
    for part in ("table of 40 columns, 60 rows", "held out", "parameters", "nats per validation row", "model.elbo(x)"):
        assert part in page
        assert part in " ".join(repr(model).split())
    assert "somebody" not in page  # a path stays where it is


def test_tensors_are_told_by_shape_and_range():
    assert in_words(torch.tensor([0.0, torch.nan, 2.0] * 5)) == "15, from 0 to 2, 5 missing or infinite"
    assert in_words(torch.zeros(0, 3)) == "0 × 3"
    assert in_words(torch.full((9,), torch.nan)) == "9, 9 missing or infinite"
    assert in_words(-1.5) == "−1.5"
    assert in_words(True) == "True"


@pytest.mark.parametrize(
    ("value", "errors", "text"),
    [
        (-41.8471, {"estimator": 0.0121, "rows": 0.1794}, "−41.85 ± 0.01 (estimator) ± 0.18 (rows)"),
        (-41.8471, {"estimator": 0.00121, "rows": 0.1794}, "−41.847 ± 0.001 (estimator) ± 0.179 (rows)"),
        (-41.8471, {"": 0.0121}, "−41.847 ± 0.012"),
        (1234.5, {"": 210.0}, "1234 ± 210"),
        (2.0, {"": float("nan")}, "2.000"),
        (-2.0, {"": 1e-17}, "−2.000"),  # rounding
    ],
)
def test_a_number_has_the_digits_that_its_errors_allow(value, errors, text):
    assert with_errors(value, errors) == text


def test_an_estimate_of_one_row_has_its_own_error_and_says_what_it_lacks():
    replicates = torch.tensor([[-2.0], [-2.2], [-2.1]])
    one = Estimate.from_replicates(replicates, kind="lower_bound", model="sde", nfe=3, event_dim=1)
    assert repr(one) == "−2.100 ± 0.058 nats, lower bound, SDE, 1 row"
    needed = torch.tensor([[-20.0, 3.0]])
    short = dataclasses.replace(one, kind="estimate", needed=needed, log_snr_range=(-10.0, 10.0))
    assert repr(short).splitlines()[1] == short.caveat != ""


def test_results_that_are_tables_are_data_frames(objects):
    lines = {"estimate": 300, "score test": 12, "certificate": 9, "curve": 2, "bracket": 12, "data": 60}
    for name, count in lines.items():
        assert isinstance(objects[name].to_pandas(), pd.DataFrame), name
        assert len(objects[name].to_pandas()) == count, name
    estimate, table = objects["estimate"], objects["score test"].to_pandas()
    assert estimate.to_pandas()["value"].tolist() == estimate.value.tolist()
    assert table["corrected"].min() == objects["score test"].pvalue
