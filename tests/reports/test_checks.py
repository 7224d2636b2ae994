"""The report's sections of Stein tests and of DDPM training."""

import dataclasses
from html import unescape

import pytest
import torch

from girsanov.densities import Gaussian
from girsanov.likelihoods import score_test
from girsanov.likelihoods.certificate import certificate
from girsanov.likelihoods.ddpm import SCHEDULES, ddpm_bound
from girsanov.pairs import ScorePair
from girsanov.processes import VariancePreserving
from girsanov.reports.findings import ScoreTests
from girsanov.reports.numbers import sensible
from girsanov.reports.report import certificate_section, score_tests_section
from girsanov.stein import BLIND_SPOTS, WildBootstrap
from tests.seeds import seeded

PROCESS, LAW = VariancePreserving(), Gaussian(torch.zeros(2, dtype=torch.float64), 1.0)


def outcome(shift, n):
    x = LAW.sample(n, generator=seeded(0)) + shift
    return score_test(ScorePair(LAW.score(PROCESS)), x, [0.0, 4.0], method=WildBootstrap(19))


def test_every_effect_and_every_blind_spot_is_shown():
    held_out, own = outcome(1.0, 60), outcome(0.0, 40)
    html = unescape(score_tests_section(ScoreTests(held_out, own)))
    for test in (held_out, own):
        assert test.statement() in html
        for level in test.levels:
            assert f"<td>{level.result.effect_size:.4f}</td>".replace("-", "−") in html
            assert f"<td>{level.corrected:.3g}</td>" in html
    assert "Held-out rows: the model (60 rows)" in html
    assert "own samples: the sampler (40 rows)" in html
    assert html.count("<li>") == len(BLIND_SPOTS)
    assert html.count("<tr") == html.count("</tr>") == 2 * 3
    assert "<svg" in html


def test_what_could_not_be_tested_says_why():
    html = score_tests_section(ScoreTests("the data are <gone>", "not tested. All points are equal."))
    assert "Held-out rows: the model: the data are &lt;gone&gt;" in html
    assert "All points are equal" in html
    assert "<svg" not in html
    assert "<table" not in html


@pytest.fixture(scope="module")
def certified():
    rows = LAW.sample(4, generator=seeded(0))
    bound = ddpm_bound(ScorePair(LAW.score(PROCESS)), rows, schedule=SCHEDULES["linear"](50))
    return certificate(bound, (-12.0, 12.0))


def test_every_term_of_the_certificate_is_shown(certified):
    html = unescape(certificate_section(certified))
    for name, value, _, rows in certified.table():
        assert name in html
        assert f"<td>{sensible(value, rows)}</td>" in html
    assert html.count("<tr") == html.count("</tr>") == 6 + 9 + 2
    assert "trained" not in html
    assert "trained" in certificate_section(dataclasses.replace(certified, outside=3))
