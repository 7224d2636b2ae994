r"""Names of tensors, the one result type of every likelihood, and the one error for bad input.

Shapes are written as strings of axis names: ``Time`` is ``b`` (one time per row), ``State`` is
``b *d`` (rows of any event shape), ``Nats`` is ``b`` (one log-likelihood per row). An
:class:`Estimate` is a log-likelihood that knows what it is: its kind, of which model, with which
standard error, evaluations and log-SNR range. Nothing here computes a likelihood.
"""

__all__ = ["Estimate", "InputError", "Kind", "MeanEstimate", "Measure", "Model", "Nats", "Score", "State", "Time"]

import html
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

Time: TypeAlias = Tensor  #: shape ``b``
State: TypeAlias = Tensor  #: shape ``b *d``
Nats: TypeAlias = Tensor  #: shape ``b``, natural logarithms
Score: TypeAlias = Callable[..., State]  #: ``(t, x) -> grad log p_t(x)``, optionally ``(t, x, condition)``

Kind: TypeAlias = Literal["exact", "unbiased", "lower_bound", "upper_bound", "estimate"]
Model: TypeAlias = Literal["sde", "ode", "chain", "density"]
Measure: TypeAlias = Literal["density", "mass", "mixed"]

SEEN = 1e-9  # of a number: what is smaller is rounding
FEWEST = 10  # values from which on the interval of a mean keeps its promise


class InputError(ValueError):
    """Input that cannot be used, with one sentence that says what to do (exit code 2 on the command line)."""


def require_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least``; numbers of NumPy will do, truth values and fractions will not.

    Raises:
        InputError: for anything else.

    Example:
        >>> require_count("samples", 8)
        8
    """
    try:
        count = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        count = None
    if count is None or count < least:
        raise InputError(f"{name} must be a whole number of {least} or more; got {value!r}")
    return count


def require_generator(generator: object) -> None:
    """Refuse what is neither a generator of PyTorch nor ``None``, which means seed 0.

    Raises:
        InputError: with what to pass instead.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise InputError(
            f"generator must be a torch.Generator or None; got {generator!r}: give torch.Generator().manual_seed(seed)"
        )


def require_counts(settings: object, *names: str, least: int = 1) -> None:
    """:func:`require_count` of fields of a frozen dataclass, those that are ``None`` left aside."""
    for name in names:
        value = getattr(settings, name)
        if value is not None:
            object.__setattr__(settings, name, require_count(name, value, least))


def with_errors(value: float, errors: Mapping[str, float]) -> str:
    """A number with its errors by name, in the digits that these allow: two of the largest, one of each.

    Errors that are unknown, or nothing but rounding, are left out.

    Example:
        >>> with_errors(-41.8471, {"estimator": 0.0121, "rows": 0.1794})
        '−41.85 ± 0.01 (estimator) ± 0.18 (rows)'
        >>> with_errors(-41.8471, {"": 0.0121}), with_errors(2.0, {"": 0.0})
        ('−41.847 ± 0.012', '2.000')
    """
    told = {
        name: error for name, error in errors.items() if math.isfinite(error) and error > SEEN * max(1.0, abs(value))
    }
    first = [-math.floor(math.log10(error)) for error in told.values()]  # decimals of the first digit of each
    digits = max(0, min(9, max(*first, min(first) + 1))) if told else 3
    parts = "".join(f" ± {error:.{digits}f}" + (f" ({name})" if name else "") for name, error in told.items())
    return f"{value:.{digits}f}".replace("-", "−") + parts


class _Line:
    """What tells itself in a line or two shows the same in a notebook."""

    def _repr_html_(self) -> str:
        return "".join(f"<p>{html.escape(line)}</p>" for line in repr(self).splitlines())


@dataclass(frozen=True, repr=False)
class MeanEstimate(_Line):
    """Mean log-likelihood of a data set, with its two sources of error kept apart.

    Attributes:
        value: mean over rows, in nats.
        stderr: standard error of the estimator: what more samples per row would remove.
        rows_stderr: standard error from the finite number of rows: what more data would remove.
        rows: number of rows.
        degrees: degrees of freedom of ``stderr``; 0 where it is not estimated from replicates of the whole set.
    """

    value: float
    stderr: float
    rows_stderr: float
    rows: int
    degrees: int = 0

    def __repr__(self) -> str:
        """One line: the mean with both its errors; of a single row with its own.

        Example:
            >>> MeanEstimate(-41.8471, 0.0121, 0.1794, 600)
            −41.85 ± 0.01 (estimator) ± 0.18 (rows) nats, 600 rows
        """
        return f"{self._told} nats, {self._counted}"

    @property
    def _told(self) -> str:
        """The mean with its errors."""
        one = {"": self.stderr}
        return with_errors(self.value, one if self.rows == 1 else {"estimator": self.stderr, "rows": self.rows_stderr})

    @property
    def _counted(self) -> str:
        return f"{self.rows:,} row" + ("s" if self.rows != 1 else "")

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of the mean over these rows: the estimator's error alone, by Student's t.

        Args:
            level: coverage, between 0 and 1.
        """
        half = student_quantile(level, self.degrees or 1_000_000) * self.stderr
        return self.value - half, self.value + half


def student_quantile(level: float, degrees: int) -> float:
    """Two-sided quantile of Student's t: ``P(|t| <= q) = level``.

    Raises:
        InputError: for a level outside (0, 1).
    """
    from scipy.special import stdtrit

    if not 0.0 < level < 1.0:
        raise InputError(f"level must lie between 0 and 1; got {level}")

    return float(stdtrit(degrees, 0.5 + level / 2.0))


def interval_of_mean(values: Tensor, level: float = 0.95) -> tuple[float, float]:
    r"""Interval of the mean of independent, possibly skewed values, as log-likelihoods of rows are.

    Student's t covers 83 % where it promises 95 %, for 5 values with the skewness of a log-density in one dimension.
    Hall's cubic of the studentised mean, :math:`g(t) = t + \tfrac{\gamma}{3} t^2 + \tfrac{\gamma^2}{27} t^3 +
    \tfrac{\gamma}{6n}` with the sample's skewness :math:`\gamma`, takes the skewness out (P. Hall, On the removal of
    skewness by transformation, 1992); from ten values on the promise then holds.

    Args:
        values: shape ``n``.
        level: coverage, between 0 and 1.

    Raises:
        InputError: for fewer than ten values, or a level outside (0, 1).

    Example:
        >>> low, high = interval_of_mean(torch.arange(10.0))
        >>> round(low, 2), round(high, 2)
        (2.33, 6.67)
    """
    n = len(values)
    if n < FEWEST:
        raise InputError(f"An interval of a mean needs {FEWEST} rows or more; got {n}: give more rows")
    centred = values.double() - values.double().mean()
    spread, half = float(centred.std()), student_quantile(level, n - 1) / math.sqrt(n)
    cubes = float(centred.pow(3).mean() / centred.square().mean().clamp_min(1e-300).pow(1.5))
    slope = cubes * math.sqrt(n * (n - 1)) / (n - 2) / 3.0
    mean, ends = float(values.double().mean()), []
    for quantile in (half, -half):
        if abs(slope) > 1e-6:
            quantile = (float(np.cbrt(1.0 + 3.0 * slope * (quantile - slope / (2.0 * n)))) - 1.0) / slope
        ends.append(mean - spread * quantile)
    return ends[0], ends[1]


@dataclass(frozen=True, repr=False)
class Estimate(_Line):
    r"""A log-likelihood per row that knows what it is.

    Attributes:
        value: shape ``n``, nats.
        stderr: shape ``n``, standard error of ``value`` (0 where nothing is random).
        kind: ``exact``, ``unbiased``, ``lower_bound``, ``upper_bound`` or ``estimate`` (no guarantee).
        model: whose likelihood: of the reverse ``sde``, of the probability-flow ``ode``, of a ``chain``
            of Gaussian steps, or of a closed-form ``density``.
        nfe: network evaluations per row, all replicates included.
        log_snr_range: the log-SNR interval on which the score was evaluated.
        terms: the parts whose sum is ``value``, each of shape ``n``.
        replicates: shape ``r n``: the independent randomised values whose mean is ``value``.
        measure: ``density``, ``mass`` (all columns dequantised: a log-probability) or ``mixed``.
        event_dim: number of dimensions d of one row, for bits per dimension.
        met: whether each row reached the standard error that was asked for, shape ``n``; ``None`` where none was.
        needed: the log-SNR range ``(low, high)`` that each row needs at least for an ``exact`` or ``unbiased`` value,
            shape ``n 2``: the range itself where it resolves the row. ``None`` where the kind promises neither.

    Example:
        >>> replicates = torch.tensor([[-1.0, -2.0], [-1.2, -2.2]])
        >>> estimate = Estimate.from_replicates(replicates, kind="lower_bound", model="sde", nfe=8, event_dim=2)
        >>> estimate.value
        tensor([-1.1000, -2.1000], dtype=torch.float64)
        >>> estimate.mean().rows
        2
    """

    value: Nats
    stderr: Nats
    kind: Kind
    model: Model
    nfe: int
    event_dim: int
    log_snr_range: tuple[float, float] | None = None
    terms: Mapping[str, Nats] = field(default_factory=dict)
    replicates: Tensor | None = None
    measure: Measure = "density"
    met: Tensor | None = None
    needed: Tensor | None = None

    def __repr__(self) -> str:
        """One line: the mean over rows with both its errors, and what it is; then what the range does not resolve.

        Example:
            >>> replicates = torch.tensor([[-41.0, -43.0], [-41.1, -42.9], [-41.0, -42.8]])
            >>> Estimate.from_replicates(replicates, kind="lower_bound", model="sde", nfe=8, event_dim=2)
            −41.97 ± 0.03 (estimator) ± 0.93 (rows) nats, lower bound, SDE, 2 rows
        """
        if not len(self.value):
            return f"no rows, {self._words}"
        mean = self.mean()
        return f"{mean._told} nats, {self._words}, {mean._counted}" + (f"\n{self.caveat}" if self.caveat else "")

    @property
    def _words(self) -> str:
        """Kind and model as one says them."""
        return f"{self.kind.replace('_', ' ')}, {self.model.upper() if len(self.model) == 3 else self.model}"

    @classmethod
    def from_replicates(cls, replicates: Tensor, **fields: object) -> "Estimate":
        """Mean over the leading axis of ``r n`` independent replicates, with its standard error."""
        replicates = replicates.double()
        count = replicates.shape[0]
        # reduced along contiguous rows, so that a row's bits do not depend on how many rows there are, and relative
        # to the first replicate, so that equal replicates have a standard error of exactly 0
        origin = torch.where(replicates[0].isfinite(), replicates[0], 0.0)
        shifts = (replicates - origin).T.contiguous()
        shift = shifts.mean(1)
        variance = (shifts - shift[:, None]).square().sum(1) / (count - 1) if count > 1 else shift.new_tensor(math.nan)
        stderr = (variance / count).sqrt().expand_as(shift)
        return cls(origin + shift, stderr, replicates=replicates, **fields)  # type: ignore[arg-type]

    @classmethod
    def woven(cls, parts: "Sequence[Estimate]") -> "Estimate":
        """One estimate of all rows, of n parts that have the rows r, r + n, r + 2n, ... of it.

        Example:
            >>> odd, even = torch.tensor([1.0, 3.0]), torch.tensor([2.0])
            >>> parts = [Estimate(x, 0.0 * x, "exact", "density", nfe=0, event_dim=2) for x in (odd, even)]
            >>> Estimate.woven(parts).value
            tensor([1., 2., 3.])
        """
        first, count = parts[0], sum(len(part.value) for part in parts)

        def rows(name: str, dim: int = 0) -> Any:
            return None if getattr(first, name) is None else _woven([getattr(part, name) for part in parts], dim)

        same = all(part.kind == first.kind for part in parts)
        return replace(
            first,
            **{name: rows(name) for name in ("value", "stderr", "met", "needed")},
            replicates=rows("replicates", 1),
            terms={name: _woven([part.terms[name] for part in parts]) for name in first.terms},
            kind=first.kind if same else "estimate",
            nfe=math.ceil(sum(part.nfe * len(part.value) for part in parts) / count),
        )

    @property
    def resolved(self) -> Tensor:
        """Whether the log-SNR range resolves each row, shape ``n``; true where no kind depends on it."""
        if self.needed is None or self.log_snr_range is None:
            return torch.ones_like(self.value, dtype=torch.bool)
        low, high = self.log_snr_range
        return (self.needed[:, 0] >= low) & (self.needed[:, 1] <= high)

    @property
    def caveat(self) -> str:
        """What the rows need that the log-SNR range does not resolve, in one sentence; empty where it resolves all."""
        unresolved = ~self.resolved
        if not bool(unresolved.any()):
            return ""
        assert self.needed is not None
        assert self.log_snr_range is not None
        needed = self.needed[unresolved]
        return (
            f"{int(unresolved.sum())} of {len(unresolved)} rows need a score that is known for log-SNR from "
            f"{float(needed[:, 0].min()):.3g} to {float(needed[:, 1].max()):.3g} at least, beyond "
            f"{self.log_snr_range[0]:.3g} to {self.log_snr_range[1]:.3g}: their values are estimates."
        )

    def interval(self, level: float = 0.95) -> tuple[Nats, Nats]:
        """Confidence interval of each row, by Student's t over the replicates.

        Args:
            level: coverage, between 0 and 1.

        Returns:
            Lower and upper ends, each of shape ``n``.
        """
        half = self._quantile(level) * self.stderr
        return self.value - half, self.value + half

    def to_pandas(self, index: Any = None) -> "pd.DataFrame":
        """A line for each row: ``value`` and ``stderr`` in nats (``nan`` where unknown), ``kind`` and ``model``.

        Args:
            index: of the lines, as that of the data frame whose rows they are; 0, 1, ... by default.

        Example:
            >>> estimate = Estimate(torch.tensor([-1.5]), torch.tensor([0.25]), "exact", "density", nfe=0, event_dim=2)
            >>> estimate.to_pandas(["first"]).to_dict("index")
            {'first': {'value': -1.5, 'stderr': 0.25, 'kind': 'exact', 'model': 'density'}}
        """
        import pandas as pd

        value, stderr = (found.detach().cpu().double().numpy() for found in (self.value, self.stderr))
        found = pd.DataFrame({"value": value, "stderr": stderr}, index=index)
        return found.assign(kind=self.kind, model=self.model)

    def mean(self) -> MeanEstimate:
        """Mean over rows; its estimator error comes from whole replicates, so shared noise cannot hide in it."""
        value, rows = self.value.detach(), len(self.value)
        rows_stderr = float(value.std()) / math.sqrt(rows) if rows > 1 else math.nan
        degrees = 0
        if self.replicates is not None and len(self.replicates) > 1:
            means = self.replicates.detach().mean(1)
            degrees = len(means) - 1
            stderr = float(means.std()) / math.sqrt(len(means))
        else:
            stderr = float(self.stderr.detach().square().sum().sqrt()) / rows
        return MeanEstimate(float(value.mean()), stderr, rows_stderr, rows, degrees)

    def bits_per_dim(self, bin_width: float | Tensor = 1.0) -> Tensor:
        r"""Bits per dimension, :math:`-(\log p + \sum_i \log h_i) / (d \log 2)`, shape ``n``.

        Args:
            bin_width: width h of the data's bins in data units, a scalar or one per dimension. A row
                that is already a log-mass (``measure="mass"``) has its bins counted, and takes none.
        """
        width = torch.as_tensor(bin_width, dtype=torch.float64)
        if not bool((width > 0.0).all()) or (width.ndim and width.numel() != self.event_dim):
            raise InputError(f"bin_width must be positive, one number or one for each of {self.event_dim} dimensions")
        log_volume = width.log().expand(self.event_dim).sum() if width.ndim == 0 else width.log().sum()
        if self.measure == "mass":
            log_volume = torch.zeros(())
        return -(self.value + log_volume) / (self.event_dim * math.log(2.0))

    def _quantile(self, level: float) -> float:
        degrees = len(self.replicates) - 1 if self.replicates is not None else 0
        if degrees >= 1:
            return student_quantile(level, degrees)
        return student_quantile(level, 1_000_000)


def _woven(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Rows r, r + n, r + 2n, ... of n parts in their order."""
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    found = parts[0].new_empty(shape)
    for first, part in enumerate(parts):
        found[(slice(None),) * dim + (slice(first, None, len(parts)),)] = part
    return found
