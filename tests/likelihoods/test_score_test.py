"""Score tests by noise level: exact scores pass, wrong ones fail, rows keep their own noise."""

from dataclasses import replace

import pytest
import torch

from girsanov.densities import Gaussian, GaussianMixture
from girsanov.likelihoods import score_test
from girsanov.likelihoods.score_test import _holm, _noised, _rows_for
from girsanov.pairs import ScorePair
from girsanov.processes import BrownianMotion, VarianceExploding, VariancePreserving
from girsanov.randomness import apart
from girsanov.stein import WildBootstrap
from girsanov.types import InputError
from tests.seeds import seeded

pytestmark = pytest.mark.usefixtures("float64")
PROCESSES = {"vp": VariancePreserving(), "ve": VarianceExploding(), "brownian": BrownianMotion()}
QUICK = WildBootstrap(99)


def ring(modes=8, radius=2.0, skip=0):
    """The ring of the note of paper 4, section 3.5, without its first ``skip`` modes."""
    angle = 2 * torch.pi * torch.arange(skip, modes) / modes
    means = radius * torch.stack([angle.cos(), angle.sin()], 1)
    return GaussianMixture(torch.ones(len(means)), means, torch.full_like(means, 0.04))


@pytest.mark.parametrize("name", PROCESSES)
def test_an_exact_score_passes_and_a_missing_mode_does_not(name):
    process, x = PROCESSES[name], ring().sample(400, generator=seeded(1))
    right = score_test(ScorePair(ring().score(process)), x, [1.0, 3.0, 5.0], method=QUICK)
    wrong = score_test(ScorePair(ring(skip=1).score(process)), x, [1.0, 3.0, 5.0], method=QUICK)
    # the null's own p-value may be anything: its effect is what tells it from a missing mode's
    assert right.worst.result.effect_size < 0.2 * wrong.worst.result.effect_size
    assert wrong.pvalue == pytest.approx(0.03)
    assert [level.log_snr for level in right.levels] == [1.0, 3.0, 5.0]
    for level in right.levels:
        assert float(process.log_snr(torch.tensor(level.time))) == pytest.approx(level.log_snr, abs=1e-6)
        assert level.corrected >= level.result.pvalue


def test_the_statement_says_where_and_how_much_or_what_cannot_be_seen():
    process, x = VariancePreserving(), ring().sample(500, generator=seeded(1))
    found = score_test(ScorePair(ring().score(process)), x, [1.0, 4.0], method=QUICK)
    right = replace(found, pvalue=0.5)  # whatever this draw of the null says
    assert "no difference found" in right.statement()
    assert "Effects below 0.01 would hardly show in 500 rows" in right.statement()
    wrong = score_test(ScorePair(ring().score(process)), x + 0.4, [1.0, 4.0], method=QUICK)
    worst = wrong.worst
    assert worst.corrected == wrong.pvalue == 0.02
    assert worst.result.effect_size == max(level.result.effect_size for level in wrong.levels)
    assert f"most clearly at log-SNR {worst.log_snr:g}" in wrong.statement()
    effect = worst.result.effect_size
    assert f"an effect of {effect:.2g}, which shows in some {_rows_for(effect)} rows" in wrong.statement()
    assert wrong.n == 500


@pytest.mark.parametrize(("effect", "rows"), [(0.0031, "1,600"), (0.034, "150"), (0.5, "10"), (1.0, "5")])
def test_rows_for_an_effect(effect, rows):
    assert _rows_for(effect) == rows


def test_a_matrix_may_be_named():
    process, x = VariancePreserving(), ring().sample(100, generator=seeded(1))
    options = {"kernel": "imq", "method": QUICK}
    plain, heavy = (
        score_test(ScorePair(ring().score(process)), x, [4.0], diffusion=name, **options).levels[0].result.discrepancy
        for name in (None, "heavy_tailed")
    )
    assert plain != heavy


def test_images_and_conditions():
    process, asked = VariancePreserving(), []
    law = Gaussian(torch.zeros(1, 2, 2), 1.0)

    def score(t, x, condition):
        asked.append((len(x), condition.tolist()))
        return law.score(process)(t, x)

    x = law.sample(700, generator=seeded(0))
    labels = torch.arange(700)
    score_test(ScorePair(score, process), x, [2.0], condition=labels, method=QUICK)
    assert [count for count, _ in asked] == [512, 188]
    assert asked[1][1] == list(range(512, 700))
    score_test(ScorePair(score, process), x[:5], [2.0], condition=labels[3:4], method=QUICK)
    assert asked[-1] == (5, [3] * 5)


def test_the_noise_of_a_row_depends_on_that_row_alone():
    process, x = VariancePreserving(), torch.randn(6, 3, generator=seeded(0))
    whole = _noised(process, x, 2.0, 7, 1)[1]
    assert torch.equal(whole[2:4], _noised(process, x[2:4], 2.0, 7, 1)[1])
    assert not torch.equal(whole, _noised(process, x, 2.0, 7, 2)[1])
    assert not torch.equal(whole, _noised(process, x, 2.0, 8, 1)[1])


def test_rows_that_repeat_are_tested_at_the_level_promised():
    """Rows of seven points, and the exact score of their noised law: each copy has noise of its own."""
    process, points = VariancePreserving(), torch.linspace(-2.0, 2.0, 7, dtype=torch.float64)[:, None]
    law = GaussianMixture(torch.ones(7) / 7, points, torch.full((7, 1), 1e-8, dtype=torch.float64))
    rejected = 0
    for k in range(20):
        x = points[torch.randint(7, (200,), generator=seeded(k))]
        found = score_test(ScorePair(law.score(process)), x, [0.0, 2.0], method=QUICK, generator=seeded(100 + k))
        rejected += found.pvalue <= 0.05
    assert rejected <= 5  # of 20 at 5 %: more in one of 3,000 runs
    assert torch.equal(apart(torch.tensor([[5.0], [7.0], [5.0], [-0.0], [0.0]]))[:, 1], torch.tensor([0.0, 0, 1, 0, 1]))


def test_scores_are_evaluated_in_the_dtype_of_their_parameters():
    seen = []

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float32))

        def forward(self, t, x):
            seen.append((t.dtype, x.dtype))
            return -self.weight * x

    score_test(ScorePair(Network(), VariancePreserving()), torch.randn(40, 2), [0.0], method=QUICK)
    assert seen == [(torch.float64, torch.float32)]


def test_correction_is_holm():
    assert _holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert _holm([0.5]) == [0.5]
    assert _holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": []}, "one noise level or more"),
        ({"levels": [99.0]}, "choose levels in between"),
        ({"levels": [float("nan")]}, "finite log-SNRs"),
        ({"condition": torch.zeros(3)}, "leading dimension"),
    ],
)
def test_levels_that_cannot_be(options, message):
    process, x = VariancePreserving(), torch.randn(10, 2)
    with pytest.raises(InputError, match=message):
        score_test(ScorePair(lambda t, x: -x, process), x, **options)
