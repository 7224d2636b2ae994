"""A fit that ended behind a peer, or where it began, says so and what to try."""

import pytest

from girsanov.reports import advice

AHEAD = {"nats": 0.4, "low": 0.2, "high": 0.6, "rows": 200}
BEHIND = {"nats": -2.5, "low": -2.9, "high": -2.1, "rows": 200}
UNSURE = {"nats": -0.1, "low": -0.3, "high": 0.1, "rows": 200}


def metrics(gaussian, mixture=AHEAD, stopped="patience", before=-3.0, after=-2.0, rows=10_000):
    return {
        "peers": {"gaussian": {"difference": gaussian}, "mixture": {"difference": mixture}, "spline_flow": {}},
        "training": {"stopped": stopped, "steps": 100, "validation_before": before, "validation": after},
        "rows": {"train": rows},
    }


@pytest.mark.parametrize("gap", [AHEAD, UNSURE])
def test_nothing_is_said_of_a_fit_that_is_not_behind(gap):
    assert advice(metrics(gap)) == []
    assert advice({}) == []


def test_the_peer_that_is_farthest_ahead_is_named_with_the_lead():
    (sentence,) = advice(metrics(UNSURE, BEHIND))
    assert sentence.startswith("This fit ended 2.5 nats per row behind the Gaussian mixture fitted to the same rows: ")
    (sentence,) = advice(metrics(BEHIND, {**BEHIND, "nats": -1.0}))
    assert "behind the Gaussian fitted to the same rows (and behind: Gaussian mixture): " in sentence


@pytest.mark.parametrize(
    ("stopped", "rows", "remedy"),
    [
        ("time", 500, "train longer"),
        ("finished", 500, "train longer"),
        ("patience", 500, "rows are few, so give more"),
        ("patience", 50_000, "try a larger network"),
    ],
)
def test_what_to_try_follows_from_how_training_stopped(stopped, rows, remedy):
    (sentence,) = advice(metrics(BEHIND, stopped=stopped, rows=rows))
    assert remedy in sentence


def test_training_that_added_nothing_to_its_start_is_said():
    (sentence,) = advice(metrics(AHEAD, before=-2.0, after=-2.0))
    assert sentence.startswith("Training ended no better than its start (-2 nats per row on validation rows): ")
