"""Discrete rows that repeat: nothing that is fitted to them, or chosen by them, sees the same noise in two copies.

A mean log-mass of rows from a law of entropy H is at most -H but for chance, whatever the model. Where noise is shared
by the copies of a row, in training and held-out rows alike, densities of spikes pass for better than the truth.
"""

import math

import pytest
import torch

import girsanov as gv
from girsanov.datasets import Data, from_array, split
from girsanov.density_model import ContinuousFlowConfig
from girsanov.density_model.fresh import fresh_elbo
from girsanov.encoding import Encoding
from girsanov.evaluation import evaluate
from girsanov.peers import PEERS, PeerData
from girsanov.randomness import stream
from girsanov.transforms import Dequantise
from tests.seeds import seed, seeded

MASSES = torch.tensor([0.05, 0.1, 0.3, 0.25, 0.15, 0.1, 0.05], dtype=torch.float64)
TINY = {"network": gv.networks.MLPConfig(width=16, blocks=1), "members": 1, "steps": 30, "flow": False}
ALONE = {"gaussianise": False, "mixed": False}  # no closed form beside it that hides what the diffusion itself does
KINDS = {
    "flow and mixture": {"flow": True},
    "columns": {},
    "lattice": ALONE,
    "residual": {**ALONE, "lattice_head": False},
    "truncated normal": {"gaussianise": False, "dequantise": "truncated-normal"},
    "variational": {"gaussianise": False, "dequantise": "variational"},
    "categorical": {"gaussianise": False, "dequantise": "categorical"},
    "continuous flow": {"steps": 2},
}


def settings(kind, **others):
    """The settings of one kind of fit."""
    given = {**TINY, **KINDS[kind], "seed": seed(1), **others}
    if kind != "continuous flow":
        return gv.Config(**given)
    del given["flow"]
    return ContinuousFlowConfig(**given)


def draw(n, d, number):
    """Columns that are equal in half of the rows and independent in the others, with their true log-masses."""
    generator = seeded(number)
    first, *others = torch.multinomial(MASSES, d * n, replacement=True, generator=generator).reshape(d, n)
    same = torch.rand(n, generator=generator) < 0.5
    x = torch.stack([first, *(torch.where(same, first, other) for other in others)], 1).double()
    return x, log_mass(x)


def log_mass(x):
    index, p = x.long(), MASSES
    equal = (index == index[:, :1]).all(1)
    alike = p[index[:, 0]] * equal
    return (0.5 * alike + 0.5 * p[index].prod(1)).log() if x.shape[1] > 1 else p[index[:, 0]].log()


def most(d, rows):
    """What no mean over so many rows may pass: -H, and four errors of a mean of true log-masses."""
    cells = torch.cartesian_prod(*[torch.arange(7.0, dtype=torch.float64)] * d).reshape(-1, d)
    values = log_mass(cells)
    mean = (values.exp() * values).sum()
    return float(mean + 4.0 * ((values.exp() * (values - mean).square()).sum() / rows).sqrt())


CASES = [
    pytest.param((kind, d), id=f"{kind}-{d}", marks=[pytest.mark.slow] * (kind == "continuous flow"))
    for kind in KINDS
    for d in ((2,) if kind in ("columns", "truncated normal", "continuous flow") else (1, 2))
]


@pytest.fixture(scope="module", params=CASES)
def fitted(request):
    kind, d = request.param
    x, _ = draw(1200, d, 0)
    config = settings(kind, validation=0.25, test=0.0)
    return gv.fit(x, config=config), d


def test_nothing_recorded_or_reported_passes_the_entropy(fitted):
    model, d = fitted
    for name, value in model.record["starting_points"].items():
        assert value < most(d, 300), name
    training = model.record["training"]
    for name in ("validation", "validation_before"):
        assert training[name] < most(d, 128) + 4.0 * (training["validation_stderr"] or 0.0), name
    x, _ = draw(100 if model.is_flow else 500, d, 2)
    found = evaluate(model, model.encode(x), "ode" if model.is_flow else "elbo").mean()
    assert found.value < most(d, len(x)) + 4.0 * found.stderr


@pytest.mark.parametrize("d", [1, 2])
def test_peers_do_not_pass_it_either(fitted_rows, d):
    data, x = fitted_rows(d)
    for name, fit in PEERS.items():
        peer = fit(data, 1.0)
        assert peer.validation < most(d, len(data.splits.validation)), name
        found = data.estimate(peer, x).mean()
        assert found.value < most(d, len(x)) + 4.0 * found.stderr, name


@pytest.fixture(scope="module")
def fitted_rows():
    def of(d):
        x, _ = draw(1200, d, 0)
        data, splits = from_array(x), split(len(x), seed=seed(1), test=0.0, validation=0.25)
        config = gv.Config(**TINY, gaussianise=False, test=0.0)
        model = gv.density_model.prepare(data, splits, config).eval()
        return PeerData(model, data.x, splits, seed(1)), draw(500, d, 2)[0]

    return of


@pytest.mark.parametrize("kind", ["flow and mixture", "lattice", "variational"])
def test_a_fit_evaluates_no_row_under_noise_of_its_content(kind, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("noise keyed by content within a fit")

    monkeypatch.setattr("girsanov.encoding.keyed_view", refuse)
    x, _ = draw(200, 2, 0)
    gv.fit(x, config=settings(kind, steps=2))


def test_every_copy_has_its_own_draw_and_purposes_are_independent():
    encoding = Encoding(from_array(torch.arange(20.0).reshape(10, 2)).schema, [Dequantise((2,), torch.ones(2))])
    rows = torch.ones(500, 2, dtype=torch.float64)
    (train, _), (held, _) = (encoding.spread(rows, stream(0, purpose), 2) for purpose in ("rows", "held-out rows"))
    assert len(torch.cat([train, held]).unique()) == 4000
    assert torch.corrcoef(torch.stack([train.flatten(), held.flatten()]))[0, 1].abs() < 5.0 / math.sqrt(2000)
    assert torch.equal(train, encoding.spread(rows, stream(0, "rows"), 2)[0])


def test_fresh_noise_does_not_change_what_is_estimated(fitted):
    model, d = fitted
    if model.is_flow:
        return
    x, _ = draw(300, d, 3)
    fresh = fresh_elbo(
        model, Data(model.encode(x).rows, None, None, model.schema, "x", None), seeded(4), samples=32
    ).mean()
    keyed = model.elbo(x, samples=32).mean()
    assert abs(fresh.value - keyed.value) < 9.0 * math.hypot(fresh.stderr, keyed.stderr) + 1e-3
