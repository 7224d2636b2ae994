r"""Where to evaluate along the log-SNR axis: densities on it, and randomised systematic grids drawn from them.

An integral :math:`\int_a^b f(l)\, dl + f_b` whose last term sits at the data end b (the residual of a finite
range) is one integral against a measure with an atom at b. A :class:`LogSNRDensity` q gives the interval a
piecewise-constant density and the atom a mass; K points of a systematic grid, :math:`l_k = Q^{-1}((k + u)/K)`
with one uniform u, estimate it by :math:`\frac1K \sum_k f(l_k) / q(l_k)`, unbiased for every q > 0, and with
the least variance for q proportional to the root mean square of f (note of paper 2, section 2.6).

A fitted density may carry what else held-out rows taught about the integrand: the slope of its regression on a
control variate, level by level, or a law whose denoiser is the control variate.
"""

__all__ = ["LogSNRDensity"]

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from girsanov.types import InputError

FLOOR = 0.1  # share of the uniform density mixed in, so that no weight exceeds 10x the uniform one
ATOM = 0.02  # least mass of the atom, where there is one
CELLS = 128


@final
@dataclass(frozen=True)
class LogSNRDensity:
    """A density on ``[edges[0], edges[-1]]``, constant between ``edges``, with mass ``atom`` at the upper end.

    Attributes:
        edges: shape ``m + 1``, increasing, float64.
        masses: shape ``m``, summing to ``1 - atom``.
        atom: mass of the upper end point.
        slope: coefficient of a control variate at the ``edges``, shape ``m + 1``, or ``None`` where none was fitted.
        control: a closed-form law near the model's, whose denoiser is the control variate in place of a reference's.
        alone: whether the squared error is sampled alone, since a reference's varies more than the error itself.

    Example:
        >>> density = LogSNRDensity.uniform(-10.0, 10.0)
        >>> levels, weights, at_end = density.systematic(torch.tensor([0.5]), 2)
        >>> levels, weights
        (tensor([[-5., 5.]], dtype=torch.float64), tensor([[10., 10.]], dtype=torch.float64))
    """

    edges: Tensor
    masses: Tensor
    atom: float = 0.0
    slope: Tensor | None = None
    control: nn.Module | None = None
    alone: bool = False

    @classmethod
    def uniform(cls, low: float, high: float, *, atom: float = 0.0) -> "LogSNRDensity":
        """The uniform density."""
        edges = torch.tensor([low, high], dtype=torch.float64)
        return cls(edges, torch.tensor([1.0 - atom], dtype=torch.float64), atom)

    @classmethod
    def from_sizes(
        cls,
        low: float,
        high: float,
        levels: Tensor,
        sizes: Tensor,
        *,
        end_size: float | None = None,
        slope: Tensor | None = None,
        floor: float = FLOOR,
        cells: int = CELLS,
    ) -> "LogSNRDensity":
        """Density proportional to a size known at increasing ``levels``, interpolated, with a uniform floor.

        Args:
            low: lower end.
            high: upper end.
            levels: shape ``j``, increasing.
            sizes: shape ``j``, non-negative: the root mean square of the integrand there.
            end_size: the same of the atom's integrand, or ``None`` where there is no atom.
            slope: coefficient of a control variate at ``levels``, interpolated; ``None`` for none.
            floor: share of the uniform density.
            cells: number of cells.
        """
        edges = torch.linspace(low, high, cells + 1, dtype=torch.float64)
        middle = 0.5 * (edges[1:] + edges[:-1])
        width = (high - low) / cells
        masses = _interpolate(middle, levels.double(), sizes.double().clamp_min(0.0)) * width
        end = max(end_size, 0.0) if end_size is not None else 0.0
        total = float(masses.sum()) + end
        if not total > 0.0:
            masses, total = torch.full_like(masses, 1.0 / cells), 1.0
        atom = 0.0 if end_size is None else max(ATOM, (1.0 - floor) * end / total)
        shape = masses / masses.sum()
        masses = (1.0 - atom) * ((1.0 - floor) * shape + floor / cells)
        return cls(edges, masses, atom, None if slope is None else _interpolate(edges, levels.double(), slope.double()))

    @classmethod
    def from_spectrum(
        cls,
        low: float,
        high: float,
        variances: Tensor,
        *,
        atom: bool = False,
        floor: float = FLOOR,
        plateau: float = 0.0,
    ) -> "LogSNRDensity":
        r"""Density :math:`\propto \sqrt{\sum_i p_i (1 - p_i)}`, :math:`p_i = \mathrm{sigmoid}(l + \log \lambda_i)`.

        The scale of a Gaussian's own denoising noise; where data are not Gaussian, the difference of the exact
        denoisers has tails of this shape. Data of finer scales than the variances show keep the denoisers apart up to
        the data end: a plateau, :math:`\mathrm{sigmoid}(l + \log \sum_i \lambda_i)`, starts where something of a
        row is known at all and goes on to the end.

        Args:
            low: lower end.
            high: upper end.
            variances: eigenvalues of the data's covariance.
            atom: whether the residual term at the upper end is sampled too.
            floor: share of the uniform density.
            plateau: share of the plateau in the rest.
        """
        levels = torch.linspace(low, high, CELLS + 1, dtype=torch.float64)
        variances = variances.double().cpu()
        p = torch.sigmoid(levels[:, None] + variances.log())
        sizes = (p * (1.0 - p)).sum(1).sqrt()
        known = torch.sigmoid(levels + variances.sum().log())
        sizes = (1.0 - plateau) * sizes + plateau * known * (sizes.sum() / known.sum())
        return cls.from_sizes(low, high, levels, sizes, floor=floor, end_size=float(sizes[-1]) if atom else None)

    @property
    def span(self) -> tuple[float, float]:
        """The interval."""
        return float(self.edges[0]), float(self.edges[-1])

    def flat(self) -> "LogSNRDensity":
        """Uniform on the same range, with the same atom: for rows unlike those to which this density was fitted."""
        return LogSNRDensity.uniform(*self.span, atom=self.atom)

    def nodes(self, count: int) -> Tensor:
        """``count`` levels at equal shares of the density, both ends included, increasing."""
        levels, _, _ = self.quantile(torch.linspace(0.0, 1.0, count, dtype=torch.float64))
        levels[0], levels[-1] = self.edges[0], self.edges[-1]
        return levels

    def systematic(self, offset: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Systematic grids, one per row.

        Args:
            offset: shape ``b``, uniform on [0, 1).
            count: number K of points per row.

        Returns:
            Levels ``b K`` increasing, weights ``b K`` (the reciprocal densities over K) and a mask ``b K`` of
            the points that fell on the atom.
        """
        positions = (torch.arange(count, dtype=torch.float64, device=offset.device) + offset[:, None]) / count
        return self.quantile(positions, count)

    def quantile(self, positions: Tensor, count: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Levels, weights (over ``count``) and atom mask at cumulative ``positions`` in [0, 1)."""
        edges, masses = self.edges.to(positions.device), self.masses.to(positions.device)
        cumulative = torch.cat([masses.new_zeros(1), masses.cumsum(0)])
        at_end = positions >= cumulative[-1]
        cell = (torch.searchsorted(cumulative, positions, right=True) - 1).clamp(0, len(masses) - 1)
        width = edges[cell + 1] - edges[cell]
        within = ((positions - cumulative[cell]) / masses[cell]).clamp(0.0, 1.0)
        levels = torch.where(at_end, edges[-1], edges[cell] + within * width)
        reciprocal = width / masses[cell]
        if self.atom > 0.0:
            reciprocal = torch.where(at_end, 1.0 / self.atom, reciprocal)
        return levels, reciprocal / count, at_end & (self.atom > 0.0)

    def slope_at(self, levels: Tensor) -> Tensor:
        """The slope at ``levels`` of any shape, piecewise linear; 0 where none was fitted."""
        if self.slope is None:
            return torch.zeros_like(levels)
        return _interpolate(levels, self.edges.to(levels.device), self.slope.to(levels.device))

    def to_json(self) -> dict:
        """Plain lists, for a configuration file.

        Raises:
            InputError: for a proposal with a control law.
        """
        if self.control is not None:
            raise InputError(
                "The control law of a tuned proposal cannot be saved: save the model with the proposal it had, and "
                "tune the loaded one again (girsanov.tune)"
            )
        plain = {"edges": self.edges.tolist(), "masses": self.masses.tolist(), "atom": self.atom}
        plain |= {"alone": True} if self.alone else {}
        return plain if self.slope is None else {**plain, "slope": self.slope.tolist()}

    @classmethod
    def from_json(cls, data: dict) -> "LogSNRDensity":
        """Inverse of :meth:`to_json`."""
        edges, masses = (torch.tensor(data[key], dtype=torch.float64) for key in ("edges", "masses"))
        slope = data.get("slope")
        slope = None if slope is None else torch.tensor(slope, dtype=torch.float64)
        return cls(edges, masses, float(data["atom"]), slope, alone=bool(data.get("alone", False)))


def _interpolate(at: Tensor, levels: Tensor, values: Tensor) -> Tensor:
    """Piecewise-linear interpolation, constant beyond the ends."""
    right = torch.searchsorted(levels, at).clamp(1, len(levels) - 1)
    left = right - 1
    share = ((at - levels[left]) / (levels[right] - levels[left])).clamp(0.0, 1.0)
    return (1.0 - share) * values[left] + share * values[right]
