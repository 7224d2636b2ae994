r"""Energy-based models :math:`p(x) = e^{-E(x)} / Z`: trained by score matching, normalised by annealing.

Training needs the score :math:`-\nabla E` alone (note of paper 4, section 2.2). With an estimate of log Z and its
standard error the model has a log-density that stands beside a diffusion model's: its kind is *estimate*, since
annealing that misses a mode is not noticed by its own error.
"""

__all__ = ["EnergyModel", "TiltedGaussian", "fit_energy"]

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from girsanov.applications.annealing import Annealing, LogNormaliser, log_normaliser
from girsanov.calculus import Exact, Hutchinson
from girsanov.densities import Gaussian
from girsanov.display import Shown, Summary, in_words
from girsanov.inputs import checked
from girsanov.randomness import mix, stream
from girsanov.stein.matrices import DiffusionLike
from girsanov.stein.score_matching import Sliced, SquaredMatrix, pointwise_loss, squared_matrix
from girsanov.training import ShuffledBatches, TrainingConfig, TrainingResult, train
from girsanov.types import Estimate, InputError, MeanEstimate, State

HELD_OUT = 0.2
EXACT_DIMENSIONS = 16  # up to which held-out rows are judged without probes
LINES, POINTS, MOVES = 30, 128, (1.0, 4.0)  # on which an energy's smoothness is judged, with weights moved so far
WORST, SPLIT, ZOOMS = 4, 32, 4  # cells of a line that are looked at, in so many parts, so many times over
JUMPS = 1e-5  # share of a derivative along a line that may be a jump of it
WIDENING = 1.5  # of the annealing's starting variance over the data's
DEFAULTS = TrainingConfig(
    steps=2000, batch_size=256, learning_rate=3e-3, ema_decay=0.99, weight_decay=0.0, validate_every=100, patience=8
)


@final
class TiltedGaussian(nn.Module):
    r"""An energy that can be normalised by construction: a Gaussian's, plus a bounded network.

    :math:`E(x) = -\log \mathcal{N}(x; m, S) + f(x)` with a network f of bounded features, zero before training.

    Args:
        reference: the Gaussian, such as ``Gaussian.fit(x)``.
        width: units of the two hidden layers.
        widening: factor of the Gaussian's variances, so that the tails can be heavier than its own.

    Example:
        >>> energy = TiltedGaussian(Gaussian(torch.zeros(2), 1.0), width=8)
        >>> energy(torch.zeros(1, 2)).item()  # log(2 pi)
        1.837...
    """

    def __init__(self, reference: Gaussian, *, width: int = 64, widening: float = 1.0) -> None:
        super().__init__()
        self.reference = reference if widening == 1.0 else _widened(reference, widening)
        d = reference.event_dim
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        layers = [nn.Linear(d, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), last]
        self.network = nn.Sequential(*layers)

    def forward(self, x: State) -> Tensor:
        """Energies of rows ``n *d``, shape ``n``."""
        weight = next(self.network.parameters())
        white = self.reference.spectral(x - self.reference.mean.to(x), torch.rsqrt)
        return -self.reference.log_prob(x) + self.network(white.flatten(1).to(weight.dtype))[:, 0]


@final
@dataclass(frozen=True, repr=False)
class EnergyModel(Shown):
    """A trained energy.

    Attributes:
        energy: rows ``n *d`` to ``n``, without trainable parameters.
        reference: a Gaussian fitted to the training rows: where annealing starts from.
        training: facts of the training.
        normaliser: the estimate of log Z, once :meth:`normalised`.
    """

    energy: nn.Module
    reference: Gaussian
    training: TrainingResult
    normaliser: LogNormaliser | None = None

    def _summary(self) -> Summary:
        done = self.training
        facts = {
            "energy": in_words(self.energy),
            "rows": f"of shape {tuple(self.reference.event_shape)}",
            "training": f"{done.step:,} steps in {done.seconds:.1f} s, stopped by {done.stopped}",
            "log Z": "unknown: model.normalised()" if self.normaliser is None else in_words(self.normaliser),
        }
        return Summary("EnergyModel", facts)

    @checked
    def score(self, x: State) -> State:
        """The gradient of the log-density at rows ``n *d``: for Stein tests."""
        return energy_score(self.energy, x)

    def normalised(
        self,
        *,
        annealing: Annealing = Annealing(),  # noqa: B008  (a frozen value)
        generator: torch.Generator | None = None,
    ) -> "EnergyModel":
        """The model with an estimate of log Z.

        Args:
            annealing: effort.
            generator: decides all draws; ``None`` means seed 0.

        Raises:
            InputError: if the energy is not finite where particles go.
        """
        wide = _widened(self.reference, WIDENING)
        return replace(self, normaliser=log_normaliser(self.energy, wide, annealing=annealing, generator=generator))

    @checked
    @torch.no_grad()
    def log_prob(self, x: State) -> Estimate:
        """Log-density of rows ``n *d`` in nats; all rows share the error of log Z, and ``mean()`` knows it.

        Raises:
            InputError: before :meth:`normalised`.
        """
        if self.normaliser is None:
            raise InputError("The energy has no normaliser yet: call model = model.normalised() first")
        height = -self.energy(x).double()
        replicates = height - self.normaliser.replicates.to(height)[:, None]
        shift = torch.full_like(height, -self.normaliser.value)
        return Estimate.from_replicates(
            replicates,
            kind="estimate",
            model="density",
            nfe=1,
            event_dim=x[0].numel(),
            terms={"energy": height, "normaliser": shift},
        )


@checked
def fit_energy(
    energy: nn.Module,
    x: State,
    *,
    diffusion: DiffusionLike = None,
    divergence: Exact | Hutchinson | Sliced = Hutchinson(1),  # noqa: B008
    config: TrainingConfig = DEFAULTS,
) -> EnergyModel:
    """Train an energy by score matching with a diffusion matrix.

    A fifth of the rows is held out; its loss decides which weights are kept. The loss never sees the normalising
    constant: far-apart modes get their shapes right and their proportions hardly at all.

    Args:
        energy: module from rows ``n *d`` to ``n``, twice differentiable (no ReLU): :class:`TiltedGaussian`, say.
            Trained in place.
        x: rows ``n *d``, cast to the dtype of the energy's parameters.
        diffusion: a matrix, see :func:`girsanov.stein.as_diffusion`; ``"robust"`` bounds the influence of outliers, a
            flow from :func:`girsanov.stein.fit_flow` is a near-best choice for heavy tails.
        divergence: how the loss takes its derivative.
        config: of the training loop.

    Returns:
        The model with averaged weights; ask it for ``normalised()`` before ``log_prob``.

    Raises:
        InputError: for fewer than 20 rows, an energy without parameters, of another shape, not finite or not smooth,
            or a matrix with trainable parameters.

    Example:
        >>> x = torch.randn(400, 2)
        >>> config = TrainingConfig(steps=20, batch_size=64)
        >>> model = fit_energy(TiltedGaussian(Gaussian.fit(x), width=8), x, config=config)
        >>> estimate = model.normalised(annealing=Annealing(particles=64, levels=20)).log_prob(x[:3])
        >>> estimate.kind, estimate.value.shape
        ('estimate', torch.Size([3]))
    """
    if len(x) < 20:
        raise InputError(f"An energy is fitted to 20 rows or more; got {len(x)}")
    parameter = next(energy.parameters(), None)
    if parameter is None:
        raise InputError("This energy has no parameters to train")
    rows = x.detach().to(parameter)
    require_smooth(energy, rows, config.seed)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(mix(config.seed, 11)))
    held_out, chosen = order.split([max(1, int(HELD_OUT * len(rows))), len(rows) - max(1, int(HELD_OUT * len(rows)))])
    values = squared_matrix(rows, diffusion)
    judged = Exact() if rows[0].numel() <= EXACT_DIMENSIONS else divergence
    fixed = _probes(judged, rows[held_out], values, stream(config.seed, "energy validation"))
    shuffled = ShuffledBatches(len(chosen), min(config.batch_size, len(chosen)), mix(config.seed, 12))

    def loss(module: nn.Module, index: Tensor, generator: torch.Generator, step: int) -> Tensor:
        probes = _probes(divergence, rows[index], values, generator)
        return _loss(module, rows[index], values.rows(index), divergence, probes) / rows[0].numel()

    def validate(module: nn.Module, step: int) -> MeanEstimate:
        with torch.no_grad():
            found = _loss(module, rows[held_out], values.rows(held_out), judged, fixed)
        spread = float(found.std()) / len(found) ** 0.5 if len(found) > 1 else 0.0
        return MeanEstimate(-float(found.mean()), spread, spread, len(found))

    result = train(energy, loss, lambda step: chosen[shuffled(step)], config=config, validate=validate)
    return EnergyModel(result.module, Gaussian.fit(rows[chosen]), result)


def require_smooth(energy: nn.Module, rows: State, seed: int) -> None:
    """Refuse an energy whose gradient jumps: the loss sees its derivative between the jumps alone.

    Along straight lines between rows the derivative of a smooth gradient explains its change, the better the shorter
    the line; a jump stays unexplained however closely it is looked at, and however large the smooth part beside it.
    Weights are moved at random first, a little and far: networks often start as zero, whose gradient changes nowhere,
    and the kinks of some activations lie where only large weights lead.

    Raises:
        InputError: for such an energy, and for values of another shape than ``n`` or that are not finite.
    """
    source = torch.Generator().manual_seed(mix(seed, 14))
    values = energy(rows[: 2 * LINES]).detach()
    if values.shape != (len(rows[: 2 * LINES]),) or not bool(values.isfinite().all()):
        raise InputError(
            f"The energy must return one finite number for each of {len(rows[: 2 * LINES])} rows; it returned shape "
            f"{tuple(values.shape)}, {int((~values.isfinite()).sum())} of them missing or infinite"
        )
    lines = min(LINES, len(rows) // 2)
    start, end = rows[:lines].double(), rows[lines : 2 * lines].double()
    twin = copy.deepcopy(energy).double().eval()
    for far in MOVES:
        weights = {}
        for name, value in twin.named_parameters():
            size = far * (float(value.detach().square().mean().sqrt()) or 0.1)
            weights[name] = value.detach() + size * torch.randn(value.shape, generator=source).to(value)
        if _differentiable(partial(_jumps, partial(_called, twin, weights), start, end)):
            raise InputError(
                "The gradient of this energy jumps, as that of a piecewise linear one (ReLU) does: score matching sees "
                "its derivative between the jumps alone and has no minimum to find; take a smooth activation, such as "
                "Tanh"
            )


def _differentiable(function: Callable[[], bool]) -> bool:
    """What a function of second derivatives returns, or a sentence where PyTorch has none."""
    try:
        return function()
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
        raise InputError(
            f"PyTorch has no second derivative of this energy ({error}), which score matching needs; take a smooth "
            "activation, such as Tanh"
        ) from error


def _called(energy: nn.Module, weights: dict[str, Tensor], x: State) -> Tensor:
    return functional_call(energy, weights, (x,))


def _jumps(energy: Callable[[State], Tensor], start: State, end: State) -> bool:
    """Whether the derivative of an energy along one of the lines jumps: the worst cells, ever shorter, tell."""
    cut = torch.linspace(0.0, 1.0, POINTS + 1).to(start)
    rest, scale, tolerance = _unexplained(energy, start, end, cut.expand(len(start), 1, -1))
    left, width = cut[rest[:, 0].topk(WORST, 1).indices], 1.0 / POINTS
    inner = torch.linspace(0.0, 1.0, SPLIT + 1).to(start)
    for _ in range(ZOOMS):
        cut = left[..., None] + width * inner
        rest, _, _ = _unexplained(energy, start, end, cut)
        left, width = cut.gather(2, rest.argmax(2, keepdim=True))[..., 0], width / SPLIT
    return bool((rest.amax((1, 2)) > tolerance * scale).any())


def _unexplained(
    energy: Callable[[State], Tensor], start: State, end: State, cut: Tensor
) -> tuple[Tensor, Tensor, float]:
    """What the second derivative leaves of the first one's change, in cells between points of each line.

    Args:
        energy: rows ``n *d`` to ``n``.
        start: where lines begin, ``l *d``.
        end: where they end.
        cut: points in increasing order, shares of each line, ``l k m``.

    Returns:
        The rests ``l k m - 1``, the largest derivative ``l``, and which share of it may be rounding.
    """
    with torch.enable_grad():
        t = cut.detach().flatten(1).clone().requires_grad_()
        wide = t.reshape(*t.shape, *(1,) * (start.ndim - 1))
        values = energy((start[:, None] + wide * (end - start)[:, None]).flatten(0, 1))
        (slope,) = torch.autograd.grad(values.sum(), t, create_graph=True)
        bend = torch.zeros_like(t)
        if slope.requires_grad:
            (bend,) = torch.autograd.grad(slope.sum(), t, materialize_grads=True)
    slope, bend = slope.detach().reshape(cut.shape), bend.reshape(cut.shape)
    explained = 0.5 * (bend[..., 1:] + bend[..., :-1]) * cut.diff()
    rest = (slope.diff() - explained).abs().nan_to_num(0.0, 0.0, 0.0)
    tolerance = max(JUMPS, 10.0 * torch.finfo(values.dtype).eps ** 0.5)
    return rest, slope.nan_to_num(0.0, 0.0, 0.0).abs().amax((1, 2)), tolerance


def energy_score(energy: Callable[[State], Tensor], x: State) -> State:
    """Minus the gradient of the energy, differentiable in rows and weights where gradients are on."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        point = x if x.requires_grad else x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(point).sum(), point, create_graph=keep)
    return -gradient


def _loss(
    module: nn.Module,
    rows: State,
    values: SquaredMatrix,
    divergence: Exact | Hutchinson | Sliced,
    probes: Tensor | None,
) -> Tensor:
    return pointwise_loss(rows, lambda x: energy_score(module, x), values, divergence=divergence, probes=probes)


def _probes(
    divergence: Exact | Hutchinson | Sliced, rows: State, values: SquaredMatrix, generator: torch.Generator
) -> Tensor | None:
    """Random signs of each row, where the divergence takes any."""
    if isinstance(divergence, Exact):
        return None
    shape = (divergence.probes, len(rows), values.columns)
    return (2.0 * torch.randint(2, shape, generator=generator, device=generator.device) - 1.0).to(rows)


def _widened(reference: Gaussian, factor: float) -> Gaussian:
    return Gaussian.from_spectrum(
        reference.mean, reference.basis, factor * reference.eigenvalues, factor * reference.remainder
    )
