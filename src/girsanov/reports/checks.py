"""Sections that check a model: Stein tests of its score, and the certificate of DDPM training."""

__all__ = ["ScoreTests", "certificate_section", "score_tests_section"]

from dataclasses import dataclass

from girsanov.likelihoods import ScoreTest
from girsanov.likelihoods.certificate import Certificate
from girsanov.reports import figures
from girsanov.reports.page import render
from girsanov.stein import BLIND_SPOTS

SHOWN = 9  # points of a certificate's curve


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
    """Is the score that of the held-out rows, and do the samples follow the score? HTML."""
    named = {"Held-out rows: the model": tests.held_out, "The model's own samples: the sampler": tests.drawn}
    made = {name: test for name, test in named.items() if isinstance(test, ScoreTest)}
    svg = figures.effects(made) if made else ""
    return render("score_tests", tests=named, svg=svg, blind_spots=BLIND_SPOTS)


def certificate_section(certificate: Certificate) -> str:
    """The terms of the discrete bound of held-out rows, and what follows from them, as HTML."""
    last = len(certificate.curve) - 1
    points = sorted({round(i * last / (SHOWN - 1)) for i in range(SHOWN)})
    return render("certificate", certificate=certificate, points=points)
