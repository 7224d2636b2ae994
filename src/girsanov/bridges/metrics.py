r"""How far a learned bridge is from the truth: Bures-Wasserstein percentages, drift errors, exact transport distances.

With moments m, S of two laws,

.. math::
    \mathrm{BW}(A, B) = \tfrac12 \|m_A - m_B\|^2 + \tfrac12 \mathrm{tr} S_A + \tfrac12 \mathrm{tr} S_B
        - \mathrm{tr} (S_A^{1/2} S_B S_A^{1/2})^{1/2}, \qquad
    \mathrm{BW}_2^2\text{-UVP} = 100\, \frac{\mathrm{BW}}{\tfrac12 \mathrm{tr} S_{\mathrm{true}}},

and the conditional one averages BW between the model's draws given x and the exact law given x (note of paper 3,
section 4.4). By Girsanov, the error of a drift along the paths of the truth is a path KL,

.. math::
    \mathrm{KL}(P \| P') = \mathrm{KL}(p_0 \| p'_0) + \tfrac12 \int_0^T E_P \|u - u'\|^2 / g^2\, dt .

Distances between samples are in the units of the data; none of them is a likelihood.
"""

__all__ = [
    "ConditionalUVP",
    "bures_wasserstein",
    "bw2_uvp",
    "conditional_bw2_uvp",
    "drift_divergence",
    "energy_distance",
    "wasserstein",
]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from girsanov.bridges.closed import require_one_shape
from girsanov.calculus import sum_event
from girsanov.display import Shown
from girsanov.processes import LinearProcess
from girsanov.types import InputError, MeanEstimate, State

Moments = tuple[Tensor, Tensor]
PIVOTS = 2_000_000  # of the network simplex: enough for 5,000 points against 5,000


def bures_wasserstein(first: Moments, second: Moments) -> Tensor:
    """BW between Gaussians given by mean ``... d`` and covariance ``... d d``: half of their squared W2.

    Leading dimensions broadcast; covariances may be singular, as those of few draws are.

    Example:
        >>> bures_wasserstein((torch.zeros(2), torch.eye(2)), (torch.ones(2), 4.0 * torch.eye(2)))  # (2 + 2) / 2
        tensor(2., dtype=torch.float64)
    """
    (m_a, S_a), (m_b, S_b) = ((m.double(), S.double()) for m, S in (first, second))
    values, vectors = torch.linalg.eigh(S_a)
    root = (vectors * values.clamp_min(0.0).sqrt()[..., None, :]) @ vectors.mT
    overlap = torch.linalg.eigvalsh(root @ S_b @ root).clamp_min(0.0).sqrt().sum(-1)
    traces = (S_a.diagonal(dim1=-2, dim2=-1).sum(-1), S_b.diagonal(dim1=-2, dim2=-1).sum(-1))
    return 0.5 * ((m_a - m_b).square().sum(-1) + traces[0] + traces[1]) - overlap


def bw2_uvp(x: State, mean: Tensor, covariance: Tensor) -> float:
    """BW between samples and the truth in percent of half the truth's variance.

    Args:
        x: samples ``n *d``, at least two.
        mean: of the truth, ``d`` over the flattened event.
        covariance: of the truth, ``d d``.

    Raises:
        InputError: if shapes disagree.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> round(bw2_uvp(x, torch.zeros(1), torch.full((1, 1), 2.0)), 6)
        0.0
    """
    _require_dimension(x.flatten(1).shape[1], mean, covariance)
    distance = bures_wasserstein(_moments(x.double().flatten(1)), (mean, covariance))
    return float(100.0 * distance / (0.5 * covariance.trace()))


@dataclass(frozen=True, repr=False)
class ConditionalUVP(Shown):
    """cBW2-UVP in percent, and what a plan that ignores x would score.

    Attributes:
        value: of the model; its mean is over the given rows.
        stderr: over those rows.
        independent: of the independent plan, whose law given any x is the end itself, in closed form.
    """

    value: float
    stderr: float
    independent: float


def conditional_bw2_uvp(draws: State, conditional: Moments, end: Moments) -> ConditionalUVP:
    """Compare the model's end given x with the exact law given x, for many x.

    Args:
        draws: the model's ends, ``m n *d``: m draws for each of n starts; 1000 of each in the benchmark.
        conditional: exact means ``n d`` and covariances ``n d d`` (or one ``d d``) of the end given each start.
        end: mean ``d`` and covariance ``d d`` of the true end.

    Raises:
        InputError: if shapes disagree or there are fewer than two draws.

    Example:
        >>> draws = torch.tensor([[[-1.0], [1.0]], [[1.0], [3.0]]])  # two draws for each of two starts
        >>> exact = torch.tensor([[0.0], [2.0]]), torch.full((1, 1), 2.0)
        >>> uvp = conditional_bw2_uvp(draws, exact, (torch.ones(1), torch.full((1, 1), 3.0)))
        >>> round(uvp.value, 6), uvp.independent > 30
        (0.0, True)
    """
    if draws.ndim < 3 or len(draws) < 2 or draws.shape[1] != len(conditional[0]):
        raise InputError(
            f"draws must be (m, n, *d) with m >= 2 and n = {len(conditional[0])} starts; got {tuple(draws.shape)}"
        )
    flat = draws.double().flatten(2)
    _require_dimension(flat.shape[2], *end)
    scale = 100.0 / (0.5 * end[1].double().trace())
    values = scale * bures_wasserstein(_moments(flat.movedim(1, 0)), conditional)
    independent = scale * bures_wasserstein(end, conditional).mean()
    return ConditionalUVP(float(values.mean()), float(values.std() / math.sqrt(len(values))), float(independent))


def drift_divergence(
    paths: State,
    times: Tensor,
    first: Callable[[Tensor, State], State],
    second: Callable[[Tensor, State], State],
    reference: LinearProcess,
) -> MeanEstimate:
    r"""Mean of :math:`\tfrac12 \int \|u - u'\|^2 / g^2\, dt` along paths, by the trapezoidal rule in time.

    Along the paths of the process with drift ``first`` it is the path KL of that process from the other (where both
    start alike); along the paths of the second it is the KL in the other direction. Draw exact paths by
    ``bridge.sample_path`` and the model's by its own sampler, and report both.

    Args:
        paths: states ``m n *d`` at the times.
        times: increasing, shape ``m``; both drifts must be finite at all of them.
        first: ``(t, x) -> drift``.
        second: ``(t, x) -> drift``.
        reference: the process whose diffusion they share.

    Returns:
        Nats; the standard error is over paths.

    Example:
        >>> from girsanov.processes import BrownianMotion
        >>> paths, times = torch.zeros(3, 4, 2), torch.tensor([0.0, 0.5, 1.0])
        >>> drift_divergence(paths, times, lambda t, x: x + 1.0, lambda t, x: x, BrownianMotion()).value
        1.0
    """
    if len(times) != len(paths) or len(times) < 2:
        raise InputError(f"paths need one state for each of two times or more; got {len(paths)} and {len(times)}")
    integrand = []
    for t, x in zip(times.double(), paths, strict=True):
        rows = t.to(x.device).expand(len(x))
        error = sum_event((first(rows.to(x.dtype), x) - second(rows.to(x.dtype), x)).double().square())
        integrand.append(0.5 * error / reference.rates(rows)[1])
    values = torch.trapezoid(torch.stack(integrand), times.double().to(paths.device), dim=0).detach()
    stderr = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return MeanEstimate(float(values.mean()), stderr, stderr, len(values), max(len(values) - 1, 0))


def wasserstein(x: State, y: State, *, order: int = 1) -> float:
    """Exact Wasserstein distance between two samples with the Euclidean cost, in the units of the data.

    Args:
        x: samples ``n *d``.
        y: samples ``m *d``; memory and time grow with ``n m``. Equal numbers are matched by SciPy, others by POT.
        order: 1 or 2.

    Raises:
        InputError: if n is not m and POT is not installed, the shapes disagree, or the solver stops short.

    Example:
        >>> wasserstein(torch.zeros(3, 2), torch.tensor([[3.0, 4.0]]))
        5.0
    """
    if order not in (1, 2):
        raise InputError(f"order must be 1 or 2; got {order}")
    from scipy.optimize import linear_sum_assignment

    a, b = _pair(x, y)
    cost = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").pow(order).cpu().numpy()
    if len(a) == len(b):  # an optimal plan between as many points is a matching
        return float(cost[linear_sum_assignment(cost)].mean()) ** (1.0 / order)
    value, log = _transport().emd2([], [], cost, numItermax=PIVOTS, log=True)
    if log["warning"] is not None:
        raise InputError(f"Exact transport stopped short ({log['warning']}): compare fewer samples")
    return float(value) ** (1.0 / order)


def energy_distance(x: State, y: State) -> float:
    r"""Unbiased estimate of :math:`2 E\|X - Y\| - E\|X - X'\| - E\|Y - Y'\|`: 0 where the laws agree, on average.

    It may come out slightly negative; its square root is the distance of Szekely and Rizzo, and half of it the squared
    maximum mean discrepancy of the distance kernel.

    Args:
        x: samples ``n *d``, at least two.
        y: samples ``m *d``, at least two.

    Raises:
        InputError: if the shapes disagree or there are fewer than two samples.

    Example:
        >>> energy_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]]))
        -1.0
    """
    a, b = _pair(x, y)
    if min(len(a), len(b)) < 2:
        raise InputError("The energy distance needs two samples or more of each law")
    inner = sum(torch.cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (a, b))
    return float(2.0 * torch.cdist(a, b).mean() - inner)


def _moments(x: Tensor) -> Moments:
    """Mean and unbiased covariance over the last but one axis, ``... n d``."""
    mean = x.mean(-2)
    centred = x - mean[..., None, :]
    return mean, centred.mT @ centred / (x.shape[-2] - 1)


def _pair(x: State, y: State) -> tuple[Tensor, Tensor]:
    require_one_shape("Both samples", x.shape[1:], y.shape[1:])
    return x.detach().double().flatten(1), y.detach().double().flatten(1)


def _require_dimension(d: int, mean: Tensor, covariance: Tensor) -> None:
    if mean.shape != (d,) or covariance.shape != (d, d):
        raise InputError(
            f"The truth needs mean ({d},) and covariance ({d}, {d}) over the flattened event; got "
            f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
        )


def _transport() -> Any:
    try:
        import ot
    except ImportError as error:
        raise InputError(
            "Exact transport between samples of different sizes needs POT: pip install 'girsanov[ot]'"
        ) from error
    return ot
