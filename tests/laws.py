"""Registries that the law suites run over, and the oracles they compare with.

A new process, density, prediction or network is one line here, and every law is then tested for it. The oracles
are written with dense linear algebra, ``torch.distributions`` and quadrature, never with the code under test.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from girsanov.densities import Density, Gaussian, GaussianMixture
from girsanov.networks import PREDICTIONS, ConvNetwork, ImageNetwork, ResidualMLP, Signature, TwoLayerNetwork
from girsanov.networks.unet import UNet
from girsanov.processes import (
    BrownianMotion,
    Cosine,
    GaussianPath,
    HarmonicVP,
    LearnedSchedule,
    LinearProcess,
    OrnsteinUhlenbeck,
    Section,
    StraightPath,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from tests.seeds import seeded

SHARED_RANGE = (-15.0, 15.0)

#: name -> constructor taking ``log_snr_range``
PROCESSES: dict[str, Callable[..., LinearProcess]] = {
    "VariancePreserving": VariancePreserving,
    "SubVariancePreserving": SubVariancePreserving,
    "OrnsteinUhlenbeck": OrnsteinUhlenbeck,
    "Cosine": Cosine,
    "HarmonicVP": HarmonicVP,
    "StraightPath": StraightPath,
    "VarianceExploding": VarianceExploding,
    "BrownianMotion": lambda **options: BrownianMotion(50.0, **options),
}
REMEMBERING = ("VarianceExploding", "BrownianMotion")  # alpha = 1: the prior needs to know where the data are


def bent(log_snr_range: tuple[float, float] = (-12.0, 15.0), seed: int = 0) -> LearnedSchedule:
    """A learned schedule with random parameters."""
    schedule = LearnedSchedule(log_snr_range)
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter += 0.7 * torch.randn(parameter.shape, generator=seeded(seed), dtype=torch.float64)
    return schedule


#: every kind of linear process, those too whose clock is made of others or starts with noise
CLOCKS: dict[str, Callable[[], LinearProcess]] = {
    **PROCESSES,
    "LearnedSchedule": lambda: bent().requires_grad_(False),
    "GaussianPath": lambda: GaussianPath(lambda t: ((1.0 - t).square(), t)),
    "Section": lambda: Section(VariancePreserving(beta_max=25.0), 0.1, 1.0),
    "Section of VarianceExploding": lambda: Section(VarianceExploding(), 0.1, 0.9),
    "Section of OrnsteinUhlenbeck": lambda: Section(OrnsteinUhlenbeck(beta=30.0), 0.2, 1.0),
}

each_process = pytest.mark.parametrize("make_process", PROCESSES.values(), ids=PROCESSES)
each_clock = pytest.mark.parametrize("make_process", CLOCKS.values(), ids=CLOCKS)
each_prediction = pytest.mark.parametrize("predicts", PREDICTIONS)


@dataclass(frozen=True)
class Case:
    """A density and its dense twin: weights ``K``, means ``K d`` and covariances ``K d d``."""

    density: Density
    weights: Tensor
    means: Tensor
    covariances: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.density.event_shape

    @property
    def d(self) -> int:
        return self.means.shape[1]

    def twin(self, alpha: float | Tensor = 1.0, sigma: float | Tensor = 0.0) -> MixtureSameFamily:
        """The law of alpha X + sigma eps on flattened rows, by ``torch.distributions``."""
        covariances = alpha**2 * self.covariances + sigma**2 * torch.eye(self.d)
        return MixtureSameFamily(Categorical(self.weights), MultivariateNormal(alpha * self.means, covariances))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.twin().log_prob(x.flatten(1))

    def score(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient of the twin's log-density, by automatic differentiation."""
        point = x.detach().flatten(1).requires_grad_()
        (gradient,) = torch.autograd.grad(self.twin(alpha, sigma).log_prob(point).sum(), point)
        return gradient.reshape(x.shape)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean ``d`` and covariance ``d d``."""
        mean = self.weights @ self.means
        second = self.covariances + self.means[:, :, None] * self.means[:, None, :]
        return mean, torch.einsum("k,kij->ij", self.weights, second) - torch.outer(mean, mean)

    def rows(self, n: int, seed: int = 0) -> Tensor:
        return self.density.sample(n, generator=seeded(seed))


class Known:
    """A score that is known on a range of log-SNR and nowhere else."""

    def __init__(self, score: Callable, process: LinearProcess, span: tuple[float, float]) -> None:
        self.inner, self.process, self.log_snr_range = score, process, span

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        level, (low, high) = self.process.log_snr(t), self.log_snr_range
        assert bool(((level > low - 1e-6) & (level < high + 1e-6)).all()), "evaluated outside its range"
        return self.inner(t, x)


def spd(d: int, count: int, generator: torch.Generator) -> Tensor:
    """Random covariances with a power-law spectrum, shape ``count d d``."""
    spectrum = 1.5 / (1.0 + torch.arange(d))
    bases = torch.linalg.qr(torch.randn(count, d, d, generator=generator))[0]
    return bases @ torch.diag(spectrum) @ bases.mT


def gaussian_case(shape: tuple[int, ...], seed: int = 0) -> Case:
    """A Gaussian with dense covariance."""
    generator = seeded(seed)
    d = math.prod(shape)
    mean, covariance = torch.randn(d, generator=generator), spd(d, 1, generator)
    return Case(Gaussian(mean.reshape(shape), covariance[0]), torch.ones(1), mean[None], covariance)


def diagonal_gaussian_case(shape: tuple[int, ...], seed: int = 0) -> Case:
    """A Gaussian given by its variances."""
    generator = seeded(seed)
    mean = torch.randn(shape, generator=generator)
    variances = 0.2 + torch.rand(shape, generator=generator)
    return Case(Gaussian(mean, variances), torch.ones(1), mean.reshape(1, -1), torch.diag(variances.flatten())[None])


def isotropic_case(shape: tuple[int, ...]) -> Case:
    """A Gaussian given by one variance."""
    mean = torch.linspace(-1.0, 2.0, math.prod(shape))
    return Case(Gaussian(mean.reshape(shape), 0.3), torch.ones(1), mean[None], 0.3 * torch.eye(len(mean))[None])


def low_rank_case(shape: tuple[int, ...], rank: int, seed: int = 0) -> Case:
    """A Gaussian given by ``rank`` principal variances and one for the rest."""
    generator = seeded(seed)
    d = math.prod(shape)
    mean = torch.randn(d, generator=generator)
    basis = torch.linalg.qr(torch.randn(d, rank, generator=generator))[0]
    values, rest = 0.5 + torch.rand(rank, generator=generator), 0.2
    covariance = basis @ torch.diag(values - rest) @ basis.T + rest * torch.eye(d)
    law = Gaussian.from_spectrum(mean.reshape(shape), basis, values, rest)
    return Case(law, torch.ones(1), mean[None], covariance[None])


def mixture_case(shape: tuple[int, ...], seed: int = 0) -> Case:
    """A mixture of three Gaussians with dense covariances."""
    generator = seeded(seed)
    d = math.prod(shape)
    weights = torch.tensor([0.2, 0.5, 0.3])
    means, covariances = torch.randn(3, d, generator=generator), spd(d, 3, generator)
    return Case(GaussianMixture(weights, means.reshape(3, *shape), covariances), weights, means, covariances)


def diagonal_mixture_case(shape: tuple[int, ...], seed: int = 0) -> Case:
    """A mixture of two Gaussians given by their variances."""
    generator = seeded(seed)
    d = math.prod(shape)
    weights, means = torch.tensor([0.4, 0.6]), torch.randn(2, d, generator=generator)
    variances = 0.2 + torch.rand(2, d, generator=generator)
    density = GaussianMixture(weights, means.reshape(2, *shape), variances.reshape(2, *shape))
    return Case(density, weights, means, torch.diag_embed(variances))


def note_mixture_1d() -> Case:
    """The 1-D mixture of the note of paper 2, section 4."""
    weights, means, covariances = (
        torch.tensor([0.3, 0.7]),
        torch.tensor([[-2.0], [1.5]]),
        torch.tensor([[[0.25]], [[0.6]]]),
    )
    return Case(GaussianMixture(weights, means, covariances), weights, means, covariances)


def note_mixture_2d() -> Case:
    """The 2-D mixture of the note of paper 2, section 4."""
    weights = torch.tensor([0.4, 0.35, 0.25])
    means = torch.tensor([[-1.5, 0.5], [1.0, 1.2], [0.3, -1.8]])
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.15, -0.05], [-0.05, 0.4]], [[0.5, 0.0], [0.0, 0.1]]])
    return Case(GaussianMixture(weights, means, covariances), weights, means, covariances)


def mixture_of(means: Tensor, covariances: Tensor, weights: Tensor | None = None) -> Case:
    """A mixture from means ``K d`` and covariances ``K d d`` or variances ``K d``, of equal weights by default."""
    weights = torch.full((len(means),), 1.0 / len(means)) if weights is None else weights
    dense = covariances if covariances.ndim == 3 else torch.diag_embed(covariances)
    return Case(GaussianMixture(weights, means, covariances), weights, means, dense)


def ring() -> Case:
    """Eight tight components on a circle."""
    angle = torch.arange(8) * math.tau / 8
    return mixture_of(2.0 * torch.stack([angle.cos(), angle.sin()], 1), torch.full((8, 2), 0.01))


def scales_64() -> Case:
    """Five isotropic components in 64 dimensions, with scales from 0.1 to 0.7."""
    scales = torch.linspace(0.1, 0.7, 5)
    return mixture_of(torch.randn(5, 64, generator=seeded(5)), scales.square()[:, None].repeat(1, 64))


def many_scales_64() -> Case:
    """Five components in 64 dimensions, with a scale from 0.1 to 0.7 for every coordinate of each."""
    scales = 0.1 + 0.6 * torch.rand(5, 64, generator=seeded(6))
    return mixture_of(torch.randn(5, 64, generator=seeded(5)), scales.square())


#: name -> law on which few evaluations tell little, and a row between or beyond its modes, or ``None``
HARD: dict[str, tuple[Callable[[], Case], float | None]] = {
    "bimodal": (lambda: mixture_of(torch.tensor([[-2.0], [2.0]]), torch.full((2, 1), 0.25)), 0.0),
    "spike and slab": (lambda: mixture_of(torch.zeros(2, 1), torch.tensor([[1e-4], [1.0]])), 0.0),
    "ring": (ring, 0.0),
    "ridges": (
        lambda: mixture_of(
            torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.eye(2) * 1e-4 + 0.9999 * torch.ones(2, 2, 2)
        ),
        0.0,
    ),
    "heavy tails": (
        lambda: mixture_of(
            torch.zeros(3, 3), torch.tensor([0.1, 1.0, 20.0])[:, None].repeat(1, 3), torch.tensor([0.6, 0.3, 0.1])
        ),
        9.0,
    ),
    "scales, d = 64": (scales_64, None),
    "many scales, d = 64": (many_scales_64, None),
}


def rows_of(name: str, count: int, seed: int = 1) -> tuple[Case, Tensor]:
    """A hard law with rows of it, the last being the named one."""
    make, place = HARD[name]
    case = make()
    x = case.rows(count, seed)
    return case, x if place is None else torch.cat([x, torch.full((1, case.d), place)])


#: name -> constructor of a density with its dense twin (call it inside a test, where float64 is the default)
DENSITIES: dict[str, Callable[[], Case]] = {
    "isotropic": lambda: isotropic_case((3,)),
    "diagonal-image": lambda: diagonal_gaussian_case((2, 2, 2)),
    "dense-1d": lambda: gaussian_case((1,)),
    "dense": lambda: gaussian_case((5,)),
    "dense-image": lambda: gaussian_case((1, 2, 3)),
    "low-rank-image": lambda: low_rank_case((2, 3, 2), rank=3),
    "mixture-1d": note_mixture_1d,
    "mixture-2d": note_mixture_2d,
    "mixture-image": lambda: mixture_case((3, 2, 2)),
    "diagonal-mixture-image": lambda: diagonal_mixture_case((2, 3, 2)),
}
GAUSSIANS = {name: make for name, make in DENSITIES.items() if "mixture" not in name}

each_density = pytest.mark.parametrize("make_case", DENSITIES.values(), ids=DENSITIES)
each_gaussian = pytest.mark.parametrize("make_case", GAUSSIANS.values(), ids=GAUSSIANS)

#: name -> (constructor taking the fields of a ``Signature``, event shape)
NETWORKS: dict[str, tuple[Callable[..., torch.nn.Module], tuple[int, ...]]] = {
    "ResidualMLP": (lambda **given: ResidualMLP((2, 2), Signature(**given), width=16, blocks=2), (2, 2)),
    "TwoLayerNetwork": (lambda **given: TwoLayerNetwork((2, 2), Signature(**given), width=16), (2, 2)),
    "ConvNetwork": (lambda **given: ConvNetwork((1, 4, 4), Signature(**given), width=4, deep_width=8), (1, 4, 4)),
    "ImageNetwork": (
        lambda **given: ImageNetwork((1, 4, 6), Signature(**given), width=8, deep_width=8),
        (1, 4, 6),
    ),
    "ImageNetwork, folded": (
        lambda **given: ImageNetwork((1, 4, 6), Signature(**given), width=8, deep_width=8, fold=2),
        (1, 4, 6),
    ),
    "UNet": (lambda **given: UNet((1, 4, 4), Signature(**given), width=8, multipliers=(1, 2)), (1, 4, 4)),
}

each_network = pytest.mark.parametrize(("make_network", "shape"), NETWORKS.values(), ids=NETWORKS)


def expected_log_normal(at: Tensor, variance: Tensor | float, mean: Tensor, covariance: Tensor) -> Tensor:
    """``E[log N(Y; mean, covariance)]`` for ``Y ~ N(at, variance I)``, rows ``n d``, by dense linear algebra."""
    precision = torch.linalg.inv(covariance)
    return MultivariateNormal(mean, covariance).log_prob(at) - 0.5 * variance * precision.diagonal().sum()


def gaussian_elbo(
    case: Case, process: LinearProcess, x: Tensor, prior: tuple[Tensor, Tensor], decoder: Tensor | None = None
) -> Tensor:
    """Closed form of the expected bound for Gaussian data and the exact score.

    The diffusion part of the bound telescopes to ``E[log q_e(X_e) - log q_T(X_T)]``, so no integral is needed:
    the bound is that, plus the prior's and the decoder's expected log-densities, minus ``E[log q(X_e | x)]``.

    Args:
        case: one component.
        process: the forward process.
        x: rows.
        prior: mean and covariance of the prior.
        decoder: covariance of the last decoder; default isotropic.
    """
    rows, eye = x.flatten(1), torch.eye(case.d)
    mean, covariance = case.means[0], case.covariances[0]
    low, high = process.log_snr_range
    alpha, sigma = process.marginal_at(torch.tensor([low, high]))
    total = expected_log_normal(alpha[0] * rows, sigma[0] ** 2, *prior)
    for k, sign in ((0, -1.0), (1, 1.0)):
        noised = alpha[k] ** 2 * covariance + sigma[k] ** 2 * eye
        total = total + sign * expected_log_normal(alpha[k] * rows, sigma[k] ** 2, alpha[k] * mean, noised)
    # x - xhat(X_e) is Gaussian: mean (I - alpha K)(x - m), covariance sigma^2 K K'
    gain = alpha[1] * covariance @ torch.linalg.inv(noised)
    offset = (rows - mean) @ (eye - alpha[1] * gain).T
    decoder = decoder if decoder is not None else (sigma[1] / alpha[1]) ** 2 * eye
    precision = torch.linalg.inv(decoder)
    quadratic = (offset @ precision * offset).sum(1) + sigma[1] ** 2 * (gain.T @ precision @ gain).diagonal().sum()
    return total - 0.5 * (torch.logdet(decoder) + quadratic) + case.d * (sigma[1].log() + 0.5)


def quadrature_elbo(
    case: Case, process: LinearProcess, x: Tensor, prior: object, decoder: Tensor | None = None, nodes: int = 60
) -> Tensor:
    """The same expectation for any law in d <= 2, by Gauss-Hermite quadrature over eps.

    Args:
        case: the law.
        process: the forward process.
        x: rows ``n d``.
        prior: anything with ``log_prob`` of rows.
        decoder: covariance of the last decoder; default isotropic.
        nodes: number of nodes per dimension.
    """
    eps, weights = hermite(case.d, nodes)
    low, high = process.log_snr_range
    alpha, sigma = process.marginal_at(torch.tensor([low, high]))
    values = []
    for row in x:
        end, start = (alpha[k] * row + sigma[k] * eps for k in (0, 1))
        denoised = (start + sigma[1] ** 2 * case.score(start, alpha[1], sigma[1])) / alpha[1]
        covariance = decoder if decoder is not None else (sigma[1] / alpha[1]) ** 2 * torch.eye(case.d)
        decoded = MultivariateNormal(torch.zeros(case.d), covariance).log_prob(row - denoised)
        kernel = MultivariateNormal(torch.zeros(case.d), sigma[1] ** 2 * torch.eye(case.d)).log_prob(sigma[1] * eps)
        inference = case.twin(alpha[1], sigma[1]).log_prob(start) - case.twin(alpha[0], sigma[0]).log_prob(end)
        values.append(weights @ (prior.log_prob(end) + inference + decoded - kernel))
    return torch.stack(values)


def hermite(d: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes ``m d`` and weights ``m`` of an expectation over N(0, I)."""
    points, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    weights = weights / weights.sum()
    grid = torch.cartesian_prod(*[points] * d).reshape(-1, d)
    return grid, torch.cartesian_prod(*[weights] * d).reshape(-1, d).prod(1)


def assert_student(z: Tensor, degrees: int) -> None:
    """Independent standardised errors follow Student's t.

    Two tests, each with false alarm 1e-5: Kolmogorov-Smirnov for the shape, and for a common bias the mean, or where
    tails are too heavy for it, with four degrees of freedom or fewer, the signs.
    """
    from scipy.stats import kstest

    result = kstest(z.numpy(), "t", args=(degrees,))
    assert result.pvalue > 1e-5, f"z-scores are not Student-{degrees}: statistic {result.statistic:.3f}"
    if degrees > 4:
        bias = float(z.mean()) * math.sqrt(len(z) * (degrees - 2) / degrees)
    else:
        bias = float(z.sign().mean()) * math.sqrt(len(z))
    assert abs(bias) < 4.42, f"z-scores have a common bias of {bias:.1f} standard errors"
