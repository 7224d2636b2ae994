import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import girsanov as gv
from girsanov.datasets import from_array, split
from girsanov.density_model import prepare
from girsanov.evaluation import LIKELIHOODS, denoising_curve, difference, evaluate, score, summary
from girsanov.types import Estimate
from tests.seeds import seeded

PLAIN = gv.Config(steps=1, network=gv.networks.MLPConfig(width=8, blocks=1), gaussianise=False, flow=False)


def untrained(x):
    """The Gaussian model of rows: every gain is 0."""
    data = from_array(x)
    return prepare(data, split(len(x), seed=0), PLAIN).eval(), data.x


@pytest.fixture(scope="module")
def gaussian():
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.1, 0.2, 2.0]])
    return untrained(torch.randn(400, 3, generator=seeded(1)) @ mixing.T)


@pytest.fixture(scope="module")
def clusters():
    """A trained model of two clusters, where a network gains on the Gaussian, and rows it has not seen."""
    generator = seeded(2)
    x = torch.randn(900, 2, generator=generator) * 0.3
    x[:, 0] += 2.0 * torch.randint(0, 2, (900,), generator=generator)
    config = gv.Config(
        steps=800, network=gv.networks.MLPConfig(width=48, blocks=1), batch_size=128, gaussianise=False, flow=False
    )
    return gv.fit(x[:600], config=config), x[600:].double()


def test_each_likelihood_is_named_by_its_model(clusters):
    model, x = clusters
    for name, owner in LIKELIHOODS.items():
        assert evaluate(model, x[:2], name, samples=8).model == owner
    with pytest.raises(gv.InputError, match="choose one of elbo, density, ode"):
        evaluate(model, x[:2], "likelihood")


def test_evaluations_are_those_of_the_model(clusters):
    model, x = clusters
    generators = [seeded(5) for _ in range(2)]
    assert torch.equal(
        evaluate(model, x[:9], samples=16, generator=generators[0]).value,
        model.elbo(x[:9], samples=16, generator=generators[1]).value,
    )


def test_scores_are_a_frame_with_the_index_of_the_rows(clusters):
    model, x = clusters
    rows = pd.DataFrame(x[:5].numpy().copy(), columns=["u", "v"], index=[*"abcde"])
    rows.loc["b", "u"] = np.nan
    found = score(model, rows, samples=16)
    assert list(found.index) == [*"abcde"]
    assert list(found.columns) == ["value", "stderr", "kind", "model", "error"]
    assert found["error"].tolist() == [None, "x.iloc[1], column 'x1' is missing", None, None, None]
    whole = model.elbo(x[:5], samples=16)
    kept = [0, 2, 3, 4]
    assert np.isnan(found.loc["b", "value"])
    assert found["value"].to_numpy()[kept].tolist() == whole.value[kept].tolist()
    assert found["stderr"].to_numpy()[kept].tolist() == whole.stderr[kept].tolist()
    strict = score(model, x[:5], samples=16, on_error="fail")
    pd.testing.assert_frame_equal(strict, whole.to_pandas())
    with pytest.raises(gv.InputError, match=r"x\.iloc\[1\], column 'x1' is missing"):
        score(model, rows, on_error="fail")
    with pytest.raises(gv.InputError, match="on_error must be nan or fail; got 'ignore'"):
        score(model, rows, on_error="ignore")


def test_refused_rows_take_their_conditions_with_them():
    generator = seeded(3)
    labels, x = torch.arange(60) % 3, torch.randn(60, 2, generator=generator)
    settings = gv.Config(steps=2, network=gv.networks.MLPConfig(width=8, blocks=1), conditional=True)
    model = gv.fit(x, labels=labels, config=settings)
    broken = x[:6].clone()
    broken[2, 1] = math.nan
    expected = model.elbo(x[:6], samples=8, condition=labels[:6]).value
    for given in (labels[:6], labels[:6].tolist(), pd.Series(labels[:6].numpy())):
        found = score(model, broken, samples=8, condition=given)["value"].to_numpy()
        assert np.delete(found, 2).tolist() == np.delete(expected.numpy(), 2).tolist()
    assert score(model, broken, samples=8, condition=1)["error"].notna().sum() == 1
    with pytest.raises(gv.InputError, match="leading dimension 1 or 6; got 4"):
        score(model, broken, condition=labels[:4])


def test_probes_replace_the_exact_divergence_where_there_are_many_dimensions():
    model, x = untrained(torch.randn(80, 14, generator=seeded(0)))
    estimate = evaluate(model, x[:2], "ode")
    assert estimate.kind == "unbiased"
    assert bool(torch.isfinite(estimate.stderr).all())


def test_an_untrained_model_has_no_gain(gaussian):
    model, x = gaussian
    curve = denoising_curve(model, x[:50], levels=torch.linspace(-6, 6, 7))
    assert torch.equal(curve.gain, torch.zeros(7, dtype=torch.float64))
    assert curve.nats_per_dim() == 0.0


def test_closed_forms_of_the_curve(gaussian):
    model, x = gaussian
    levels = torch.tensor([-3.0, 0.0, 4.0], dtype=torch.float64)
    curve = denoising_curve(model, x, levels=levels)
    covariance = model.reference.covariance
    for i, level in enumerate(levels):
        # the trace of the linear denoiser's error covariance, without the spectrum
        alpha2, sigma2 = torch.sigmoid(level), torch.sigmoid(-level)
        total = alpha2 * covariance + sigma2 * torch.eye(3, dtype=torch.float64)
        error = torch.trace(torch.eye(3, dtype=torch.float64) - sigma2 * torch.linalg.inv(total)) / 3
        assert curve.gaussian[i] == pytest.approx(error.item(), rel=1e-9)
        assert curve.standard[i] == pytest.approx(alpha2.item())
    # rows of the Gaussian's own law: one test in 15,000 fails by chance at each level
    assert bool(((curve.model - curve.gaussian).abs() < 4 * curve.stderr + 0.02).all())


def test_the_area_of_the_gain_is_the_gain_of_the_bound(clusters):
    model, x = clusters
    curve = denoising_curve(model, x)
    y, log_det = model.encoding.transforms(x)
    bound = model.diffusion.elbo(x, samples=64)
    gain = (bound.value - model.reference.log_prob(y) - log_det).mean() / 2
    assert gain > 0.1
    # the ends are not in the area; they are small, and the noise is the curve's and the bound's
    assert curve.nats_per_dim() == pytest.approx(gain.item(), abs=0.04)


def test_the_curve_does_not_depend_on_chunks(clusters, monkeypatch):
    model, x = clusters
    levels = torch.tensor([0.0, 2.0])
    whole = denoising_curve(model, x[:30], levels=levels)
    monkeypatch.setattr("girsanov.evaluation.CHUNK", 7)
    parts = denoising_curve(model, x[:30], levels=levels)
    assert torch.allclose(whole.gain, parts.gain, atol=1e-6)


def test_the_interval_of_a_difference_is_students_where_nothing_is_skewed():
    half = torch.randn(13, generator=seeded(0), dtype=torch.float64)
    ours, theirs = torch.cat([half, -half]), torch.full((26,), 0.5, dtype=torch.float64)
    result = difference(ours, theirs)
    expected = stats.ttest_rel(ours.numpy(), theirs.numpy()).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert (result.nats, result.rows) == (pytest.approx(-0.5), 26)
    with pytest.raises(gv.InputError, match="needs 10 rows or more; got 9"):
        difference(ours[:9], theirs[:9])


@pytest.mark.parametrize("measure", ["density", "mass", "mixed"])
def test_bits_per_dimension_only_of_masses(measure):
    value = torch.tensor([-2.0, -4.0], dtype=torch.float64)
    estimate = Estimate(value, torch.full_like(value, math.nan), "lower_bound", "sde", 8, 2, measure=measure)
    record = summary(estimate)
    bits = record["bits_per_dim"]
    assert bits == (pytest.approx(3.0 / (2 * math.log(2))) if measure == "mass" else None)
    assert record["stderr"] is None  # unknown, and NaN is not JSON


def test_intervals_of_differences_know_that_equal_rows_share_their_noise():
    """Rows of seven levels: their estimates have one error each, which 500 rows do not average away."""
    means, deviation, covered = torch.linspace(-1.0, 1.0, 7, dtype=torch.float64), 0.3, 0
    theirs = torch.zeros(500, dtype=torch.float64)
    for k in range(400):
        generator = seeded(k)
        level = torch.randint(7, (500,), generator=generator)
        ours = means + deviation * torch.randn(7, generator=generator, dtype=torch.float64)
        stderr = torch.full((500,), deviation, dtype=torch.float64)
        found = difference(Estimate(ours[level], stderr, "lower_bound", "sde", 8, 1), theirs)
        covered += found.low <= 0.0 <= found.high
    assert covered >= 400 * 0.95 - 5 * (400 * 0.95 * 0.05) ** 0.5
    assert covered <= 400 * 0.95 + 5 * (400 * 0.95 * 0.05) ** 0.5


def test_rows_that_repeat_have_a_spread_of_their_own_in_the_curve():
    """One row a hundred times: the error of the mean is what the mean varies by from seed to seed."""
    rows = torch.tensor([[0.5, 1.0]], dtype=torch.float64).repeat(100, 1)
    config = gv.Config(steps=2, network=gv.networks.MLPConfig(width=8, blocks=1))
    model, level = gv.fit(torch.randn(100, 2, generator=seeded(0)), config=config), torch.tensor([0.0])
    for parameter in model.score.network.parameters():  # a network that says something
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=seeded(1)))
    curves = [denoising_curve(model, rows, levels=level, generator=seeded(k)) for k in range(30)]
    spread = float(torch.stack([curve.gain for curve in curves]).std())
    expected = float(torch.stack([curve.gain_stderr for curve in curves]).square().mean().sqrt())
    assert abs(spread / expected - 1.0) < 5.0 / (2 * 29) ** 0.5
