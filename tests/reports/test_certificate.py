"""The report's section about DDPM training."""

import dataclasses

import torch

from girsanov.densities import Gaussian
from girsanov.likelihoods.certificate import certificate
from girsanov.likelihoods.ddpm import SCHEDULES, ddpm_bound
from girsanov.pairs import ScorePair
from girsanov.processes import VariancePreserving
from girsanov.reports.certificate import certificate_section
from tests.seeds import seeded


def test_the_section_shows_every_term_and_closes_its_elements():
    process, law = VariancePreserving(), Gaussian(torch.zeros(2, dtype=torch.float64), 1.0)
    rows = law.sample(4, generator=seeded(0))
    bound = ddpm_bound(ScorePair(law.score(process)), rows, schedule=SCHEDULES["linear"](50))
    found = certificate(bound, (-12.0, 12.0))
    html = certificate_section(found)
    assert html.startswith("<section>\n<h2>Certificate of DDPM training</h2>")
    for name, value, *_ in found.table():
        assert name.replace("'", "&#x27;") in html
        assert f"{value:.4f}".replace("-", "−") in html
    assert html.count("<tr") == html.count("</tr>") == 6 + 9 + 2
    assert "trained" not in html
    assert "trained" in certificate_section(dataclasses.replace(found, outside=3))
