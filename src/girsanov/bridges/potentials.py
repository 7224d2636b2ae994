r"""Schroedinger potentials in closed form: where a learned bridge starts, and what its networks correct.

Hopf and Cole write the bridge over a linear reference as :math:`u = a x + g^2 \nabla \log \psi_t` and
:math:`v = a x - g^2 \nabla \log \hat\psi_t` (note of paper 3, section 2.5). The two gradients are called *pulls* here:
what draws a path towards its end, and towards its start. With the reference's clock tau, scale alpha,
:math:`\rho = \alpha_T/\alpha_t` and :math:`V = \alpha_T^2 (\tau_T - \tau_t)`,

- flat potentials, :math:`\psi = \hat\psi = 1`, are the reference itself, forwards;
- quadratic ones, :math:`\psi_T = e^{\frac12 y^\top H y + h^\top y}`, stay quadratic,
  :math:`\nabla \log \psi_t(x) = \rho\, (I - V H)^{-1} (H \rho x + h)`: the bridge between two Gaussians exactly;
- Gaussian mixtures stay mixtures. They are fitted to rows of both ends without any simulation: among all couplings
  :math:`q(x_0, y) \propto \mu(x_0) R(y \mid x_0) \psi_T(y)` the bridge's has the least

.. math::
    \mathrm{KL}(\pi^\star \| q) = E_\mu \log \psi_0(X_0) - E_\nu \log \psi_T(X_T) + \mathrm{const},

the dual of entropic transport (the loss of Korotin et al., 2024, here with unrestricted covariances and for any linear
reference); the other potential is the same problem with the ends exchanged.

Every path law :math:`R\, f(X_0)\, g(X_T)` has the reference's own bridges, so that alternating projections started
from any of these reach the same Schroedinger bridge as from the reference.
"""

__all__ = [
    "Covariances",
    "FlatPotentials",
    "MixturePotentials",
    "MixtureStart",
    "Potentials",
    "QuadraticPotentials",
    "fit_mixture_potential",
    "fit_mixture_potentials",
]

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from girsanov.bridges.gaussian import GaussianBridge
from girsanov.bridges.reference import Clock
from girsanov.calculus import expand_as_rows
from girsanov.densities import GaussianMixture
from girsanov.processes import LinearProcess
from girsanov.randomness import mix
from girsanov.training import Progress, ShuffledBatches, TrainingConfig, train
from girsanov.types import InputError, Nats, State, Time, require_counts

Covariances = Literal["diagonal", "full"]
HELD_OUT = 10  # one row in so many tells when a potential stops improving
BATCH = 512
LOG_2PI = math.log(2.0 * math.pi)


class Potentials(nn.Module, ABC):
    """Two potentials by their pulls, the gradients of their logarithms at every time."""

    @abstractmethod
    def forward_pull(self, t: Time, x: State) -> State:
        r"""The gradient of :math:`\log \psi_t` at float64 times, ``b`` or one for all rows, and rows ``b *d``."""

    @abstractmethod
    def backward_pull(self, t: Time, x: State) -> State:
        r"""The gradient of :math:`\log \hat\psi_t` at float64 times, ``b`` or one for all rows."""


@final
class FlatPotentials(Potentials):
    """No pull in either direction: the bridge starts as its reference.

    Example:
        >>> FlatPotentials().forward_pull(torch.zeros(2), torch.ones(2, 3)).abs().max()
        tensor(0.)
    """

    def forward_pull(self, t: Time, x: State) -> State:
        return torch.zeros_like(x)

    backward_pull = forward_pull


@final
class QuadraticPotentials(Potentials):
    """The potentials of the bridge between two Gaussians.

    Args:
        bridge: the bridge, see :func:`girsanov.bridges.gaussian_bridge`.

    Example:
        >>> from girsanov.bridges import gaussian_bridge
        >>> from girsanov.processes import BrownianMotion
        >>> bridge = gaussian_bridge(torch.zeros(2), 1.0, torch.ones(2), 4.0, reference=BrownianMotion())
        >>> t, x = torch.full((3,), 0.4, dtype=torch.float64), torch.randn(3, 2)
        >>> pull = QuadraticPotentials(bridge).forward_pull(t, x)  # a Brownian reference has drift 0 and g = 1
        >>> torch.allclose(pull, bridge.forward_drift(t, x), atol=1e-5)
        True
    """

    def __init__(self, bridge: GaussianBridge) -> None:
        super().__init__()
        self.clock = bridge.clock
        zero = torch.zeros(1, *bridge.event_shape, dtype=torch.float64)
        for name, t, drift, sign in (
            ("end", bridge.horizon, bridge.forward_drift, 1.0),
            ("start", 0.0, bridge.backward_drift, -1.0),
        ):
            rate, squared = bridge.reference.rates(torch.tensor(t, dtype=torch.float64))
            basis = torch.eye(zero.numel(), dtype=torch.float64).reshape(-1, *bridge.event_shape)
            offset = sign * drift(t, zero).flatten() / squared
            matrix = sign * ((drift(t, basis) - rate * basis).flatten(1) / squared) - offset
            values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.T))
            self.register_buffer(f"{name}_curvature", values)
            self.register_buffer(f"{name}_basis", vectors)
            self.register_buffer(f"{name}_slope", offset @ vectors)

    def forward_pull(self, t: Time, x: State) -> State:
        alpha, tau = self.clock(t)
        rho = self.clock.scale / alpha
        return self._pull("end", rho, self.clock.scale.square() * (self.clock.total - tau), x)

    def backward_pull(self, t: Time, x: State) -> State:
        r"""The same with :math:`1/\alpha_t` for rho and :math:`\tau_t` for V."""
        alpha, tau = self.clock(t)
        return self._pull("start", 1.0 / alpha, tau, x)

    def _pull(self, name: str, rho: Tensor, variance: Tensor, x: State) -> State:
        values, basis, slope = (self.get_buffer(f"{name}_{part}") for part in ("curvature", "basis", "slope"))
        rho, variance = rho.to(x.device)[:, None], variance.to(x.device)[:, None]
        shares = rho / (1.0 - variance * values)
        y = x.flatten(1).to(basis.dtype) @ basis
        return ((shares * (values * rho * y + slope)) @ basis.T).reshape(x.shape).to(x.dtype)


@final
class MixturePotentials(Potentials):
    r"""Two Gaussian mixtures, :math:`\psi_T` at the horizon and :math:`\hat\psi_0` at the start.

    Args:
        reference: linear process that remembers its start.
        start: the potential at t = 0, not the law of the start.
        end: the potential at the horizon.
    """

    def __init__(self, reference: LinearProcess, start: GaussianMixture, end: GaussianMixture) -> None:
        super().__init__()
        self.clock, self.start, self.end = Clock(reference), start, end

    def forward_pull(self, t: Time, x: State) -> State:
        r""":math:`\rho` times the score of :math:`\psi_T` blurred by V, at :math:`\rho x`."""
        alpha, tau = self.clock(t)
        rho = self.clock.scale / alpha
        blur = self.clock.scale * (self.clock.total - tau).clamp_min(0.0).sqrt()
        wide = expand_as_rows(rho, x).to(x.dtype)
        return wide * self.end.diffused_score(torch.ones_like(rho), blur, wide * x)

    def backward_pull(self, t: Time, x: State) -> State:
        r"""The score of :math:`\hat\psi_0` carried to t by the reference."""
        alpha, tau = self.clock(t)
        return self.start.diffused_score(alpha, alpha * tau.sqrt(), x)


@final
@dataclass(frozen=True)
class MixtureStart:
    """Training starts from Gaussian mixtures that are fitted to both ends without simulation.

    Attributes:
        components: number of Gaussians in each.
        covariances: ``diagonal``, or ``full`` where there are rows enough for d squared numbers in each.
        steps: of training for each, at most.
        learning_rate: peak rate, in units of the rows' standard deviation.

    Raises:
        InputError: for a number below 1.
    """

    components: int = 50
    covariances: Covariances = "diagonal"
    steps: int = 4000
    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        require_counts(self, "components", "steps")


@dataclass(frozen=True)
class _Dual:
    """The dual of entropic transport as a loss per row and dimension, and its value on held-out rows.

    Rows come as those of the potential's own end and those of the other one.
    """

    held: Sequence[Tensor]
    blur: float

    def __call__(self, module: nn.Module, ends: Sequence[Tensor], generator: torch.Generator, step: int) -> Tensor:
        assert isinstance(module, _LearnedMixture)
        own, other = ends
        return (module.log_prob(other, self.blur) - module.log_prob(own)) / own.shape[1]

    def validate(self, module: nn.Module, step: int) -> float:
        assert isinstance(module, _LearnedMixture)
        own, other = self.held
        return float(module.log_prob(own).mean() - module.log_prob(other, self.blur).mean())


class _LearnedMixture(nn.Module):
    """Weights, means and covariances of a mixture as parameters, where the rows have variance about 1.

    Args:
        logits: shape ``K``.
        means: shape ``K d``.
        covariances: variances ``K d``, or ``K d d``.
    """

    def __init__(self, logits: Tensor, means: Tensor, covariances: Tensor) -> None:
        super().__init__()
        self.logits, self.means = nn.Parameter(logits), nn.Parameter(means)
        root = None if covariances.ndim == 2 else torch.linalg.cholesky(covariances)
        variances = covariances if root is None else root.diagonal(dim1=1, dim2=2).square()
        self.log_variances = nn.Parameter(variances.log())
        self.below = None if root is None else nn.Parameter(root.tril(-1))

    def covariances(self) -> Tensor:
        """Variances ``K d`` or covariances ``K d d``."""
        if self.below is None:
            return self.log_variances.exp()
        root = self._root(self.below)
        return root @ root.mT

    def log_prob(self, y: Tensor, blur: float = 0.0) -> Nats:
        """Log-density of the mixture blurred by a variance: shape ``b``."""
        quadratic, log_det = self._diagonal(y, blur) if self.below is None else self._full(self.below, y, blur)
        normaliser = log_det + LOG_2PI * y.shape[1]
        return (self.logits.log_softmax(0) - 0.5 * (quadratic + normaliser)).logsumexp(1)

    def _diagonal(self, y: Tensor, blur: float) -> tuple[Tensor, Tensor]:
        """Quadratic forms ``b K`` by matrix products, and log-determinants ``K``."""
        variances = self.log_variances.exp() + blur
        precise = variances.reciprocal()
        cross = y.square() @ precise.T - 2.0 * y @ (self.means * precise).T
        return cross + (self.means.square() * precise).sum(1), variances.log().sum(1)

    def _full(self, below: Tensor, y: Tensor, blur: float) -> tuple[Tensor, Tensor]:
        root = self._root(below)
        if blur:
            root = torch.linalg.cholesky(root @ root.mT + blur * torch.eye(y.shape[1], device=y.device, dtype=y.dtype))
        whitened = torch.linalg.solve_triangular(root, (y - self.means[:, None]).mT, upper=False)
        return whitened.square().sum(1).T, 2.0 * root.diagonal(dim1=1, dim2=2).log().sum(1)

    def _root(self, below: Tensor) -> Tensor:
        return below.tril(-1) + torch.diag_embed((0.5 * self.log_variances).exp())


def fit_mixture_potential(
    own: State,
    other: State,
    variance: float,
    mixture: MixtureStart | None = None,
    *,
    seed: int = 0,
    time_budget: float | None = None,
    **training: Any,
) -> GaussianMixture:
    r"""Fit one potential by the dual of entropic transport, in coordinates where the reference is Brownian.

    Minimises :math:`E_{other} \log (\psi * \mathcal{N}(0, \mathrm{variance}))(X) - E_{own} \log \psi(Y)` over
    mixtures. A tenth of the rows tells when to stop.

    Args:
        own: rows of the end at which the potential stands, ``n *d``.
        other: rows of the other end, ``m *d``.
        variance: total variance of the Brownian reference between them.
        mixture: its size and training.
        seed: keys the start and the batches.
        time_budget: seconds of training, at most.
        **training: ``run``, a folder for checkpoints, from which an interrupted fit goes on; ``progress``; and
            ``identity``, which describes the rows: a resume with another one is refused.

    Raises:
        InputError: if there are fewer than 20 rows at an end.
    """
    mixture = mixture or MixtureStart()
    if min(len(own), len(other)) < 2 * HELD_OUT:
        raise InputError(f"A bridge needs at least {2 * HELD_OUT} rows at each end; got {len(own)} and {len(other)}")
    shape, centre = own.shape[1:], own.double().mean(0)
    scale = float((own.double() - centre).square().mean().sqrt())
    rows = [((x.double() - centre) / scale).flatten(1).float() for x in (own, other)]
    kept = [x[torch.arange(len(x)) % HELD_OUT > 0] for x in rows]
    dual = _Dual([x[::HELD_OUT] for x in rows], variance / scale**2)
    order = [ShuffledBatches(len(x), BATCH, mix(seed, i)) for i, x in enumerate(kept)]
    batches = lambda step: [x[shuffled(step)] for x, shuffled in zip(kept, order, strict=True)]  # noqa: E731
    config = TrainingConfig(
        steps=mixture.steps, batch_size=BATCH, learning_rate=mixture.learning_rate, weight_decay=0.0, seed=seed,
        ema_decay=0.99, validate_every=max(1, mixture.steps // 20), clip_norm=None, time_budget=time_budget,
    )  # fmt: skip
    start = _initial_mixture(kept[0], mixture, seed)
    best = train(start, dual, batches, config=config, validate=dual.validate, **training).module.requires_grad_(False)
    assert isinstance(best, _LearnedMixture)
    weights = best.logits.double().softmax(0).clamp_min(1e-12)
    means = (centre.flatten() + scale * best.means.double()).reshape(-1, *shape)
    spread = scale**2 * best.covariances().double()
    return GaussianMixture(weights, means, spread.reshape(-1, *shape) if spread.ndim == 2 else spread)


def fit_mixture_potentials(
    reference: LinearProcess,
    x0: State,
    x1: State,
    mixture: MixtureStart | None = None,
    *,
    seed: int = 0,
    run: Path | None = None,
    progress: Progress | None = None,
    **training: Any,
) -> MixturePotentials:
    """Fit both potentials to rows of the two ends; see the module and :func:`fit_mixture_potential`.

    Args:
        reference: linear process that remembers its start.
        x0: rows of the start, ``n *d``.
        x1: rows of the end, ``m *d``.
        mixture: size and training of each.
        seed: keys everything random.
        run: folder for checkpoints of both.
        progress: what shows the progress.
        **training: ``time_budget`` of each, and ``identity``.

    Example:
        >>> from girsanov.processes import BrownianMotion
        >>> g = torch.Generator().manual_seed(0)
        >>> x0, x1 = torch.randn(2, 400, 1, generator=g)
        >>> one = MixtureStart(components=1, steps=200)
        >>> potentials = fit_mixture_potentials(BrownianMotion(), x0 - 1.0, x1 + 1.0, one)
        >>> t, x = torch.zeros(1, dtype=torch.float64), torch.tensor([[-1.0]])
        >>> 1.5 < float(potentials.forward_pull(t, x)) < 2.5  # from -1 to 1 in unit time
        True
    """
    clock, found = Clock(reference), []
    ends, total = (x0, x1 / clock.scale.to(x1.dtype)), float(clock.total)
    for i, name in enumerate(("start", "end")):
        if progress is not None:
            progress.stage(f"mixture of the {name}")
        training |= {"run": None if run is None else run / f"mixture-{name}", "progress": progress}
        found.append(fit_mixture_potential(ends[i], ends[1 - i], total, mixture, seed=mix(seed, i), **training))
    start, end = found
    return MixturePotentials(reference, start, end.diffused(clock.scale, 0.0))


def _initial_mixture(rows: Tensor, mixture: MixtureStart, seed: int) -> _LearnedMixture:
    """Clusters of the rows, with their shares and spreads."""
    from sklearn.cluster import KMeans

    count = min(mixture.components, len(rows) // 2)
    few = rows[:: max(1, len(rows) // 10_000)]
    found = KMeans(count, n_init=1, random_state=seed % 2**32).fit(few.numpy())  # pyright: ignore[reportArgumentType]
    label = torch.as_tensor(found.labels_).long()
    means = torch.as_tensor(found.cluster_centers_, dtype=rows.dtype)
    shares = torch.bincount(label, minlength=count).to(rows.dtype)
    parts = [few[label == k] - means[k] for k in range(count)]
    overall = (few - means[label]).square().mean(0).clamp_min(1e-4)
    if mixture.covariances == "diagonal":
        spread = torch.stack([(x.square().sum(0) + 2.0 * overall) / (len(x) + 2.0) for x in parts]).clamp_min(1e-4)
    else:  # shrunk towards a diagonal by as many rows as there are dimensions
        prior = 2.0 + rows.shape[1]
        spread = torch.stack([(x.T @ x + prior * torch.diag(overall)) / (len(x) + prior) for x in parts])
    return _LearnedMixture((shares + 1.0).log(), means, spread)
