r"""Tests of a diffusion model's score, one noise level at a time.

At a level with :math:`x_t = \alpha x + \sigma \varepsilon`, held-out rows noised this way are a sample of the true
:math:`p_t`; a Stein test compares them with :math:`s(t, \cdot)` (note of paper 4, section 3.5). The denoising loss has
a floor that nobody knows; this discrepancy has an absolute zero and a p-value, and needs evaluations of the score
alone. With rows that a sampler drew, it is the sampler that is tested against the score which it followed.
"""

__all__ = ["LevelTest", "ScoreTest", "score_test"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from girsanov.display import Shown, Summary, cells
from girsanov.inputs import ask, checked
from girsanov.pairs import ScorePair
from girsanov.processes import LinearProcess
from girsanov.randomness import apart, keyed_generators, keyed_normal, seed_of
from girsanov.rows import condition_at, conditions_for
from girsanov.stein.goodness import GoodnessOfFitResult, goodness_of_fit
from girsanov.stein.kernels import RadialKernel
from girsanov.stein.matrices import DiffusionLike
from girsanov.stein.nulls import Method, WildBootstrap
from girsanov.types import InputError, Score, State

if TYPE_CHECKING:
    import pandas as pd

#: log-SNR of the default test: from half noise to noise of a twentieth of the data's scale
LEVELS = (0.0, 2.0, 4.0, 6.0)
CHUNK = 512  # rows per call of the score
ALPHA = 0.05  # at which sentences speak of a difference


@dataclass(frozen=True, repr=False)
class LevelTest(Shown):
    """The test at one level.

    Attributes:
        log_snr: the level.
        time: the process's time there.
        result: the test.
        corrected: its p-value, corrected for the number of levels (Holm).
    """

    log_snr: float
    time: float
    result: GoodnessOfFitResult
    corrected: float


@dataclass(frozen=True, repr=False)
class ScoreTest(Shown):
    """Result of :func:`score_test`.

    Attributes:
        levels: one test per level, in the order asked for.
        pvalue: of the hypothesis that the score is right at all levels: the smallest corrected p-value.
    """

    levels: tuple[LevelTest, ...]
    pvalue: float

    def _summary(self) -> Summary:
        return Summary(self.statement(), table=cells(self.to_pandas()))

    def to_pandas(self) -> "pd.DataFrame":
        """A line for each level: its log-SNR, effect, p-value, and the p-value corrected for the number of levels."""
        import pandas as pd

        found = [(a.log_snr, a.result.effect_size, a.result.pvalue, a.corrected) for a in self.levels]
        return pd.DataFrame(found, columns=pd.Index(["log_snr", "effect", "pvalue", "corrected"]))

    @property
    def n(self) -> int:
        """Rows tested at every level."""
        return self.levels[0].result.n

    @property
    def worst(self) -> LevelTest:
        """The level with the smallest corrected p-value, and of equal ones that with the largest effect."""
        return min(self.levels, key=lambda level: (level.corrected, -level.result.effect_size))

    def statement(self) -> str:
        """What the p-value and the effect sizes say, and how large an effect so many rows could show.

        Example:
            >>> from girsanov.densities import Gaussian
            >>> from girsanov.processes import VariancePreserving
            >>> law = Gaussian(torch.zeros(2), 1.0)
            >>> x = law.sample(200, generator=torch.Generator().manual_seed(0))
            >>> pair = ScorePair(law.score(VariancePreserving()))
            >>> print(score_test(pair, x, [2.0]).statement())  # doctest: +ELLIPSIS
            p = ... over all levels: no difference found. Effects below 0.025 would hardly show in 200 rows.
        """
        worst, least = self.worst, 5.0 / self.n
        if self.pvalue > ALPHA:
            return (
                f"p = {self.pvalue:.2g} over all levels: no difference found. "
                f"Effects below {least:.2g} would hardly show in {self.n:,} rows."
            )
        effect = worst.result.effect_size
        return (
            f"p = {self.pvalue:.2g} over all levels: the rows differ from the model, most clearly at log-SNR "
            f"{worst.log_snr:g}, by an effect of {effect:.2g}, which shows in some {_rows_for(effect)} rows."
        )


@checked
@torch.no_grad()
def score_test(
    pair: ScorePair,
    x: State,
    levels: Sequence[float] = LEVELS,
    *,
    kernel: str | RadialKernel | Sequence[str | RadialKernel] | None = None,
    diffusion: DiffusionLike = None,
    method: Method | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> ScoreTest:
    """Test a score at several noise levels on rows that it was not fitted to.

    Args:
        pair: the model, whose score is asked once per row and level.
        x: clean rows ``n *d``, the more the better: mild errors need 10,000.
        levels: log-SNR of each test.
        kernel: see :func:`girsanov.stein.goodness_of_fit`.
        diffusion: see there; a name is fitted to the noised rows of each level.
        method: see there; default the wild bootstrap, for independent rows.
        condition: labels or other conditions of the rows, leading dimension ``n`` or 1.
        generator: read once for a seed (``None`` means seed 0); a row's noise depends on its content and, among copies,
            on its number.

    Raises:
        InputError: for no levels, levels at which the score is not known, and rows or scores that cannot be used.

    Example:
        >>> from girsanov.densities import Gaussian
        >>> from girsanov.processes import VariancePreserving
        >>> law = Gaussian(torch.zeros(2), 1.0)
        >>> x = law.sample(300, generator=torch.Generator().manual_seed(0)) + 0.5
        >>> test = score_test(ScorePair(law.score(VariancePreserving())), x, [0.0, 4.0])
        >>> test.pvalue < 0.01, [level.log_snr for level in test.levels]
        (True, [0.0, 4.0])
    """
    levels = [float(levels)] if isinstance(levels, Real) else levels
    if not len(levels):
        raise InputError("A score is tested at one noise level or more: give levels")
    low, high = pair.known_range
    if not all(low <= level <= high for level in levels):
        raise InputError(f"The score is known for log-SNR from {low:.3g} to {high:.3g}: choose levels in between")
    seed, method = seed_of(generator), method or WildBootstrap()
    results, times = [], []
    for round_, level in enumerate(levels):
        time, noised = _noised(pair.process, x, level, seed, round_)
        noised = noised.to(_dtype(pair.score, x))
        source = torch.Generator().manual_seed(seed + round_)
        scores = _scores(pair.score, time, noised, condition)
        options = {"kernel": kernel, "diffusion": diffusion, "method": method}
        results.append(goodness_of_fit(noised, scores, **options, generator=source))
        times.append(float(time))
    corrected = _holm([result.pvalue for result in results])
    members = map(LevelTest, map(float, levels), times, results, corrected)
    return ScoreTest(tuple(members), min(corrected))


def _rows_for(effect: float) -> str:
    """In how many rows an effect shows, to two digits."""
    rows = 5.0 / max(effect, 1e-12)
    return f"{round(rows, 1 - math.floor(math.log10(rows))):,.0f}" if rows > 2 else "2"


def _noised(process: LinearProcess, x: State, level: float, seed: int, round_: int) -> tuple[Tensor, State]:
    """Time of a level, and rows with their own noise there."""
    at = torch.tensor(float(level), dtype=torch.float64)
    alpha, sigma = process.marginal_at(at)
    # copies are rows of their own, which one noise would make identical points
    eps = keyed_normal(keyed_generators(seed, "score test", apart(x), round_), x.shape[1:], x)
    return process.time(at), alpha.to(x) * x + sigma.to(x) * eps


def _scores(score: Score, time: Tensor, x: State, condition: Tensor | None) -> State:
    """Scores of all rows at one time, in chunks."""
    parts, given = [], conditions_for(condition, len(x))
    for start in range(0, len(x), CHUNK):
        part = slice(start, start + CHUNK)
        rows = x[part]
        parts.append(ask(score, time.to(x.device).expand(len(rows)), rows, condition_at(given, part)))
    return torch.cat(parts)


def _holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down correction."""
    order = sorted(range(len(pvalues)), key=pvalues.__getitem__)
    corrected, largest = [0.0] * len(pvalues), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        corrected[index] = largest
    return corrected


def _dtype(score: Score, x: State) -> torch.dtype:
    """Dtype of the score's parameters, else that of the rows."""
    parameter = next(score.parameters(), None) if isinstance(score, nn.Module) else None
    return x.dtype if parameter is None else parameter.dtype
