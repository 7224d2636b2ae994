"""The score model: one score whatever is predicted, the Gaussian when the network is silent."""

import pytest
import torch
from torch import nn

from girsanov.calculus import expand_as_rows
from girsanov.densities import Gaussian
from girsanov.networks import from_noise
from girsanov.networks.predictions import coefficients
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.processes import StraightPath, VariancePreserving
from girsanov.types import InputError
from tests.laws import each_gaussian, each_prediction, each_process, mixture_case, note_mixture_2d

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = (3, 2, 2)


def silent(log_snr, x, condition):
    return torch.zeros_like(x)


def oracle_network(law, process, predicts):
    """A network in the process's own coordinates that predicts from the exact noise."""

    def network(log_snr, x_t, condition):
        alpha, sigma = process.marginal_at(log_snr)
        scale = expand_as_rows((alpha.square() + sigma.square()).sqrt(), x_t)
        return from_noise(predicts, process, log_snr, x_t, law.noise(log_snr, x_t / scale))

    return network


@each_process
@each_prediction
def test_the_score_is_the_same_whatever_the_network_predicts(make_process, predicts):
    process, case = make_process(), mixture_case(SHAPE)
    model = ScoreModel(oracle_network(case.density, process, predicts), process, predicts)
    times = process.time(torch.linspace(-7.0, 10.0, 6))
    alpha_t, _ = process.marginal(times)
    x = expand_as_rows(alpha_t, torch.zeros(6, *SHAPE)) * case.rows(6)
    exact = case.density.score(process)(times, x)
    torch.testing.assert_close(model(times, x), exact, rtol=1e-6, atol=1e-8)
    at = float(times[2])
    torch.testing.assert_close(model.at(at)(x), case.density.score(process)(at, x), rtol=1e-6, atol=1e-8)


@each_prediction
def test_residuals_in_whitened_coordinates_are_those_of_a_unit_gaussian(predicts):
    """With an isotropic reference the whitened problem is variance preserving at p, where the residual's scale
    is the conversion's derivative: that of the process's own coordinates, except for flow (the straight path's)
    and control (g = sigma in the clock of the log-SNR)."""
    case, process = note_mixture_2d(), VariancePreserving()
    reference = Gaussian(torch.tensor([0.3, -0.2]), 1.7)
    levels = torch.linspace(-8.0, 8.0, 5)
    shifted = levels + torch.tensor(1.7).log()  # logit of p
    own = StraightPath() if predicts == "flow" else process
    slope = -torch.ones(5) if predicts == "control" else coefficients(predicts, own, shifted).noise

    def network(log_snr, features, condition):
        w = features[:, 0]
        z = reference.unwhiten(log_snr, w)
        delta = case.density.noise(log_snr, z) - reference.noise(log_snr, z)
        return (delta * slope[:, None])[:, None]

    model = ScoreModel(network, process, predicts, reference=reference)
    z = torch.randn(5, 2)
    torch.testing.assert_close(model.noise(levels, z), case.density.noise(levels, z), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("broad_share", [False, True])
@each_prediction
def test_a_deviation_at_a_whitened_state_is_that_at_the_state(predicts, broad_share):
    """Also far away, where predictions give way to those of the flat law."""
    reference = Gaussian(torch.tensor([0.3, -0.2]), torch.tensor([[1.7, 0.4], [0.4, 0.6]]))
    model = ScoreModel(
        lambda log_snr, w, condition: w.sin() + log_snr[:, None, None],
        VariancePreserving(),
        predicts,
        reference=reference,
        broad_share=broad_share,
    ).eval()
    levels, w = torch.linspace(-8.0, 8.0, 6), torch.randn(6, 2) * torch.tensor([1.0, 9.0, 1.0, 9.0, 1.0, 9.0])[:, None]
    found = model.whitened_deviation(levels, w)
    torch.testing.assert_close(found, model.deviation(levels, reference.unwhiten(levels, w)), rtol=1e-9, atol=1e-9)


@each_gaussian
@each_prediction
def test_a_silent_network_is_its_reference(make_case, predicts):
    case, process = make_case(), VariancePreserving()
    model = ScoreModel(silent, process, predicts, reference=case.density)
    times, x = torch.tensor([1e-4, 0.3, 1.0]), torch.randn(3, *case.shape)
    torch.testing.assert_close(model(times, x), case.density.score(process)(times, x), rtol=1e-9, atol=1e-9)
    levels = process.log_snr(times)
    assert not model.deviation(levels, x).any()


@each_process
def test_a_silent_network_is_its_reference_under_every_process(make_process):
    case, process = mixture_case(SHAPE), make_process()
    reference = case.density.moment_match()
    model = ScoreModel(silent, process, reference=reference)
    times = process.time(torch.tensor([-6.0, 0.0, 9.0]))
    x = torch.randn(3, *SHAPE)
    torch.testing.assert_close(model(times, x), reference.score(process)(times, x), rtol=1e-8, atol=1e-9)


def test_one_time_serves_all_rows_and_conditions_reach_the_network():
    seen = []

    def network(log_snr, features, condition):
        seen.append(condition)
        return torch.zeros_like(features)

    model = ScoreModel(network, VariancePreserving(), reference=Gaussian(torch.zeros(2), 1.0))
    x, labels = torch.randn(3, 2), torch.tensor([0, 1, 2])
    torch.testing.assert_close(model(torch.tensor([0.5]), x, labels), -x)
    assert seen[0] is labels


def test_deviations_need_a_reference():
    with pytest.raises(InputError, match="has no reference to deviate from"):
        ScoreModel(silent, VariancePreserving()).deviation(torch.zeros(1), torch.zeros(1, 2))
    with pytest.raises(InputError, match="Unknown prediction 'x0'"):
        ScoreModel(silent, VariancePreserving(), "x0")


@each_process
def test_any_score_is_read_at_a_log_snr(make_process):
    case, process = note_mixture_2d(), make_process()
    levels, z = torch.linspace(-9.0, 12.0, 6), torch.randn(6, 2)
    exact = case.density.noise(levels, z)
    oracle = case.density.score(process)
    plain = lambda t, x: oracle(t, x)  # noqa: E731
    model = ScoreModel(oracle_network(case.density, process, "v"), process, "v")
    for score in (oracle, plain, model):
        torch.testing.assert_close(ScorePair(score, process).noise(levels, z), exact, rtol=1e-5, atol=1e-6)
    noise, delta = ScorePair(oracle, reference=case.density.moment_match()).deviation(levels, z)
    torch.testing.assert_close(noise + delta, exact, rtol=1e-7, atol=1e-8)


def test_deviation_from_the_models_own_reference_does_not_cancel():
    reference = Gaussian(torch.zeros(2), 1.0)
    model = ScoreModel(lambda l, f, c: torch.full_like(f, 1e-30), VariancePreserving(), "noise", reference=reference)
    levels, z = torch.zeros(1), torch.ones(1, 2)
    _, delta = ScorePair(model).deviation(levels, z)
    assert delta.tolist() == [[1e-30, 1e-30]]


def test_which_reference_range_and_dtype_an_evaluation_uses():
    case, process = note_mixture_2d(), VariancePreserving(log_snr_range=(-9.0, 9.0))
    own = Gaussian(torch.zeros(2), 1.0)
    model = ScoreModel(silent, process, reference=own, log_snr_range=(-12.0, 6.0))
    assert ScorePair(model).reference is own
    given = Gaussian(torch.ones(2), 1.0)
    assert ScorePair(model, reference=given).reference is given
    plain = ScorePair(lambda t, x: x, process)
    assert plain.reference is None
    assert ScorePair(model, reference=case.density).reference is None  # a mixture cannot be the Gaussian of a formula
    assert ScorePair(model).log_snr_range == (-9.0, 6.0)
    assert plain.log_snr_range == (-9.0, 9.0)
    layer = ScoreModel(nn.Linear(2, 2).float(), process)
    assert ScorePair(layer).dtype(torch.zeros(1, 2)) == torch.float32
    assert ScorePair(model).dtype(torch.zeros(1, 2)) == torch.float64
    assert ScorePair(model).dtype(torch.zeros(1, 2, dtype=torch.int64)) == torch.float64
