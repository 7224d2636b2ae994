"""The joint objective, its split, the bracket of the prior loss, the frozen encoder, and the VAE at one step."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from girsanov.bridges import (
    BridgeChain,
    BridgeNetwork,
    EndRows,
    FlatPotentials,
    Half,
    JointConfig,
    NetworkConfig,
    SchrodingerBridge,
    gaussian_bridge,
    prior_loss,
)
from girsanov.bridges.halves import EndMoments
from girsanov.bridges.joint import JointObjective, Progressed, _Fitting, fit_joint
from girsanov.bridges.reference import Clock
from girsanov.densities import Gaussian
from girsanov.objectives import Batch
from girsanov.processes import BrownianMotion, OrnsteinUhlenbeck
from girsanov.types import InputError
from tests.seeds import seeded

D = 2


def make_chain(reference=None, steps=6, noise=0.0, prior=None, seed=0, d=D):
    torch.manual_seed(seed)
    reference = reference or OrnsteinUhlenbeck(2.0)
    prior = prior or Gaussian(torch.zeros(D), 1.0)
    clock, halves = Clock(reference), []
    ends = EndMoments.of(torch.randn(100, d), prior)
    for direction in ("forward", "backward"):
        network = BridgeNetwork((d,), NetworkConfig(width=16, blocks=1))
        for parameter in network.parameters():
            parameter.data.add_(noise * torch.randn_like(parameter))
        halves.append(Half(direction, clock, FlatPotentials(), ends, network))
    times = torch.linspace(0.0, reference.horizon, steps + 1)
    return BridgeChain(*halves, times, prior=prior, variances="diagonal")


@pytest.mark.usefixtures("float64")
def test_one_step_is_a_gaussian_variational_autoencoder():
    """N = 1: encoder N(x + u, s), decoder N(z - v, r): J is VAE's -E log p(x | z) + KL(q(z | x) || p(z)) per row.

    The expectation over z is taken with common draws; the KL in closed form differs from its one-draw estimate by a
    mean-zero term, so the two means agree within four standard errors of the difference.
    """
    chain = make_chain(BrownianMotion(), steps=1, noise=0.3)
    chain.encoder_log_variance.data.fill_(-0.4)
    chain.decoder_log_variance.data.copy_(torch.tensor([[0.2, -0.3]]))
    x = torch.tensor([[0.4, -1.1]]).expand(40_000, D)
    generator = seeded(1)
    with torch.no_grad():
        ours = JointObjective(lambda step: 0.0)(chain, Batch(x), generator, 0)
        eps = torch.randn(len(x), D, generator=seeded(1))
        encoder = chain.encode(0, x)
        posterior = Normal(x + encoder.shift, math.exp(-0.2) * torch.ones(D))
        z = posterior.mean + posterior.stddev * eps
        decoder = Normal(z + chain.decode(0, z).shift, (0.5 * chain.decoder_log_variance[0]).exp())
        negative = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1) - decoder.log_prob(x).sum(1)
    difference = ours - negative / D
    assert abs(float(difference.mean())) < 4.0 * float(difference.std()) / len(x) ** 0.5
    assert float(difference.std()) > 0.01  # the two are not one computation


def test_reference_weight_falls_geometrically_and_to_zero():
    falling = JointConfig(steps=101, reference_weight=(1.0, 0.01))
    assert falling.weight(0) == pytest.approx(1.0)
    assert falling.weight(50) == pytest.approx(0.1)
    assert falling.weight(100) == pytest.approx(0.01)
    assert JointConfig().weight(17) == 0.0
    assert JointConfig(steps=11, reference_weight=(1.0, 0.0)).weight(10) == 0.0


def test_weight_of_the_reference_adds_the_encoders_divergence():
    chain, x = make_chain(noise=0.3), torch.randn(50, D)
    losses = [JointObjective(lambda step, eta=eta: eta)(chain, Batch(x), seeded(0), 0) for eta in (0.0, 0.5)]
    generator = seeded(0)
    weighed = chain.weigh(x, lambda count: torch.randn(count, 50, D, generator=generator))
    torch.testing.assert_close(losses[1] - losses[0], 0.5 * weighed.reference / D)


@pytest.mark.usefixtures("float64")
def test_bracket_of_the_prior_loss_holds_the_closed_form():
    """Gaussian data and the reference as encoder: KL(q_T || prior) is known, and lies between both ends."""
    reference, data = OrnsteinUhlenbeck(1.0), Gaussian(torch.tensor([1.0, -0.5]), torch.tensor([0.3, 2.0]))
    chain = make_chain(reference, steps=20)
    x = data.sample(40_000, generator=seeded(0))
    end = chain.simulate(x, generator=seeded(1))[-1]
    law = data.marginal(reference, reference.horizon)
    exact = float(
        kl_divergence(Normal(law.mean, law.marginal_variance().sqrt()), Normal(torch.zeros(D), torch.ones(D))).sum()
    )
    bracket = prior_loss(chain, x, end)
    assert bracket.lower == pytest.approx(exact, abs=0.02)
    assert bracket.upper is not None
    assert bracket.upper > exact
    chain.forward_half.network.affine.data.fill_(0.1)
    assert prior_loss(chain, x, end).upper is None  # the encoder is the reference no longer


def rows(n=800):
    x = torch.randn(n, D, generator=seeded(0))
    return EndRows(torch.stack([x[:, 0], 0.5 * x[:, 0].square() + 0.3 * x[:, 1]], 1))


@pytest.mark.slow
def test_freezing_keeps_the_encoder_and_improves_the_decoder():
    chain = make_chain(steps=8)
    config = JointConfig(
        steps=300, batch_size=128, learning_rate=5e-3, freeze=True, freeze_tolerance=0.02, freeze_patience=2,
        validate_every=20, decoder_steps=400, refresh=100, ema_decay=0.95,
    )  # fmt: skip
    frozen = {}

    def remember(stage):
        frozen[stage] = [p.detach().clone() for p in chain.forward_half.parameters()]

    from girsanov.bridges import joint

    original = joint._Fitting.decoder_alone
    try:
        joint._Fitting.decoder_alone = lambda self: (remember("joint"), original(self))[1]
        history = fit_joint(chain, rows(), config)
    finally:
        joint._Fitting.decoder_alone = original
    assert all(torch.equal(a, b) for a, b in zip(frozen["joint"], chain.forward_half.parameters(), strict=True))
    stages = [entry.stage for entry in history]
    assert stages == sorted(stages, key=["joint", "decoder"].index)
    first_alone = next(entry for entry in history if entry.stage == "decoder")
    joint_steps = max(entry.step for entry in history if entry.stage == "joint")
    assert joint_steps < 300  # the prior loss had converged before the steps ended
    assert max(entry.elbo for entry in history if entry.stage == "decoder") >= first_alone.elbo
    assert max(entry.elbo for entry in history) > history[0].elbo + 0.3


def test_an_encoder_that_is_not_learned_stays_the_reference():
    """The ordinary diffusion bound: the decoder alone learns."""
    chain = make_chain(steps=4)
    config = JointConfig(steps=5, batch_size=64, learning_rate=1e-2, learn_encoder=False, step_variances="fixed")
    fit_joint(chain, rows(100), config)
    assert not chain.forward_half.network.affine.any()
    assert chain.backward_half.network.affine.any()
    assert all(parameter.requires_grad for parameter in chain.parameters())


def test_warm_up_leaves_the_encoder_at_the_reference():
    chain = make_chain(steps=8)
    config = JointConfig(steps=1, warm_steps=60, learning_rate=5e-3, batch_size=128, ema_decay=0.9)
    before = [p.detach().clone() for p in chain.backward_half.parameters()]
    history = fit_joint(chain, rows(), config)
    assert any(not torch.equal(a, b) for a, b in zip(before, chain.backward_half.parameters(), strict=True))
    untrained = make_chain(steps=8)
    held = fit_joint(untrained, rows(), JointConfig(steps=1, learning_rate=1e-9, batch_size=128))
    assert history[0].elbo > held[0].elbo + 0.1


def test_a_joint_fit_goes_on_from_its_checkpoints_with_the_same_bits(tmp_path):
    config = JointConfig(steps=12, batch_size=64, freeze=True, decoder_steps=6, validate_every=3, freeze_patience=50)
    values = []
    for run in (tmp_path / "run", tmp_path / "run", None):
        chain = make_chain(steps=4)
        fit_joint(chain, rows(100), config, run=run)
        values.append([p.detach().clone() for p in chain.parameters()])
    for other in values[1:]:
        assert all(torch.equal(a, b) for a, b in zip(values[0], other, strict=True))


@pytest.mark.parametrize("stage", ["joint", "decoder"])
def test_validations_of_a_stopped_fit_are_kept(tmp_path, stage):
    """A fit that goes on has the validations of the one that was stopped, each once."""
    config = JointConfig(
        steps=12, batch_size=64, freeze=stage == "decoder", decoder_steps=6, validate_every=3, freeze_patience=50
    )
    first, again, plain = (
        fit_joint(make_chain(steps=4), rows(100), config, run=run) for run in (tmp_path, tmp_path, None)
    )
    facts = [[(e.stage, e.step, e.elbo, e.prior_lower) for e in history] for history in (first, again, plain)]
    assert facts[0] == facts[1] == facts[2]
    assert len(facts[0]) == (5 if stage == "joint" else 8)


def test_another_bridge_does_not_go_on_from_a_folder(tmp_path):
    """Same sizes, another reference, prior or other rows: refused, not silently resumed."""
    x = rows(100).x
    joint = JointConfig(steps=4, batch_size=64)

    def fit(sigma, x, mean):
        bridge = SchrodingerBridge(BrownianMotion(sigma=sigma), dim=D, steps=3, joint=joint)
        return bridge.fit(x, prior=Gaussian(torch.full((D,), mean), 1.0), run=tmp_path)

    fit(1.0, x, 0.0)
    fit(1.0, x, 0.0)
    for other in ((2.0, x, 0.0), (1.0, x + 5.0, 0.0), (1.0, x, 7.0)):
        with pytest.raises(InputError, match="another"):
            fit(*other)


@pytest.mark.parametrize(("d", "n"), [(2, 30), (20, 60), (40, 45)])
def test_prior_loss_has_no_bias_by_few_rows(d, n):
    """Ends from N(m, I), the prior N(0, I): |m|^2 / 2, where sample moments alone say 0.1, 4.5 and some 60 more."""
    chain = make_chain(steps=2, prior=Gaussian(torch.zeros(d), 1.0), d=d)
    shift = torch.zeros(d, dtype=torch.float64)
    shift[0] = 4.0
    g = seeded(0)
    found = [prior_loss(chain, x, x + shift).lower for x in torch.randn(200, n, d, generator=g, dtype=torch.float64)]
    found = torch.tensor(found, dtype=torch.float64)
    assert bool((found > 0).all())  # else clamping at 0 would be a bias
    assert abs(float(found.mean()) - 8.0) < 4.0 * float(found.std()) / 200**0.5


def test_prior_loss_is_unknown_with_no_more_rows_than_dimensions():
    chain = make_chain(steps=2, prior=Gaussian(torch.zeros(20), 1.0), d=20)
    assert prior_loss(chain, torch.randn(15, 20), torch.randn(15, 20)).lower == 0.0


def test_freezing_waits_until_the_prior_loss_no_longer_moves(monkeypatch):
    """A loss that rises first has not converged."""
    losses = [0.1, 2.7, 3.3, 2.9, 2.4, 2.3, 2.3]
    config = JointConfig(freeze_tolerance=0.5)
    fitting = _Fitting(make_chain(), rows(20), rows(20), config, None, None, "")

    def validate(module, step, stage):
        fitting.note(Progressed(stage, step, 0.0, 0.0, losses[step], 0.0, 0.0))

    monkeypatch.setattr(fitting, "_validate", validate)
    assert [fitting._prior_moves(fitting.chain, step) for step in range(7)] == [0, 1, 2, 2, 3, 3, 3]


def test_held_out_rows_are_of_no_training_row_where_rows_have_weights():
    x = torch.arange(100.0)[:, None].expand(100, D)
    weights = torch.cat([torch.zeros(40), torch.rand(60, generator=seeded(0)) + 0.1])
    held, kept = EndRows(x, weights=weights).split(0.2, 3)
    both = torch.cat([held.x, kept.x])[:, 0]
    assert len(held.x) == 12
    assert sorted(both.tolist()) == x[40:, 0].tolist()
    assert torch.equal(torch.cat([held.weights, kept.weights]), weights[both.long()])
    with pytest.raises(InputError, match="3 rows are too few to hold some out"):
        EndRows(x, weights=torch.cat([torch.zeros(97), torch.ones(3)])).split(0.1, 0)


@pytest.mark.parametrize(("weights", "path"), [((0.0, 0.0), True), ((1.0, 0.1), False)])
def test_path_gradients_are_the_default_where_the_bound_alone_is_maximised(weights, path):
    found = []
    for choice in (None, path, not path):
        chain = make_chain(steps=3)
        config = JointConfig(
            steps=4, batch_size=64, reference_weight=weights, path_gradients=choice, learning_rate=1e-2
        )
        fit_joint(chain, rows(100), config)
        found.append(torch.cat([p.detach().flatten() for p in chain.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_too_few_rows_are_refused():
    with pytest.raises(InputError, match="too few to hold some out"):
        fit_joint(make_chain(), EndRows(torch.randn(3, D)), JointConfig(steps=1))


@pytest.mark.parametrize(("variances", "least", "most"), [("full", 0.0, 0.6), ("diagonal", 1.0, float("inf"))])
def test_only_covariances_of_the_steps_let_the_annealed_fit_select_the_bridge(variances, least, most):
    """Ends of correlation 0.9 and -0.9: the relative error of Cov(X_0, X_T). With a variance for each dimension the
    optimum is an encoder whose reversed steps are uncorrelated, far from the Schroedinger bridge (decision 0009)."""
    tilted = [torch.tensor([[1.0, r], [r, 1.0]], dtype=torch.float64) for r in (0.9, -0.9)]
    zero = torch.zeros(2, dtype=torch.float64)
    exact = gaussian_bridge(zero, tilted[0], zero, tilted[1], reference=BrownianMotion())
    x = exact.start.sample(20_000, generator=seeded(0)).float()
    joint = JointConfig(
        steps=600, batch_size=256, learning_rate=1e-2, reference_weight=(1.0, 0.01), validation=0.01,
        validate_every=600, step_variances=variances, ema_decay=0.98,
    )  # fmt: skip
    network = NetworkConfig(width=4, blocks=1)
    bridge = SchrodingerBridge(BrownianMotion(), dim=2, start="reference", steps=4, network=network, joint=joint)
    y = bridge.fit(x, prior=exact.end).sample(x)
    cross = torch.cov(torch.cat([x, y], 1).T)[:2, 2:].double()
    assert least <= float((cross - exact.cross).norm() / exact.cross.norm()) <= most
