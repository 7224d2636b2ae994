"""What is found in the numbers of a run, in sentences that follow from them, and what to try then."""

import math
import re
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from girsanov.evaluation import Difference
from girsanov.likelihoods.score_test import LevelTest, ScoreTest
from girsanov.reports.bridge_findings import BRIDGE_FINDERS, bridge_findings
from girsanov.reports.findings import ADVICE, FINDERS, Evidence, ScoreTests, advice, conclusions, findings, headline
from girsanov.reports.lead import Lead
from girsanov.reports.numbers import plus_minus, sensible
from tests.seeds import rng

AHEAD = {"nats": 0.4, "low": 0.2, "high": 0.6, "rows": 200}
BEHIND = {"nats": -2.5, "low": -2.9, "high": -2.1, "rows": 200}
UNSURE = {"nats": -0.1, "low": -0.3, "high": 0.1, "rows": 200}
ENTRY = {
    "nats": -20.0, "bits_per_dim": None, "stderr": 0.1, "rows_stderr": 0.5, "rows": 200,
    "kind": "lower_bound", "model": "sde", "measure": "density", "event_dim": 4,
}  # fmt: skip


def metrics(gaussian=AHEAD, mixture=AHEAD, stopped="patience", before=-3.0, after=-2.0, rows=10_000, **more):
    return {
        "test": {"elbo": ENTRY},
        "peers": {
            "gaussian": {"kind": "exact", "difference": gaussian},
            "mixture": {"kind": "exact", "difference": mixture},
        },
        "training": {"stopped": stopped, "steps": 100, "validation_before": before, "validation": after},
        "rows": {"train": rows},
        **more,
    }


def outcome(pvalue, log_snr=4.0, n=200):
    result = SimpleNamespace(n=n, pvalue=pvalue, effect_size=0.0321)
    quiet = SimpleNamespace(n=n, pvalue=0.9, effect_size=0.0001)
    levels = LevelTest(2.0, 0.5, quiet, 1.0), LevelTest(log_snr, 0.1, result, pvalue)
    return ScoreTest(levels, pvalue)


FOUND, NOTHING = outcome(0.004), outcome(0.61)


def texts(evidence):
    return [finding.text for finding in findings(evidence)]


def verdicts(evidence):
    return [finding.verdict for finding in findings(evidence)]


@dataclass(frozen=True)
class Case:
    """Numbers that call for one advice, and numbers beside them that do not."""

    bad: Evidence
    good: Evidence


def way(energy, floor=0.01, untouched=1.0, rows=500):
    return {"rows": rows, "energy": energy, "floor": {"energy": floor}, "untouched": {"energy": untouched}}


def bridge(energy=0.02, after=0.5, **more):
    history = [{"round": 1, "before": 0.6, "after": after}]
    return {"test": {"forward": way(energy, **more), "backward": way(0.02, **more)}, "history": history}


HISTORY = [{"step": step, "validation": -3.0 + step / 100, "validation_stderr": 0.01} for step in range(0, 101, 10)]
CASES = {
    "longer": Case(Evidence(metrics(BEHIND, stopped="time", rows=500)), Evidence(metrics())),
    "few rows": Case(Evidence(metrics(BEHIND, rows=500)), Evidence(metrics(rows=500))),
    "larger": Case(Evidence(metrics(BEHIND, rows=50_000)), Evidence(metrics(rows=50_000))),
    "held-out rows": Case(Evidence(metrics(UNSURE)), Evidence(metrics())),
    "peers": Case(Evidence(metrics() | {"peers": {}}), Evidence(metrics())),
    "fine noise": Case(
        Evidence(metrics(), tests=ScoreTests(FOUND, NOTHING)), Evidence(metrics(), tests=ScoreTests(NOTHING, NOTHING))
    ),
    "coarse noise": Case(
        Evidence(metrics(), tests=ScoreTests(outcome(0.004, 0.0), NOTHING)),
        Evidence(metrics(), tests=ScoreTests(FOUND, NOTHING)),
    ),
    "sampler": Case(
        Evidence(metrics(), tests=ScoreTests(NOTHING, FOUND)), Evidence(metrics(), tests=ScoreTests(FOUND, NOTHING))
    ),
    "evaluations": Case(Evidence(metrics(test={"elbo": ENTRY | {"stderr": 0.7}})), Evidence(metrics())),
    "time": Case(Evidence(metrics(shortened={"rows of the bound": "64 of 90"})), Evidence(metrics(shortened={}))),
}
BRIDGE_CASES = {
    "bridge longer": (bridge(energy=0.6), bridge()),
    "bridge rows": (bridge(rows=20), bridge()),
    "bridge start": (bridge(after=0.6), bridge()),
}


def test_every_advice_has_its_case():
    assert {**CASES, **BRIDGE_CASES}.keys() == ADVICE.keys()


@pytest.mark.parametrize("name", CASES)
def test_an_advice_is_given_where_its_numbers_are_and_nowhere_else(name):
    case = CASES[name]
    assert ADVICE[name] in advice(findings(case.bad))
    assert ADVICE[name] not in advice(findings(case.good))


@pytest.mark.parametrize("name", BRIDGE_CASES)
def test_the_same_of_bridges(name):
    titles = {"forward": "a to b", "backward": "b to a"}
    bad, good = (bridge_findings(numbers, titles) for numbers in BRIDGE_CASES[name])
    assert advice(bad) == [ADVICE[name]]
    assert advice(good) == []


def test_nothing_is_to_be_tried_where_all_is_well():
    evidence = Evidence(metrics(), HISTORY[:1], ScoreTests(NOTHING, NOTHING))
    assert advice(findings(evidence)) == []
    assert set(verdicts(evidence)) == {"good"}
    assert findings(Evidence({})) == []


def test_an_advice_is_given_once():
    evidence = Evidence(metrics(BEHIND, stopped="time", before=-2.0))
    assert [finding.advice for finding in findings(evidence)] == ["longer", "longer"]
    assert advice(findings(evidence)) == [ADVICE["longer"]]


def test_a_lead_is_the_factor_of_the_recorded_difference_and_of_its_interval():
    nats, low, high = math.log(74.0), math.log(55.0), math.log(98.0)
    gap = {"nats": nats, "low": low, "high": high, "rows": 359}
    (first, *_) = findings(Evidence(metrics(gap, {**gap, "nats": nats + 1.0})))
    assert first.headline == "Held-out rows are at least 74 times likelier than under the next best model"
    assert first.text.startswith(f"{first.headline}, the Gaussian (55 to 98 at 95 %; geometric mean over 359 rows, ")
    assert first.verdict == "good"


def test_the_model_that_is_farthest_ahead_is_named_with_its_lead():
    (first, *_) = findings(Evidence(metrics(UNSURE, BEHIND)))
    assert f"at most {math.exp(2.5):.1f} times less likely than under the Gaussian mixture fitted to" in first.text
    assert f"({math.exp(2.1):.1f} to {math.exp(2.9):.1f} at 95 %" in first.text
    assert "Ahead too" not in first.text
    (first, *_) = findings(Evidence(metrics(BEHIND, {**BEHIND, "nats": -1.0})))
    assert first.headline == "Behind the Gaussian"
    assert first.text.endswith("trust that one more. Ahead too: Gaussian mixture.")


def test_what_rows_do_not_tell_is_left_open():
    (first, *_) = findings(Evidence(metrics(UNSURE)))
    assert first.verdict == "open"
    assert "−0.30 to +0.10 at 95 %" in first.text
    assert "some 800 would tell" in first.text  # the half width is twice the difference: four times the rows


@pytest.mark.parametrize(
    ("kinds", "word"), [(("lower_bound", "exact"), "at least "), (("lower_bound",) * 2, ""), (("exact", "exact"), "")]
)
def test_a_lead_says_what_bounds_allow(kinds, word):
    lead = Lead("other", Difference(2.0, 1.9, 2.1, rows=50), kinds)
    assert lead.size == f"{word}{sensible(math.exp(2.0), 0.7)} times likelier"
    assert ("both by lower bounds" in lead.sure()) == (kinds == ("lower_bound", "lower_bound"))


def test_a_lead_beyond_a_million_is_said_in_nats():
    lead = Lead("other", Difference(30.2, 28.0, 32.0, rows=50), ("exact", "exact"))
    assert lead.size == "more than a million times likelier"
    assert lead.sure() == "+30.2 nats per row, +28.0 to +32.0 at 95 %; geometric mean over 50 rows"


def test_images_are_compared_in_bits():
    bits = 64 * math.log(2.0)
    lead = Lead("other", Difference(-0.25 * bits, -0.27 * bits, -0.23 * bits, rows=50), ("exact", "exact"), dims=64)
    assert lead.size == "0.250 bits per dimension more"
    assert lead.sure().startswith("0.230 to 0.270 at 95 %; 50 rows, ")


def test_training_is_judged_by_its_gain_and_the_error_of_that():
    found = metrics(after=-1.9)
    found["training"] |= {"validation_before_stderr": 0.3, "validation_stderr": 0.4}
    (text,) = [text for text in texts(Evidence(found)) if "Training" in text]
    assert text == f"Training improved on its start by {plus_minus(1.1, 0.5)} nats per row (from −3.00 to −1.90 on " + (
        "validation rows)."
    )
    found["training"]["validation"] = -2.1  # 0.9, less than twice its error
    (finding,) = [finding for finding in findings(Evidence(found)) if "Training" in finding.text]
    assert finding.verdict == "open"
    assert "0.90 ± 0.50" in finding.text


def test_training_that_added_nothing_to_its_start_is_said():
    (finding,) = [finding for finding in findings(Evidence(metrics(before=-2.0))) if "start" in finding.text]
    assert finding.text == "Training ended no better than its start (−2 nats per row on validation rows)."
    assert finding.verdict == "bad"


def test_a_bound_that_was_still_rising_is_said():
    found = [text for text in texts(Evidence(metrics(stopped="finished"), HISTORY)) if "still rising" in text]
    assert found == [
        "The bound was still rising when training stopped: its last quarter of 100 steps brought 30 % of all that was "
        "gained."
    ]
    level = [line | {"validation": min(line["validation"], -2.3)} for line in HISTORY]
    assert not any("still rising" in text for text in texts(Evidence(metrics(stopped="finished"), level)))
    assert not any("still rising" in text for text in texts(Evidence(metrics(), HISTORY)))  # patience ended it


def test_tests_of_the_score_say_where():
    texts_ = texts(Evidence(metrics(), tests=ScoreTests(FOUND, outcome(0.03, 6.0, 64))))
    assert any("200 held-out rows differ from it, most clearly at log-SNR 4 (noise of 0.14 of" in t for t in texts_)
    assert any("64 samples do not follow the score, most clearly at log-SNR 6" in t for t in texts_)
    said = texts(Evidence(metrics(), tests=ScoreTests(NOTHING, "not tested.")))
    assert any("finds no error of the model in 200 rows (p = 0.61 over all noise levels; effects below 0.025" in t
               for t in said)  # fmt: skip
    assert not any("samples" in text for text in said)


def test_too_few_rows_to_compare_by():
    (first, *_) = findings(Evidence(metrics(None, None, test={"elbo": ENTRY | {"rows": 7}})))
    assert "7 held-out rows are too few" in first.text


def one(bits):
    return {"bits_per_dim": bits, "rows": 1500}


def code(png, webp, **changes):
    entry = ENTRY | {"bits_per_dim": 1.43, "nats": -777.0, "rows_stderr": 6.5, "rows": 1500} | changes
    return findings(Evidence({"test": {"elbo": entry}, "codecs": {"png": one(png), "webp": one(webp)}}))[0]


def test_a_lossless_code_is_compared_both_ways():
    first = "As a lossless code these images take 1.430 ± 0.012 bits per dimension: "
    assert code(1.716, 1.473).text.startswith(first + "1.2 times smaller than PNG, 1.03 times smaller than WebP (")
    assert code(1.716, 1.473).verdict == "good"
    assert code(1.3, 1.43001).text.startswith(first + "1.1 times larger than PNG, as large as WebP (")
    assert code(1.3, 1.43001).verdict == "bad"
    assert "(1,500 held-out images, ± their standard error; at most so many bits, with an ideal" in code(1.0, 1.0).text
    said = code(1.0, 1.0, kind="exact", rows_stderr=None).text
    assert "(1,500 held-out images; with an ideal entropy coder; " in said


def test_a_terminal_gets_the_same_sentences():
    found = metrics(BEHIND, mixed={"diffusion": 0.7, "mixture": 0.3})
    first, *others = conclusions(found)
    assert first.startswith("The model is a mixture, as validation rows weigh it: 70 % its diffusion and 30 %")
    assert others[:-1] == texts(Evidence(found))
    assert others[-1] == ADVICE["larger"].replace("`", "")


def test_every_finder_finds_something():
    cases = [case.bad for case in CASES.values()]
    cases += [Evidence(metrics(stopped="finished"), HISTORY)]
    cases += [Evidence({"test": {"elbo": ENTRY | {"bits_per_dim": 1.4}}, "codecs": {"png": one(2.0)}})]
    assert {name for name, find in FINDERS.items() if any(find(case) for case in cases)} == set(FINDERS)


def test_every_finder_of_bridges_finds_something():
    titles = {"forward": "a to b", "backward": "b to a"}
    known = bridge() | {"history": [{"elbo": -3.0}, {"elbo": -1.0}], "shortened": {"rows": "3 of 4"}}
    known["test"] |= {"elbo": {"rows_stderr": 0.5}}
    cases = [known, *(bad for bad, _ in BRIDGE_CASES.values())]
    assert {name for name, find in BRIDGE_FINDERS.items() if any(find(c, titles) for c in cases)} == set(BRIDGE_FINDERS)
    assert any("raised the bound on validation rows by 2.00 nats" in f.text for f in bridge_findings(known, titles))


@pytest.mark.parametrize(
    ("energy", "untouched", "verdict", "said"),
    [
        (0.02, 1.01, "good", "closes 99 % of"),
        (0.31, 1.01, "open", "closes 70 % of"),
        (0.81, 1.01, "bad", "closes 20 % of"),
        (1.50, 1.01, "bad", "closes none of"),
        (0.01, 1.01, "good", "as near to the other end as true rows"),
        (0.30, 0.01, "bad", "leads away"),
        (0.30, None, "open", "draws are farther"),
    ],
)
def test_a_bridge_is_judged_by_the_way_that_its_rows_have_gone(energy, untouched, verdict, said):
    entry = way(energy, untouched=untouched)
    if untouched is None:
        del entry["untouched"]
    numbers = {"test": {"forward": entry, "backward": way(0.0)}}
    first = bridge_findings(numbers, {"forward": "a to b", "backward": "b to a"})[0]
    assert first.verdict == verdict
    assert said in first.text


def test_few_rows_leave_a_bridge_open():
    found = bridge_findings(bridge(energy=0.01, rows=20), {"forward": "a to b", "backward": "b to a"})
    assert found[0].verdict == "open"
    assert headline(found) == "From a to b: as near as true rows, as far as 20 rows tell"


def test_digits_are_those_that_an_error_allows():
    source = rng(0)
    for error in 10.0 ** source.uniform(-6, 6, size=200):
        value = 1e3 * error * source.normal()
        shown = float(re.sub(",", "", sensible(value, error)).replace("−", "-"))
        assert abs(shown - value) <= 0.0501 * error * 1.0001  # half of the second digit, at most a twentieth
    assert sensible(math.nan, 1.0) == sensible(None, 1.0) == "–"
    assert sensible(torch.tensor(2.5).item(), 0.0) == "2.500"
