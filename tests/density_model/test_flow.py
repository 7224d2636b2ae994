"""The limit without noise: the training loss, its gradient, and zuko's continuous flow on the same field."""

import pytest
import torch
from zuko.transforms import FreeFormJacobianTransform

import girsanov as gv
from girsanov.density_model import ContinuousFlowConfig
from girsanov.density_model.flow import FlowObjective
from girsanov.likelihoods.ode import WhitenedFlow
from girsanov.networks import ResidualMLP
from girsanov.objectives import Batch
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.transforms import Compose
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")


def score_model(d=3, seed=0):
    torch.manual_seed(seed)
    root = torch.randn(d, d)
    law = gv.Gaussian(torch.randn(d), root @ root.T + 0.3 * torch.eye(d))
    network = ResidualMLP((d,), width=16, blocks=1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return ScoreModel(network, gv.VariancePreserving(), "v", reference=law)


def test_an_untrained_flow_is_its_reference():
    model = score_model()
    for parameter in model.network.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(7, 3)
    loss = FlowObjective(model, Compose([]))(model, Batch(x), seeded(0), 0)
    torch.testing.assert_close(loss, -model.reference.log_prob(x) / 3)


def test_the_loss_has_the_gradient_of_the_log_density():
    model, x = score_model(), torch.randn(2, 3)
    objective = FlowObjective(model, Compose([]), steps=6)
    weight = next(p for p in model.network.parameters() if p.ndim == 2)

    def loss():
        return objective(model, Batch(x), seeded(0), 0).sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        weight[0, 0] += 1e-5
        above = loss()
        weight[0, 0] -= 2e-5
        numeric = (above - loss()) / 2e-5
    torch.testing.assert_close(gradient[0, 0], numeric, rtol=1e-5, atol=1e-9)


def test_zuko_solves_the_same_field_to_the_same_density():
    model, x = score_model(), torch.randn(5, 3)
    ours = gv.ode_log_prob(
        gv.ScorePair(model, model.process, prior=gv.Gaussian(torch.zeros(3), 1.0)),
        x,
        solver=gv.solvers.Adaptive(1e-8, 1e-8),
    )
    field = WhitenedFlow(ScorePair(model), model.reference, None, None, one_level=False)
    low, high = field.pair.log_snr_range
    rows = torch.arange(5)

    def velocity(level, w):
        return field.velocity(level.expand(len(w)), w, rows)

    theirs = FreeFormJacobianTransform(velocity, t0=high, t1=low, atol=1e-9, rtol=1e-9, exact=True)
    w = model.reference.whiten(torch.full((5,), torch.inf), x)
    with torch.no_grad():
        first = field.velocity(torch.full((5,), high), w, rows)
    assert float(first.abs().max()) < 1e-2  # beyond the data end next to nothing moves; that part is ours alone
    with torch.enable_grad():
        start = w - first
        _, log_det = theirs.call_and_ladj(start)
    assert ours.kind == "exact"
    torch.testing.assert_close(ours.terms["divergence"], log_det.detach(), atol=2e-2, rtol=0.0)


@pytest.mark.slow
def test_fitted_flows_reach_the_truth_of_a_mixture(tmp_path):
    """A planar mixture: the flow gains half of what a Gaussian lacks, and survives saving."""
    torch.set_default_dtype(torch.float32)
    law = gv.GaussianMixture(torch.ones(2), torch.tensor([[-1.5, 0.0], [1.5, 0.5]]), 0.3 * torch.ones(2, 2))
    x = law.sample(2000, generator=seeded(0))
    config = ContinuousFlowConfig(
        steps=80,
        batch_size=64,
        network=gv.networks.MLPConfig(width=32, blocks=1),
        members=1,
        gaussianise=False,
        learning_rate=1e-2,
    )
    model = gv.fit(x, config=config)
    held = law.sample(64, generator=seeded(1))
    estimate = model.log_prob(held)
    assert (estimate.model, estimate.kind) == ("ode", "exact")
    gaussian = model.reference.log_prob(model.encoding.transforms(held)[0]) + model.encoding.transforms(held)[1]
    gap = float((law.log_prob(held) - estimate.value).mean())
    assert -0.1 < gap < 0.5 * float((law.log_prob(held) - gaussian).mean())
    model.save_pretrained(tmp_path / "flow")
    again = gv.DensityModel.from_pretrained(tmp_path / "flow")
    torch.testing.assert_close(again.log_prob(held).value, estimate.value)


def test_a_flow_draws_by_its_ode_and_a_diffusion_by_its_sde():
    x = torch.randn(60, 2, generator=seeded(0), dtype=torch.float64)
    network = gv.networks.MLPConfig(width=8, blocks=1)
    for kind, own in ((ContinuousFlowConfig, 1.0), (gv.Config, 0.0)):
        model = gv.fit(x, config=kind(steps=2, network=network, gaussianise=False)).diffusion
        with torch.no_grad():  # a network with something to say
            model.score.network.members[0].leave.weight.add_(0.3)
        drawn, by_hand, other = (model.sample(4, steps=8, lmbd=lmbd) for lmbd in (None, own, 1.0 - own))
        assert torch.equal(drawn, by_hand)
        assert not torch.allclose(drawn, other)
