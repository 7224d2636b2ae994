"""Odd rows among many: the false discovery rate is kept, odd rows are found, and the right columns are named."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom, false_discovery_control

import girsanov as gv
from girsanov.applications import Novelty, find_anomalies, odd_columns
from girsanov.applications.anomalies import judge, require_reach
from girsanov.types import InputError
from tests.seeds import rng, seed

REPEATS, CALIBRATION, JUDGED, FDR = 80, 119, 12, 0.2  # 12 rows at 0.2: one alone takes 59 calibration rows


def table(n, number):
    """Two columns that say nearly the same, and two of which a text decides: ``n`` rows in mixed units."""
    generator = rng(number)
    a = generator.normal(size=n)
    kind = generator.choice(["left", "right"], n)
    side = np.where(kind == "left", -3.0, 3.0)
    return pd.DataFrame(
        {
            "a": a,
            "b": 100.0 * (a + 0.1 * generator.normal(size=n)),
            "c": side + 0.3 * generator.normal(size=n),
            "e": -side + 0.3 * generator.normal(size=n),
            "kind": kind,
        }
    )


@pytest.fixture(scope="module")
def model():
    """Fitted to such a table for a moment: its start is the Gaussian reference, and that is enough here."""
    config = gv.Config(steps=20, network=gv.networks.MLPConfig(width=16, blocks=1), flow=False, mixed=False)
    data = gv.datasets.from_array(table(600, 0), categorical=True)
    return gv.fit(data, config=config, generator=torch.Generator().manual_seed(seed()))


def calibrated(model, number, rows=CALIBRATION):
    return Novelty(samples=16).fit(model, table(rows, number), moments=table(80, 1))


@pytest.fixture(scope="module")
def proportions(model):
    """False discoveries among usual rows alone, and among those with five odd ones; in fresh draws of everything."""
    alone, among = [], []
    for k in range(REPEATS):
        novelty = calibrated(model, 10 + 2 * k)
        rows, odd = table(5 + JUDGED, 11 + 2 * k), torch.arange(JUDGED) < 5
        rows.loc[:4, "c"] = 40.0
        score = novelty.score(rows)
        alone.append(bool(judge(novelty, score[5:], FDR).odd.any()))
        flagged = judge(novelty, score[:JUDGED], FDR).odd
        assert bool(flagged[odd].all())
        among.append(float((flagged & ~odd).sum()) / int(flagged.sum()))
    return np.array(alone), np.array(among)


def test_usual_rows_are_flagged_no_more_often_than_the_level_allows(proportions):
    """Without an odd row every discovery is false: that there is any has probability 0.2 at most (and of these sizes,
    whose p-values have steps of 1/120, not far below). False alarms 1e-5 on either side, the lower one for 0.08."""
    count = int(proportions[0].sum())
    assert binom.ppf(1e-5, REPEATS, 0.08) <= count <= binom.ppf(1.0 - 1e-5, REPEATS, FDR)


def test_among_odd_rows_the_share_of_usual_ones_is_as_promised(proportions):
    """The rule promises the level times the share of usual rows, 7 in 12, in the mean: 4.5 standard errors more are
    allowed (false alarm 3e-6)."""
    share = proportions[1]
    assert share.mean() <= FDR * 7 / 12 + 4.5 * share.std() / math.sqrt(REPEATS)


def test_q_values_are_those_of_scipy(model):
    novelty = calibrated(model, 3)
    found = find_anomalies(novelty, table(40, 4), fdr=0.5)
    assert found.qvalue.numpy() == pytest.approx(false_discovery_control(found.pvalue.numpy()), rel=1e-12)
    assert found.pvalue.tolist() == novelty.pvalue(table(40, 4)).tolist()
    assert judge(novelty, torch.empty(0, dtype=torch.float64), 0.1).odd.tolist() == []


def test_moments_from_other_rows_leave_all_held_out_ones_to_p_values(model):
    assert calibrated(model, 3).calibration_rows == CALIBRATION
    assert Novelty(samples=16).fit(model, table(CALIBRATION, 3)).calibration_rows == CALIBRATION - CALIBRATION // 2
    with pytest.raises(InputError, match="4 beside as many for moments"):
        Novelty(samples=16).fit(model, table(9, 3), moments=table(3, 1))


#: what is put into a usual row, and the columns of which it must name all, or just one
ODD = {
    "one far off": ({"c": 30.0}, {"c"}, "all"),
    "two that contradict each other": ({"a": 1.5, "b": -150.0}, {"a", "b"}, "one"),
    "two that are far off together": ({"a": 9.0, "b": 900.0}, {"a", "b"}, "all"),
    "two for reasons of their own": ({"b": 900.0, "c": 30.0}, {"b", "c"}, "all"),
}


@pytest.mark.parametrize(("values", "columns", "how"), ODD.values(), ids=ODD)
def test_the_columns_that_make_a_row_odd_are_named(values, columns, how, model):
    novelty, rows = calibrated(model, 3), table(4, 5)
    for name, value in values.items():
        rows.loc[2, name] = value
    found = find_anomalies(novelty, rows, fdr=0.2)
    assert bool(found.odd[2])
    (changes,) = odd_columns(novelty, rows[2:3], table(500, 0), level=0.2)
    named = {change.column for change in changes}
    assert named == columns if how == "all" else len(named) == 1 and named < columns
    usual = rows[2:3].copy()
    for change in changes:
        assert change.value == values[change.column]
        usual[change.column] = change.usual
    assert float(novelty.pvalue(usual)) > 0.2


def test_a_text_is_shown_as_its_level(model):
    """At level 1 nothing is usual, so that every column is named; the other values are a known row's."""
    rows, known = table(1, 5), table(500, 0)
    (changes,) = odd_columns(calibrated(model, 3), rows, known, level=1.0)
    found = {change.column: (change.value, change.usual) for change in changes}
    assert {name: value for name, (value, _) in found.items()} == rows.iloc[0].to_dict()
    assert [usual for _, (_, usual) in sorted(found.items())] in known[sorted(found)].to_numpy().tolist()


def test_a_usual_row_has_no_columns(model):
    novelty, rows = calibrated(model, 3), table(40, 5)
    usual = rows[(novelty.pvalue(rows) > 0.5).numpy()]
    assert set(odd_columns(novelty, usual[:3], table(500, 0))) == {()}


def test_an_odd_row_is_explained_the_same_beside_others(model):
    novelty, rows = calibrated(model, 3), table(3, 5)
    rows["c"] = [30.0, -30.0, 17.0]
    together = list(odd_columns(novelty, rows, table(500, 0)))
    assert together == [next(odd_columns(novelty, rows[i : i + 1], table(500, 0))) for i in range(3)]


def test_images_have_no_columns():
    x = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(seed()))
    config = gv.Config(steps=1, network=gv.networks.MLPConfig(width=8, blocks=1))
    novelty = Novelty(samples=16).fit(gv.fit(x, config=config), x[:20])
    with pytest.raises(InputError, match="Images have no columns"):
        odd_columns(novelty, x[:1], x)


@pytest.mark.parametrize(("n", "rows", "fdr", "together"), [(99, 10, 0.1, 1), (49, 10, 0.1, 2), (9, 10, 0.1, 10)])
def test_the_least_calibration_rows_are_just_enough(n, rows, fdr, together, model):
    """Of so many rows the extreme ones are flagged; of one fewer they would not be, and are refused."""
    novelty, x = calibrated(model, 3, rows=n), table(rows, 4)
    x.loc[: together - 1, "c"] = 50.0
    assert find_anomalies(novelty, x, fdr=fdr, together=together).odd[:together].all()
    fewer = calibrated(model, 3, rows=n - 1)
    with pytest.raises(InputError, match=f"takes {n} calibration rows; there are {n - 1}: give more of them"):
        find_anomalies(fewer, x, fdr=fdr, together=together)
    if together > 1:
        return
    assert not judge(fewer, fewer.score(x), fdr).odd.any()


def test_the_refusal_says_what_would_do():
    with pytest.raises(InputError) as refused:
        require_reach(24, 50, 0.1)
    assert "judge at most 2 rows, or raise together to 20" in str(refused.value)
    require_reach(24, 2, 0.1)
    require_reach(24, 50, 0.1, together=20)
    for rows, together in ((3, 1), (50, 19)):
        with pytest.raises(InputError, match="takes"):
            require_reach(24, rows, 0.1, together)
    with pytest.raises(InputError, match=r"takes 49 calibration rows; there are 3: give more of them$"):
        require_reach(3, 5, 0.1)


@pytest.mark.parametrize(("fdr", "together", "words"), [(0.0, 1, "between 0 and 1"), (1.0, 1, "between 0 and 1"),
                                                         (math.nan, 1, "between 0 and 1"), (0.1, 0, "1 to 5"),
                                                         (0.1, 6, "1 to 5")])  # fmt: skip
def test_levels_that_are_none(fdr, together, words):
    with pytest.raises(InputError, match=words):
        require_reach(1000, 5, fdr, together)
