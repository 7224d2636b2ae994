r"""How much paths of cells may stray: the size of the Brownian reference, given, or chosen by leaving days out.

Snapshots tell where cells are, not which became which, so that two of them fit every sigma. A third in between tells
more: under a larger sigma the bridge between its neighbours is wider there. Each inner time is left out in turn (at
most :data:`INNER` of them), the bridge between its neighbours is taken in closed form between their moments, cells of
the time before are moved by its exact transition, and compared with the cells that were left out, by exact W1: all of
:meth:`~girsanov.bridges.Trajectories.held_out_error` but the training. Of the sizes whose mean W1 is within a standard
error of the smallest the largest counts, since nothing then speaks for tying cells more closely.
"""

__all__ = ["ReferenceSize", "choose_size", "fixed_size"]

import math
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from girsanov.bridges.annotated import Snapshots
from girsanov.bridges.gaussian import GaussianBridge, least_deviation
from girsanov.bridges.metrics import wasserstein
from girsanov.densities import Gaussian
from girsanov.display import Shown, Summary, in_words
from girsanov.processes import BrownianMotion
from girsanov.randomness import mix
from girsanov.types import InputError

HALF = 0.5  # spreads, where no inner time tells
SIZES = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # tried, in spreads
INNER = 5  # times left out at most
DRAWS = 5  # of cells, for each time
CELLS = 300  # on each side


@final
@dataclass(frozen=True, repr=False)
class ReferenceSize(Shown):
    """The sigma of a fit and where it comes from.

    Attributes:
        sigma: over the whole time, in units of the representation.
        spread: root mean variance within the snapshots.
        chosen: ``given``, ``left-out times``, or ``half of the spread``, where there are two times.
        errors: mean exact W1 on the left-out times by sigma, where it was chosen by them.
        untouched: the same W1 of cells that are not moved.
    """

    sigma: float
    spread: float
    chosen: str
    errors: dict[float, float] | None = None
    untouched: float | None = None

    def _summary(self) -> Summary:
        return Summary(str(self), {"tried": in_words({f"{sigma:.3g}": e for sigma, e in (self.errors or {}).items()})})

    def __str__(self) -> str:
        """One clause.

        Example:
            >>> str(ReferenceSize(3.0, 6.0, "half of the spread"))
            'sigma 3 (0.5 spreads): half of the spread, since two times leave none out to choose by'
        """
        text = f"sigma {self.sigma:.3g} ({self.sigma / self.spread:g} spreads): "
        if self.errors is None:
            why = "" if self.chosen == "given" else ", since two times leave none out to choose by"
            return text + self.chosen + why
        return text + (
            f"chosen by left-out times, W1 {self.errors[self.sigma]:.3g} beside {self.untouched:.3g} of unmoved cells"
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"errors": None if self.errors is None else list(self.errors.items())}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ReferenceSize":
        """From what :meth:`to_json` gave."""
        errors = None if values["errors"] is None else {float(s): float(e) for s, e in values["errors"]}
        return cls(values["sigma"], values["spread"], values["chosen"], errors, values["untouched"])


def fixed_size(snapshots: Snapshots, sigma: float) -> ReferenceSize:
    """The size that is given, in spreads.

    Raises:
        InputError: if it is not positive, or the cells of each time are all alike.
    """
    if isinstance(sigma, bool | np.bool_) or not isinstance(sigma, Real) or not 0.0 < sigma < math.inf:
        raise InputError(f"sigma must be positive, in spreads of the representation; got {sigma!r}")
    spread = _spread(snapshots)
    return ReferenceSize(float(sigma) * spread, spread, "given")


def choose_size(snapshots: Snapshots, seed: int) -> ReferenceSize:
    """The size that moves cells nearest to left-out times; half of the spread where there are two times.

    Raises:
        InputError: if the cells of each time are all alike.
    """
    spread, inner = _spread(snapshots), snapshots.times[1:-1]
    if not inner:
        return ReferenceSize(HALF * spread, spread, "half of the spread")
    some = [inner[i] for i in sorted({round(k) for k in torch.linspace(0, len(inner) - 1, INNER).tolist()})]
    each, untouched = zip(*(_left_out(snapshots, time, spread, seed) for time in some), strict=True)
    values = torch.cat(each, 1)  # sizes, draws of all times
    means = values.mean(1)
    noise = torch.stack([v.std(1) for v in each]).square().mean(0).div(values.shape[1]).sqrt()
    best = int(means.argmin())
    size = max(s for s, mean in zip(SIZES, means, strict=True) if mean <= means[best] + noise[best])
    errors = {s * spread: float(mean) for s, mean in zip(SIZES, means, strict=True)}
    return ReferenceSize(size * spread, spread, "left-out times", errors, float(torch.stack(untouched).mean()))


def _left_out(snapshots: Snapshots, time: float, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """W1 of every size and draw, ``sizes draws``, and of cells that are not moved, ``draws``."""
    before, after = snapshots.around(time)
    whole = snapshots.times[-1] - snapshots.times[0]
    generator = torch.Generator().manual_seed(mix(seed, 7, snapshots.times.index(time)) % 2**31)
    many = len(snapshots.rows[before])
    first, last = snapshots.starts(before, many, generator).double(), snapshots.rows[after].double()
    floor = least_deviation(first, last)
    start, end = Gaussian.fit(first, floor=floor), Gaussian.fit(last, floor=floor)
    laws = []
    for size in SIZES:
        reference = BrownianMotion(sigma=size * spread * math.sqrt((after - before) / whole))
        laws.append(GaussianBridge(reference, start, end).transition(0.0, (time - before) / (after - before)))
    roots = [_root(law.covariance) for law in laws]
    values, untouched = torch.zeros(len(SIZES), DRAWS, dtype=torch.float64), []
    for k in range(DRAWS):
        x = snapshots.starts(before, CELLS, generator).double()
        truth = snapshots.observed(time, CELLS, generator).double()
        eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        n = min(len(x), len(truth))  # as many on both sides are matched fast
        untouched.append(wasserstein(x[:n], truth[:n]))
        for i, (law, root) in enumerate(zip(laws, roots, strict=True)):
            values[i, k] = wasserstein((law.mean(x) + eps @ root.T)[:n], truth[:n])
    return values, torch.tensor(untouched, dtype=torch.float64)


def _root(covariance: Tensor) -> Tensor:
    """A square root of a covariance that may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0.0).sqrt()


def _spread(snapshots: Snapshots) -> float:
    spread = snapshots.spread
    if not spread > 0.0:
        raise InputError("The cells of each time are all alike: paths between single points need no bridge")
    return spread
