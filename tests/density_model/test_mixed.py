"""Mixtures of a diffusion and closed forms: the bound stays one, in data units; weights hedge where rows are few."""

import dataclasses
import math

import pytest
import torch

import girsanov as gv
from girsanov.datasets import Splits, from_array, split
from girsanov.density_model import Config, mixing, prepare, weighted_elbo, weighted_log_prob
from girsanov.density_model.mixed import Companion, Mixed
from girsanov.density_model.mixing import companions_of, mixed_with
from girsanov.encoding import Encoding
from girsanov.likelihoods import Target
from girsanov.reports import composition
from girsanov.transforms import Dequantise, Standardise
from girsanov.types import Estimate
from tests.seeds import seed, seeded

TINY = Config(network=gv.networks.MLPConfig(width=16, blocks=1), steps=30, members=1)
PLAIN = dataclasses.replace(TINY, gaussianise=False)  # an untrained model of which is its Gaussian


def normal(mean, scale, d=2):
    return gv.GaussianMixture(torch.ones(1), torch.full((1, d), mean), torch.full((1, d), scale**2))


def untrained(x, weights, law, own=False):
    """The Gaussian of rows, mixed with a law in standardised coordinates, or in the model's own."""
    data = from_array(x)
    model = prepare(data, split(len(data.x), seed=0), PLAIN).eval()
    encoding = Encoding(data.schema)
    if data.schema.discrete:
        encoding = encoding.then(Dequantise(data.schema.event_shape, data.schema.bin_width, data.schema.offset))
    encoding = encoding.then(Standardise.fit(2.0 * data.x + 1.0))
    return model.replace(mixed=Mixed(torch.tensor(weights), [Companion("mixture", law, None if own else encoding)]))


@pytest.fixture(scope="module")
def rows():
    return 3.0 * torch.randn(300, 2, generator=seeded(0), dtype=torch.float64) + 5.0


@pytest.fixture(scope="module")
def counts():
    return torch.poisson(torch.full((300, 1), 3.0, dtype=torch.float64), generator=seeded(0))


@pytest.mark.parametrize("ahead", [-2.0, 0.0, 2.0])
def test_the_mean_of_noisy_bounds_is_below_the_mixture_and_near(ahead):
    """The logarithm of a noisy sum is above it. Of 40,000 estimates, each of eight replicates of unit variance."""
    count, noise = 40_000, torch.randn(8, 40_000, generator=seeded(1), dtype=torch.float64)
    encoding = Encoding(from_array(torch.randn(9, 2, generator=seeded(0))).schema)
    mixed = Mixed(torch.tensor([0.3, 0.7]), [Companion("mixture", normal(0.0, 1.0))])
    x = torch.zeros(count, 2, dtype=torch.float64)
    beside = math.log(0.7) - math.log(2.0 * math.pi)
    own = beside - math.log(0.3) + ahead
    found = Estimate.from_replicates(own + noise, kind="lower_bound", model="sde", nfe=8, event_dim=2)
    bound = mixed.bound(found, encoding.encode(x), encoding, seed=0)
    truth = beside + math.log1p(math.exp(ahead))
    error = float(bound.value.std()) / math.sqrt(count)
    assert truth - 0.03 < float(bound.value.mean()) < truth + 4.0 * error
    torch.testing.assert_close(sum(bound.terms.values()), bound.value - found.value)  # of which it has no others here
    naive = torch.logaddexp(found.value + math.log(0.3), torch.tensor(beside, dtype=torch.float64))
    if ahead == 0.0:  # where it shows most
        assert float(naive.mean()) > truth + 4.0 * float(naive.std()) / math.sqrt(count)
    low, high = bound.interval()
    covered = float(((low < bound.value.mean()) & (bound.value.mean() < high)).double().mean())
    assert 0.93 < covered < 0.97


def test_of_exact_values_it_is_the_mixture_in_data_units(rows):
    law = normal(0.5, 0.5)
    model = untrained(rows, [0.4, 0.6], law)
    x = rows[:40]
    y, log_det = model.mixed.companions[0].encoding.transforms(x)
    gaussian, log_scale = model.encoding.transforms(x)
    expected = torch.logaddexp(
        math.log(0.4) + model.reference.log_prob(gaussian) + log_scale, math.log(0.6) + law.log_prob(y) + log_det
    )
    near = model.diffusion.elbo(x).stderr == 0.0  # far rows meet a flat law, which is sampled
    assert int(near.sum()) > 30
    for estimate in (model.elbo(x), model.density(x), model.log_prob(x)):
        torch.testing.assert_close(estimate.value[near], expected[near], rtol=0.0, atol=1e-5)
        torch.testing.assert_close(sum(estimate.terms.values()), estimate.value, rtol=0.0, atol=1e-9)
    assert (model.log_prob(x).kind, model.elbo(x).kind, model.elbo(x).nfe) == ("exact", "lower_bound", 32)


def test_of_discrete_rows_it_is_a_bound_on_the_mass(counts):
    """The masses of all rows sum to less than one, but not much: importance-weighted ones too."""
    model = untrained(counts, [0.2, 0.8], normal(0.0, 0.6, d=1))
    whole = torch.arange(-8.0, 20.0, dtype=torch.float64)[:, None]
    for bound in (
        model.elbo(whole),
        model.log_prob(whole, draws=8, solver=gv.solvers.FixedGrid(4)),
        weighted_elbo(model, whole),
        weighted_log_prob(model, whole, solver=gv.solvers.FixedGrid(4)),
    ):
        assert bound.measure == "mass"
        mass = bound.value.exp()
        assert 0.8 < float(mass.sum()) < 1.0 + 4.0 * float((mass * bound.stderr).square().sum().sqrt())
    assert float((weighted_elbo(model, counts).value - model.elbo(counts).value).mean()) > 0.0


def test_draws_come_from_every_part_by_its_weight(rows):
    model = untrained(rows, [0.25, 0.75], normal(50.0, 0.1), own=True)
    drawn = model.sample(400, generator=seeded(2), steps=8)
    far = (drawn > 100.0).all(1)
    assert abs(float(far.double().mean()) - 0.75) < 4.0 * math.sqrt(0.75 * 0.25 / 400)
    assert float((drawn[~far].mean(0) - rows.mean(0)).abs().max()) < 4.0 * 3.0 / math.sqrt(60)
    assert torch.equal(drawn, model.sample(400, generator=seeded(2), steps=8))


def test_a_row_does_not_depend_on_its_batch_and_gradients_pass(rows, counts):
    for x in (rows, counts):
        model = untrained(x, [0.5, 0.5], normal(0.0, 0.7, d=x.shape[1]))
        together = model.elbo(x[:50]).value
        assert torch.equal(torch.cat([model.elbo(x[i : i + 1]).value for i in (0, 49)]), together[[0, 49]])
    x = rows[:3].clone().requires_grad_()
    untrained(rows, [0.5, 0.5], normal(0.0, 0.7)).elbo(x).value.sum().backward()
    assert bool((x.grad.abs().sum(1) > 0.0).all())


def test_one_replicate_cannot_weigh_itself(rows):
    model = untrained(rows, [0.5, 0.5], normal(0.0, 0.7))
    with pytest.raises(gv.InputError, match="raise samples"):
        model.elbo(rows[:2], samples=1)


@pytest.fixture(scope="module")
def fitted():
    """Two clusters of few rows, by a network that has hardly learned."""
    centre = 4.0 * torch.randint(0, 2, (240, 1), generator=seeded(3)).double()
    x = centre + torch.randn(240, 3, generator=seeded(4), dtype=torch.float64)
    return x, gv.fit(x, config=dataclasses.replace(PLAIN, flow=False, seed=seed(0)))


def test_a_fit_to_few_rows_is_a_mixture_and_not_behind_its_parts(fitted):
    x, model = fitted
    assert model.record["mixed"] == pytest.approx(model.mixed.shares)
    assert sum(model.mixed.shares.values()) == pytest.approx(1.0)
    test = x[Splits.from_json(model.record["splits"]).test]
    own, whole = model.diffusion.elbo(test), model.elbo(test)
    start = model.mixed.companions[0].log_prob(model.encode(test).rows, model.encoding, 1, 0)[0]
    assert float(whole.value.mean()) > max(float(own.value.mean()), float(start.mean())) + 0.1
    assert model.mixed.shares["mixture"] > 0.5
    assert composition({"mixed": model.record["mixed"]}).endswith("% a mixture of Gaussians.")
    # what is about the score is about the diffusion's
    assert gv.certify(model, test[:4]).continuous == model.diffusion.elbo(test[:4]).mean()


def test_a_target_keeps_its_promise(fitted):
    x, model = fitted
    found = model.density(x[:20], target=Target(0.05, max_samples=1024))
    assert bool((found.stderr[found.met] <= 0.05 * (1.0 + 1e-9)).all())
    assert float((found.value - model.density(x[:20], samples=512).value).abs().max()) < 0.5


def test_saving_keeps_every_bit(fitted, tmp_path):
    x, model = fitted
    model.save_pretrained(tmp_path / "model")
    twin = gv.DensityModel.from_pretrained(tmp_path / "model")
    assert twin.mixed.shares == model.mixed.shares
    assert torch.equal(twin.elbo(x[:9]).value, model.elbo(x[:9]).value)
    assert torch.equal(twin.sample(9), model.sample(9))


def test_where_rows_are_many_what_does_not_help_is_left_out():
    x = torch.randn(3000, 2, generator=seeded(5), dtype=torch.float64)
    data, splits = from_array(x), split(3000, seed=0)
    model = prepare(data, splits, PLAIN).eval()  # whose start it is: nothing can be gained
    companions = companions_of(model, data, splits, PLAIN)
    assert [companion.name for companion in companions] == ["start", "mixture"]
    assert mixed_with(model, companions[:1], data, splits, PLAIN) is model
    behind = normal(0.0, 2.0)
    assert mixed_with(model, [Companion("mixture", behind)], data, splits, PLAIN) is model
    ahead = companions_of(model, from_array(x**3), splits, PLAIN)
    cubes = prepare(from_array(x**3), splits, PLAIN).eval()  # a Gaussian of heavy tails
    assert mixed_with(cubes, ahead[1:], from_array(x**3), splits, PLAIN).mixed.shares["mixture"] > 0.9


@pytest.mark.parametrize(
    ("training_rows", "errors", "kept"), [(200, -1.5, 1), (200, -3, 0), (5000, 0.5, 0), (5000, 2, 1)]
)
def test_few_held_out_rows_must_speak_clearly_against_closed_forms(training_rows, errors, kept):
    gain = torch.linspace(-1.0, 1.0, 25, dtype=torch.float64)
    gain = gain + errors * float(gain.std()) / 5.0
    assert mixing._worth_having(gain, training_rows) == bool(kept)


def test_conditional_models_images_and_flows_have_no_closed_forms(rows):
    labelled = from_array(rows, labels=torch.arange(300) % 2)
    splits = split(300, seed=0)
    for data, config in (
        (labelled, dataclasses.replace(PLAIN, conditional=True)),
        (labelled, dataclasses.replace(PLAIN, mixed=False)),
        (labelled, gv.density_model.ContinuousFlowConfig(steps=1)),
        (from_array(torch.randn(60, 1, 4, 4, generator=seeded(0))), PLAIN),
    ):
        model = prepare(data, split(len(data.x), seed=0) if data is not labelled else splits, config)
        assert companions_of(model, data, splits, config) == []
