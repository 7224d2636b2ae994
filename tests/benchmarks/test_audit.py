"""The audit's registry: every contender, on a law where it should be right, is right, or wrong as the page says."""

import importlib.util
import math

import pytest
import torch

import girsanov as gv
from benchmarks.audit._contenders import CONTENDERS, Value
from benchmarks.audit._flows import shared_steps
from benchmarks.audit._measure import needed
from benchmarks.audit._problem import WRONG, affine_problem, exact_problem
from benchmarks.audit.published import CELLS, SIDE, checkerboard_velocity
from tests.laws import gaussian_case
from tests.seeds import seed, seeded

pytestmark = pytest.mark.usefixtures("float64")

#: what lies below the truth even with the exact score, by the steps that it takes
BELOW = ("DDPM's sum", "few steps, 1 evaluation")
FEW = tuple(f"few steps, {k} evaluations" for k in (2, 4, 8))
REACHED = {False: 0.02, True: 0.05}  # nats per dimension, of those that draw nothing and of those that do


@pytest.fixture(scope="module")
def problem():
    torch.set_default_dtype(torch.float64)  # of a whole module: the fixture float64 is of a function, and comes later
    case = gaussian_case((2,))
    x = case.rows(6, seed=1)
    made = exact_problem("gaussian", case, x, held=20)
    torch.set_default_dtype(torch.float32)
    return *made, x


def runs(contender, problem, x, count):
    """Values ``r n``, and what came with them."""
    tile = count if contender.tiled else 1
    found = [contender(problem, x.repeat(tile, 1), seed(k)) for k in range(max(1, count // tile))]
    return torch.cat([one.value.reshape(tile, len(x)) for one in found]), found


LONG = ("gv.chain_elbo", "compute_likelihood, as in its guide")
each_contender = pytest.mark.parametrize(
    "contender",
    [pytest.param(c, id=c.name, marks=[pytest.mark.slow] if c.name in LONG else []) for c in CONTENDERS],
)


@each_contender
def test_every_contender_says_the_truth_or_errs_as_the_page_says(contender, problem):
    if contender.package and importlib.util.find_spec(contender.package.split(".")[0]) is None:
        pytest.skip(f"{contender.package} is not installed")
    problem, truth, x = problem
    target = getattr(truth, contender.truth)
    count = (60 if contender.tiled else 8) if contender.random else 1
    values, found = runs(contender, problem, x, count)
    assert values.shape == (count, len(x))
    assert found[0].evaluations >= 1.0
    errors = (values - target).mean(1) / problem.d
    stderr = float(errors.std()) / math.sqrt(count) if count > 1 else 0.0
    if contender.name in BELOW:
        assert float(errors.mean()) < -0.1 + 5.0 * stderr
    elif contender.name == "compute_likelihood, defaults":  # its one step ends at 0, whatever the row
        assert float(values.std()) < 1e-4
    elif contender.name in FEW:
        assert float((values - target).abs().max()) > 1e-3
    else:
        allowed = 10.0 * stderr + REACHED[contender.random]  # of Student's t with 7 degrees, 1e-5
        assert abs(float(errors.mean())) < allowed


def test_names_are_one_each():
    assert len({c.name for c in CONTENDERS}) == len(CONTENDERS)


@pytest.mark.parametrize("name", WRONG)
def test_the_truths_of_wrong_scores(name):
    """The bound lies below the SDE's own density; ours reach bound and ODE, which know nothing of the closed forms."""
    case = gaussian_case((2,))
    x = case.rows(3, seed=1)
    problem, truth = affine_problem(name, case, x, held=0)
    assert bool((truth.bound <= truth.sde + 1e-6).all())
    assert float((gv.ode_log_prob(problem.pair, x).value - truth.ode).abs().max()) < 1e-3
    straight, _ = shared_steps(problem, x, 0, tolerance=1e-6)
    assert float((straight - truth.path).abs().max()) < 1e-3
    values = torch.stack([gv.elbo(problem.pair, x, samples=64, generator=seeded(k)).value for k in range(8)])
    errors = (values - truth.bound).mean(1)
    assert abs(float(errors.mean())) < 10.0 * float(errors.std()) / math.sqrt(8) + 1e-3


def test_what_is_needed_for_the_tolerance():
    rows = torch.zeros(20)
    assert needed(rows, 1e-4, 0.0, 10.0) == 10.0
    assert needed(rows, 1e-2, 0.0, 10.0) == 1000.0
    assert needed(rows + 0.02, 1e-2, 0.0, 10.0) is None
    assert needed(rows + 0.02, 1e-2, 4e-4, 10.0) == 1000.0  # a bias that does not show is none


def test_an_interval_is_what_came_with_the_value():
    assert Value.of((torch.zeros(2), 3.0)).interval is None


def test_the_checkerboards_velocity_leads_to_its_cells():
    x = torch.randn(200, 2, generator=seeded(0))
    for k in range(200):
        x = x + checkerboard_velocity(torch.tensor(k / 200), x) / 200
    cell = torch.floor(x / SIDE + 1e-3)
    inside = (cell[:, None] == CELLS).all(2).any(1)
    assert float(inside.double().mean()) > 0.9
