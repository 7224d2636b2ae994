r"""What a fitted model is worth on rows it has not seen: likelihoods by name, paired differences, the denoising curve.

The denoising curve shows where in log-SNR a model gains on its Gaussian reference. With
:math:`\mathrm{mse}(l) = E\|\varepsilon - \hat\varepsilon\|^2` the bound is the Gaussian's log-density plus
:math:`\tfrac12 \int (\mathrm{mse}_G(l) - \mathrm{mse}(l))\, dl` and the terms at both ends (note of paper 2, section
2.6). On data that are Gaussian with the reference's spectrum, :math:`\mathrm{mse}_G = \sum_i \mathrm{sigmoid}(l +
\log \lambda_i)`; with N(0, I), it is :math:`d\, \mathrm{sigmoid}(l)`.
"""

__all__ = ["LIKELIHOODS", "Curve", "Difference", "denoising_curve", "difference", "evaluate", "score", "summary"]

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from girsanov.calculus import Exact, Hutchinson, noised, sum_event
from girsanov.density_model import DensityModel
from girsanov.display import Shown, Summary
from girsanov.likelihoods import RandomisedRows
from girsanov.randomness import apart, keyed_generators, keyed_normal, seed_of, source_of
from girsanov.rows import condition_at, conditions_for
from girsanov.solvers import Adaptive
from girsanov.types import Estimate, InputError, Nats, State, interval_of_mean, student_quantile
from girsanov.workers import workers

if TYPE_CHECKING:
    import pandas as pd

#: the likelihoods that a model can be asked for, and of which model each is
LIKELIHOODS = {"elbo": "sde", "density": "sde", "ode": "ode"}
EXACT_DIVERGENCE = 10  # up to so many dimensions the exact divergence costs no more than probes that suffice
PROBES = 4
ODE_DRAWS = 4  # dequantisation draws, for a standard error of the mean on three degrees of freedom
COARSE = Adaptive(rtol=1e-3, atol=1e-3)  # beside the probes' noise the solver's error stays small
CHUNK = 512
MANY = 1_000_000  # degrees of freedom of a variance that many rows tell


def evaluate(
    model: DensityModel,
    x: Any,
    likelihood: str = "elbo",
    *,
    samples: int = 32,
    target_stderr: float | None = None,
    condition: Any = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    """One likelihood of a model, chosen by name.

    Args:
        model: a density model.
        x: rows as the model takes them.
        likelihood: ``elbo``, ``density`` or ``ode``.
        samples: network evaluations per row; the solver of ``ode`` chooses its own.
        target_stderr: of ``density`` alone: the standard error that every row is to reach, in nats.
        condition: classes ``n`` or 1 as the labels named them, or continuous conditions ``n c`` or ``1 c``.
        generator: read once for a seed; ``None`` means seed 0.

    Raises:
        InputError: for an unknown likelihood, or a target for another one than ``density``.

    Example:
        >>> import girsanov as gv
        >>> model = gv.fit(torch.randn(100, 2), config=gv.Config(steps=2))
        >>> evaluate(model, torch.zeros(3, 2), samples=8).kind
        'lower_bound'
    """
    if likelihood not in LIKELIHOODS:
        raise InputError(f"Unknown likelihood {likelihood!r}: choose one of {', '.join(LIKELIHOODS)}")
    if target_stderr is not None and likelihood != "density":
        raise InputError(f"A target for the standard error is one of the density formula's; got {likelihood}")
    source, rows = source_of(generator), model.encode(x)
    ask = _Ask(model, likelihood, samples, target_stderr, source.get_state())
    parts = workers().each(ask, _parts(rows, condition)) if ask.shareable(rows) else None
    if parts is None:
        return ask.answer(rows, condition, source)
    seed_of(source)  # as read as alone
    return Estimate.woven(parts)


@dataclass(frozen=True)
class _Ask:
    """A likelihood that is asked of a model, with the state of the generator that says the noise."""

    model: DensityModel
    likelihood: str
    samples: int
    target_stderr: float | None
    state: Tensor

    def shareable(self, rows: RandomisedRows) -> bool:
        """Whether the processes of the command have rows each, whose number of replicates is the same."""
        return 1 < workers().size <= len(rows) and self.target_stderr is None and not rows.rows.requires_grad

    def __call__(self, part: tuple[Tensor, Any]) -> Estimate:
        """The answer for some of the rows, with the noise of all: it is keyed by the row."""
        encoding = self.model.encoding
        rows = RandomisedRows(part[0].to(self.model.device), encoding.view, encoding.measure, encoding.draws)
        return self.answer(rows, part[1], torch.Generator().set_state(self.state))

    def answer(self, x: RandomisedRows, condition: Any, generator: torch.Generator) -> Estimate:
        """The answer for rows in this process."""
        common: dict[str, Any] = {"condition": condition, "generator": generator}
        if self.likelihood == "elbo":
            return self.model.elbo(x, samples=self.samples, **common)
        if self.likelihood == "density":
            return self.model.density(x, samples=self.samples, target=self.target_stderr, **common)
        if hasattr(self.model.score.network, "with_trace") or self.model.reference.event_dim <= EXACT_DIVERGENCE:
            return self.model.log_prob(x, draws=ODE_DRAWS, divergence=Exact(), **common)
        # where dequantisation draws give the standard error, one probe in each is enough
        probes = Hutchinson(probes=PROBES if self.model.encoding.measure == "density" else 1)
        return self.model.log_prob(x, draws=ODE_DRAWS, divergence=probes, solver=COARSE, **common)


def _parts(rows: RandomisedRows, condition: Any) -> list[tuple[Tensor, Any]]:
    """The rows of each process and their condition, where every row has its own."""
    count, size = len(rows), workers().size
    own = np.ndim(condition) > 0 and len(condition) == count
    if own and not isinstance(condition, Tensor):
        condition = np.asarray(condition)
    return [(rows.rows[rank::size], condition[rank::size] if own else condition) for rank in range(size)]


def score(
    model: DensityModel,
    x: Any,
    likelihood: str = "elbo",
    *,
    on_error: Literal["nan", "fail"] = "nan",
    condition: Any = None,
    **options: Any,
) -> "pd.DataFrame":
    """One likelihood of every row as a data frame: what ``girsanov score`` prints.

    Args:
        model: a density model.
        x: rows as the model takes them.
        likelihood: see :func:`evaluate`.
        on_error: what becomes of a row that the model cannot have, as one with a missing value: ``nan`` and a sentence
            in the column ``error``, which is ``None`` elsewhere; or ``fail``, without that column.
        condition: classes ``n`` or 1 as the labels named them, or continuous conditions ``n c`` or ``1 c``.
        **options: of :func:`evaluate`.

    Returns:
        Columns ``value`` and ``stderr`` in nats, ``kind``, ``model`` and ``error``; a line for each row, with the index
        of the data frame that was given, else 0, 1, ...

    Raises:
        InputError: as :func:`evaluate`, where columns are wrong or no row is right, and under ``fail`` for any row.

    Example:
        >>> import girsanov as gv
        >>> model = gv.fit(torch.randn(100, 2), config=gv.Config(steps=2))
        >>> found = score(model, torch.tensor([[0.0, 1.0], [math.nan, 1.0]]), samples=8)
        >>> found["value"].isna().tolist(), found["error"].tolist()
        ([False, True], [None, "x[1], column 'x1' is missing"])
    """
    if on_error not in ("nan", "fail"):
        raise InputError(f"on_error must be nan or fail; got {on_error!r}")
    import pandas as pd

    each = on_error == "nan"
    rows, kept, refused = model.encoding.encode_each(x) if each else (model.encode(x), None, {})
    count = len(rows) + len(refused)
    given = model.encode_condition(condition, count)
    if refused and given is not None and len(given) > 1:
        condition = condition[torch.from_numpy(kept)] if isinstance(condition, Tensor) else np.asarray(condition)[kept]
    found = evaluate(model, rows, likelihood, condition=condition, **options).to_pandas(kept)
    if each:
        found = found.reindex(range(count)).assign(error=[refused.get(row) for row in range(count)])
    return found.set_axis(x.index) if isinstance(x, pd.DataFrame) else found


def summary(estimate: Estimate) -> dict[str, Any]:
    """The mean over rows with all that says what it is, as JSON; bits per dimension where every column has bins."""
    mean = estimate.mean()
    bits = estimate.bits_per_dim().mean() if estimate.measure == "mass" else None
    return {
        "nats": mean.value,
        "bits_per_dim": None if bits is None else float(bits),
        "stderr": _finite(mean.stderr),
        "rows_stderr": _finite(mean.rows_stderr),
        "rows": mean.rows,
        "kind": estimate.kind,
        "model": estimate.model,
        "measure": estimate.measure,
        "nfe": estimate.nfe,
        "log_snr_range": None if estimate.log_snr_range is None else list(estimate.log_snr_range),
        "event_dim": estimate.event_dim,
    }


@dataclass(frozen=True, repr=False)
class Difference(Shown):
    """Mean of a paired difference over rows, in nats, with its 95 % interval.

    Attributes:
        nats: the mean.
        low: lower end of the interval.
        high: upper end.
        rows: number of rows.
    """

    nats: float
    low: float
    high: float
    rows: int

    def _summary(self) -> Summary:
        told = f"{self.nats:+.3f} nats per row, 95 % interval {self.low:+.3f} to {self.high:+.3f}, {self.rows:,} rows"
        return Summary(told.replace("-", "−"))


def difference(ours: Estimate | Nats, theirs: Estimate | Nats) -> Difference:
    """Paired difference ours - theirs, shape ``n`` each; rows are what is random, noise of estimators included.

    Equal rows have one value with one error, which more of them do not average away: of estimates, what that adds to
    the error of the mean is in the interval.

    Raises:
        InputError: for fewer than ten rows, of whose mean no interval keeps its promise.

    Example:
        >>> result = difference(torch.arange(12.0), torch.arange(12.0) - torch.tensor([1.0, -2.0, 2.0]).repeat(4))
        >>> round(result.nats, 2), result.low < 0 < result.high
        (0.33, True)
    """
    gap, noise = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for sign, one in ((1.0, ours), (-1.0, theirs)):
        known = isinstance(one, Estimate)
        gap = gap + sign * (one.value if known else one).double()
        noise = noise + (one.stderr.double().square().nan_to_num(0.0) if known else 0.0)
    mean, (low, high) = float(gap.mean()), interval_of_mean(gap)
    _, copy, count = gap.unique(return_inverse=True, return_counts=True)
    # a row's noise counts as often as it has copies, and is in the spread of the rows once
    shared = ((count[copy] - 1.0) * noise).sum().sqrt() / len(gap)
    more = student_quantile(0.95, MANY) * float(shared)
    return Difference(mean, mean - math.hypot(mean - low, more), mean + math.hypot(high - mean, more), rows=len(gap))


@dataclass(frozen=True, repr=False)
class Curve(Shown):
    """Squared errors of noise predictions over log-SNR, per dimension; every field has shape ``k``.

    Attributes:
        levels: log-SNR.
        model: error of the model on the rows.
        stderr: its standard error over rows.
        gain: error of the Gaussian reference on the same rows and noise, minus the model's.
        gain_stderr: its standard error over rows.
        gaussian: error that the reference has on data of its own law, sum_i sigmoid(l + log lambda_i) / d.
        standard: the same for N(0, I), sigmoid(l).
    """

    levels: Tensor
    model: Tensor
    stderr: Tensor
    gain: Tensor
    gain_stderr: Tensor
    gaussian: Tensor
    standard: Tensor

    def to_pandas(self) -> "pd.DataFrame":
        """A line for each level, a column for each field."""
        import pandas as pd

        return pd.DataFrame({field.name: getattr(self, field.name).numpy() for field in fields(self)})

    def nats_per_dim(self) -> float:
        """Half the integral of the gain: what the model's bound has over the Gaussian's, the ends aside."""
        return 0.5 * float(torch.trapezoid(self.gain, self.levels))


@torch.no_grad()
def denoising_curve(
    model: DensityModel,
    x: Any,
    *,
    levels: Tensor | None = None,
    condition: Any = None,
    generator: torch.Generator | None = None,
) -> Curve:
    """Squared error of the model's noise predictions at each level, beside the Gaussian reference's.

    Args:
        model: a density model.
        x: rows as the model takes them, two or more.
        levels: log-SNR, shape ``k``; default 49 levels over the model's range.
        condition: classes ``n`` or 1 as the labels named them, or continuous conditions ``n c`` or ``1 c``.
        generator: read once for a seed; ``None`` means seed 0.

    Example:
        >>> import girsanov as gv
        >>> model = gv.fit(torch.randn(100, 2), config=gv.Config(steps=2))
        >>> curve = denoising_curve(model, torch.randn(16, 2), levels=torch.tensor([-2.0, 2.0]))
        >>> curve.standard
        tensor([0.1192, 0.8808], dtype=torch.float64)
    """
    if levels is None:
        levels = torch.linspace(*model.score.log_snr_range, 49, dtype=torch.float64)
    levels = levels.double().cpu()
    x, seed = model.encode(x).rows, seed_of(generator)
    condition = model.encode_condition(condition, len(x))
    keys = apart(x)  # copies are rows of their own: their spread is the error of the mean
    y = model.encoding.view(x, 1, seed, purpose="curve dequantise", keys=keys).x[:, 0]
    d = y[0].numel()
    eps = keyed_normal(keyed_generators(seed, "curve", keys), y.shape[1:], y.new_empty(0, dtype=torch.float32))
    gains = torch.stack([_gain(model, y, eps, level, condition) for level in levels]) / d
    gaussian = torch.stack([model.reference.squared_error(y, float(level)) for level in levels]).cpu() / d
    errors = gaussian - gains
    spectrum = model.reference.spectrum().log().cpu()
    root = math.sqrt(len(y))
    return Curve(
        levels=levels,
        model=errors.mean(1),
        stderr=errors.std(1) / root,
        gain=gains.mean(1),
        gain_stderr=gains.std(1) / root,
        gaussian=torch.sigmoid(levels[:, None] + spectrum).mean(1),
        standard=torch.sigmoid(levels),
    )


def _gain(model: DensityModel, y: State, eps: State, level: Tensor, condition: Tensor | None) -> Nats:
    """Squared error of the reference minus the model's, mean of antithetic noise, shape ``n``."""
    pair, total = model.pair, torch.zeros(len(y), dtype=torch.float64)
    for start in range(0, len(y), CHUNK):
        stop = min(start + CHUNK, len(y))
        given = condition_at(condition, slice(start, stop))
        for sign in (1.0, -1.0):
            noise = sign * eps[start:stop]
            levels = level.to(y.device).expand(len(noise))
            z = noised(levels, y[start:stop], noise)
            law, delta = pair.deviation(levels, z, conditions_for(given, len(noise)))
            total[start:stop] += 0.5 * sum_event(delta * (2.0 * (noise - law) - delta)).cpu()
    return total


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
