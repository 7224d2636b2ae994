"""The report's section of Stein tests: is the score that of the held-out rows, and do the samples follow the score?"""

__all__ = ["ScoreTests", "score_tests_section"]

import math
from dataclasses import dataclass

from girsanov.likelihoods import LevelTest, ScoreTest
from girsanov.reports import figures
from girsanov.reports.page import bullets, figure, minus, paragraph, section, table
from girsanov.stein import BLIND_SPOTS

INTRODUCTION = (
    "Rows with the noise of a level (its standard deviation relative to the scaled data) are compared with the "
    "network's score there by kernel Stein discrepancies over ten bandwidths: 0 where the score is right, whatever the "
    "normalising constant. The effect is the discrepancy over the root mean square of its single pairs: near 0 where "
    "the score is right, 1 at most; an effect e shows in some 5/e rows. p-values come from a wild bootstrap; the "
    "corrected ones (Holm) hold for all levels together.",
    "Held-out rows that differ show an error of the model. Samples of the model's own that differ at the finest noise "
    "alone show that its score there, which is learned last, contradicts that of coarser levels.",
)
HEADER = ("log-SNR", "noise", "effect", "shows in rows", "p", "p, corrected")
CAPTION = (
    "Effect by noise level, noise to the left and data to the right. "
    "Shaded is 5/n: what so many rows hardly tell from 0."
)


@dataclass(frozen=True)
class ScoreTests:
    """Both tests of one model's score; in the place of one that could not be made, why.

    Attributes:
        held_out: rows that took no part in the fit against the score.
        drawn: rows that the sampler drew against the score that it followed.
    """

    held_out: ScoreTest | str
    drawn: ScoreTest | str


def score_tests_section(tests: ScoreTests) -> str:
    """The section as HTML; its figure needs matplotlib.

    Args:
        tests: of one model.
    """
    named = {"Held-out rows: the model": tests.held_out, "The model's own samples: the sampler": tests.drawn}
    made = {name: test for name, test in named.items() if isinstance(test, ScoreTest)}
    parts = [paragraph(text) for text in INTRODUCTION]
    if made and figures.available():
        parts.append(figure(figures.effects(made), CAPTION))
    for name, test in named.items():
        parts += _parts(name, test) if isinstance(test, ScoreTest) else [paragraph(f"{name}: {test}")]
    return section("Tests of the score", *parts, bullets("What these tests do not see", BLIND_SPOTS))


def _parts(name: str, test: ScoreTest) -> list[str]:
    rows = [_row(level) for level in test.levels]
    return [table(HEADER, rows, caption=f"{name} ({test.n:,} rows)"), paragraph(test.statement())]


def _row(level: LevelTest) -> tuple[str, ...]:
    effect = level.result.effect_size
    return (
        minus(f"{level.log_snr:g}"),
        f"{math.exp(-0.5 * level.log_snr):.2g}",
        minus(f"{effect:.4f}"),
        f"{5.0 / effect:,.0f}" if effect > 1e-6 else "–",
        f"{level.result.pvalue:.3g}",
        f"{level.corrected:.3g}",
    )
