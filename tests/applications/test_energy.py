"""Energy models: normalising constants in closed form, honest errors, and training that finds the law."""

import math

import pytest
import torch
from torch import nn

from girsanov.applications.annealing import Annealing, log_normaliser
from girsanov.applications.energy import TiltedGaussian, energy_score, fit_energy, require_smooth
from girsanov.calculus import Exact, Hutchinson
from girsanov.densities import Gaussian, GaussianMixture
from girsanov.stein import Sliced, score_matching
from girsanov.training import TrainingConfig
from girsanov.types import InputError
from tests.seeds import seeded

SHORT = TrainingConfig(steps=300, batch_size=256, learning_rate=0.02, ema_decay=0.9, weight_decay=0.0, warmup=10)
QUICK = Annealing(particles=256, levels=60, leapfrogs=3)


def quartic(x):
    """Integral of exp(-x^4) per dimension: Gamma(1/4)/2."""
    return x.flatten(1).pow(4).sum(1)


def correlated(x):
    precision = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=x.dtype)
    return 0.5 * torch.einsum("ni,ij,nj->n", x - 1.5, precision, x - 1.5)


def bimodal(x):
    return 2.0 * (x[:, 0].square() - 1.0).square() + 0.5 * x[:, 1].square()


def bimodal_constant():
    line = torch.linspace(-4.0, 4.0, 4001, dtype=torch.float64)
    return math.log(float(torch.trapezoid((-2.0 * (line.square() - 1.0).square()).exp(), line))) + 0.5 * math.log(
        2 * math.pi
    )


#: name -> energy, event shape, log Z
ENERGIES = {
    "quartic-image": (quartic, (1, 2, 2), 4.0 * math.log(math.gamma(0.25) / 2.0)),
    "correlated": (correlated, (2,), math.log(2.0 * math.pi) - 0.5 * math.log(2.0 - 0.81)),
    "bimodal": (bimodal, (2,), bimodal_constant()),
}


@pytest.mark.parametrize(("energy", "shape", "truth"), ENERGIES.values(), ids=ENERGIES)
def test_normaliser_is_within_its_error_of_the_closed_form(energy, shape, truth):
    """Five standard errors (Student, 15 degrees: false alarm 2e-4), and the error is small."""
    found = log_normaliser(energy, Gaussian(torch.zeros(shape), 1.5), annealing=QUICK)
    assert abs(found.value - truth) < 5.0 * found.stderr
    assert found.stderr < 0.1
    assert 0.5 < found.acceptance < 0.95
    assert 20 < found.effective_particles <= 256


@pytest.mark.slow
def test_errors_of_the_normaliser_are_honest():
    """Over 60 seeds the standardised errors have mean 0 and spread about 1: 4 standard errors each."""
    energy, shape, truth = ENERGIES["bimodal"]
    errors = []
    for seed in range(60):
        found = log_normaliser(
            energy,
            Gaussian(torch.zeros(shape), 1.5),
            annealing=Annealing(particles=64, levels=20, leapfrogs=2),
            generator=seeded(seed),
        )
        errors.append((found.value - truth) / found.stderr)
    z = torch.tensor(errors)
    assert abs(float(z.mean())) < 4.0 * float(z.std()) / math.sqrt(60)
    assert 0.6 < float(z.std()) < 1.6


def test_an_untrained_tilted_gaussian_is_the_gaussian():
    """Its weights and the annealing's are closed form: log Z = 0 up to the start's widening."""
    reference = Gaussian(torch.tensor([1.0, -1.0]), torch.tensor([[2.0, 0.5], [0.5, 1.0]]))
    energy = TiltedGaussian(reference, width=8)
    x = reference.sample(5)
    torch.testing.assert_close(energy(x), -reference.log_prob(x))
    found = log_normaliser(energy, reference, annealing=Annealing(particles=16, levels=2, leapfrogs=1))
    assert abs(found.value) < 1e-10
    assert found.stderr < 1e-10


class Precision(nn.Module):
    """A zero-mean normal by its log-precisions: everything about it is known."""

    def __init__(self):
        super().__init__()
        self.log_precision = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x):
        return 0.5 * (self.log_precision.exp() * x.square()).sum(1)


@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(1), Sliced(16)], ids=["exact", "hutchinson", "sliced"])
@pytest.mark.parametrize(
    "diffusion", [None, "robust", lambda x: 1.0 + 0.1 * x.square()], ids=["plain", "robust", "own"]
)
def test_training_finds_the_precisions_and_the_density(divergence, diffusion):
    scale = torch.tensor([2.0, 0.5], dtype=torch.float64)
    x = scale * torch.randn(16_000, 2, generator=seeded(0), dtype=torch.float64)
    model = fit_energy(Precision(), x, diffusion=diffusion, divergence=divergence, config=SHORT)
    found = (-0.5 * model.energy.log_precision).exp()
    torch.testing.assert_close(found, scale, rtol=0.1, atol=0.0)
    model = model.normalised(annealing=QUICK)
    exact = Gaussian(torch.zeros(2), torch.diag(found.square())).log_prob(x[:7])
    estimate = model.log_prob(x[:7])
    assert bool(((estimate.value - exact).abs() < 5.0 * estimate.stderr + 1e-9).all())
    assert estimate.kind == "estimate"
    assert torch.allclose(sum(estimate.terms.values()), estimate.value)
    # all rows share one error: averaging over rows must not shrink it
    assert estimate.mean().stderr == pytest.approx(float(estimate.stderr[0]), rel=1e-6)


@pytest.mark.slow
def test_a_tilted_gaussian_learns_a_mixture():
    """Held-out log-density within 0.1 nats of the law's; the Gaussian it starts from is 0.35 below."""
    law = GaussianMixture(
        torch.tensor([0.5, 0.5]), torch.tensor([[-1.2, 0.0], [1.2, 0.5]]), 0.35 * torch.eye(2).expand(2, -1, -1)
    )
    x, fresh = (law.sample(n, generator=seeded(s)).float() for n, s in ((4000, 0), (2000, 1)))
    energy = TiltedGaussian(Gaussian.fit(x), width=32)
    model = fit_energy(
        energy, x, divergence=Exact(), config=TrainingConfig(steps=600, learning_rate=0.01, ema_decay=0.98)
    )
    estimate = model.normalised(annealing=QUICK).log_prob(fresh)
    truth = float(law.log_prob(fresh).mean())
    assert truth - 0.1 < estimate.mean().value < truth + 0.03
    assert float(Gaussian.fit(x).log_prob(fresh).mean()) < truth - 0.2
    assert estimate.mean().stderr < 0.02


def test_a_robust_matrix_survives_outliers():
    """A tenth of the rows at 30 standard deviations: the plain fit's scale explodes, the robust one's does not."""
    x = torch.randn(2000, 2, generator=seeded(0), dtype=torch.float64)
    x[:200] = 30.0
    plain, robust = (
        float(
            (-0.5 * fit_energy(Precision(), x, diffusion=d, divergence=Exact(), config=SHORT).energy.log_precision)
            .exp()
            .mean()
            .detach()
        )
        for d in (None, "robust")
    )
    assert plain > 3.0
    assert 0.8 < robust < 1.4


def test_scores_are_gradients_and_bad_input_is_refused():
    x = torch.randn(50, 2, dtype=torch.float64)
    model = fit_energy(Precision(), x, config=TrainingConfig(steps=2, batch_size=16))
    torch.testing.assert_close(model.score(x), -model.energy.log_precision.exp() * x)
    with pytest.raises(InputError, match="normalised"):
        model.log_prob(x)
    with pytest.raises(InputError, match="20 rows"):
        fit_energy(Precision(), x[:10])
    with pytest.raises(InputError, match="multiple of 16"):
        Annealing(particles=10)
    with pytest.raises(InputError, match="not finite"):
        log_normaliser(lambda x: -x.square().square().exp().sum(1), Gaussian(torch.zeros(1), 1.0), annealing=QUICK)


def scalar(activation):
    layers = (nn.Linear(2, 16), activation, nn.Linear(16, 16), activation, nn.Linear(16, 1))
    network = nn.Sequential(*layers, nn.Flatten(0))
    nn.init.zeros_(network[4].weight)  # as networks often start: flat, whatever they are made of
    return network


class Quadratic(nn.Module):
    """A Gaussian's energy beside a network's."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return 0.5 * x.square().sum(1) + self.network(x)


BENT = {
    "relu": nn.ReLU(),
    "leaky": nn.LeakyReLU(),
    "hardtanh": nn.Hardtanh(),
    "selu": nn.SELU(),
    "prelu": nn.PReLU(init=0.25),
    "hardswish": nn.Hardswish(),
    "elu-2": nn.ELU(alpha=2.0),
}
SMOOTH = {
    "tanh": nn.Tanh(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "mish": nn.Mish(),
    "elu": nn.ELU(),
    "softplus": nn.Softplus(),
    "steep": nn.Softplus(beta=20),
    "very-steep": nn.Softplus(beta=1000),
}


class Narrow(Quadratic):
    """A narrow Gaussian's energy, beside which a network's is a ripple."""

    def forward(self, x):
        return 1e3 * x.square().sum(1) + self.network(x)


@pytest.mark.parametrize("around", [lambda network: network, Quadratic, Narrow], ids=["alone", "beside", "a-ripple"])
@pytest.mark.parametrize("name", [*BENT, *SMOOTH])
def test_an_energy_whose_gradient_jumps_is_refused_before_training(name, around):
    rows = torch.randn(60, 2, generator=seeded(8))
    if name in SMOOTH:
        require_smooth(around(scalar(SMOOTH[name])), rows, 0)
        return
    with pytest.raises(InputError, match="gradient of this energy jumps"):
        fit_energy(around(scalar(BENT[name])), rows, config=TrainingConfig(steps=1, batch_size=8))


def test_an_energy_without_a_second_derivative_in_pytorch_is_refused():
    with pytest.raises(InputError, match=r"no second derivative of this energy .*hardsigmoid"):
        require_smooth(scalar(nn.Hardsigmoid()), torch.randn(60, 2, generator=seeded(8)), 0)


@pytest.mark.parametrize("energy", [lambda x: x @ torch.ones(2, 1), lambda x: x.sum(1) / 0.0, lambda x: x.sum()])
def test_an_energy_of_another_shape_or_without_numbers_is_refused_at_the_first_call(energy):
    module = Quadratic(energy)
    module.weight = nn.Parameter(torch.ones(()))
    module.forward = lambda x: module.weight * energy(x)
    with pytest.raises(InputError, match="one finite number for each of 60 rows"):
        fit_energy(module, torch.randn(60, 2, generator=seeded(8)))


def test_the_score_of_a_piecewise_linear_energy_has_no_loss():
    weight = torch.randn(2, 8, generator=seeded(9))
    energy = lambda x: torch.relu(x @ weight).sum(1)  # noqa: E731
    with pytest.raises(InputError, match="has no derivative at any"):
        score_matching(torch.randn(30, 2, generator=seeded(8)), lambda x: energy_score(energy, x))
