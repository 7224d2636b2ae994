"""The report of a bridge: what it shows of tables, images and known ends, without a fit."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from girsanov.datasets import Schema, array_raw
from girsanov.reports.bridge import BridgeContents, BridgeView, render_bridge
from girsanov.reports.bridge_figures import principal_axes
from tests.seeds import rng, seeded

NAMES = ("height", "<b>weight & $x$</b>", "count", "épaisseur")


def distances(energy):
    return {"energy": energy, "wasserstein": 10 * energy}


def metrics(**changes):
    """What ``metrics.json`` holds, with numbers that are easily found."""
    entry = {
        "rows": 40, **distances(0.1234), "floor": distances(-0.0321), "untouched": distances(2.3456), "change": 0.789,
    }  # fmt: skip
    history = [
        {"section": 0, "round": 1, "direction": way, "before": 0.91, "after": 0.82, "steps": 77, "seconds": 1.5}
        for way in ("backward", "forward")
    ]
    rounds = [{"round": k, **{way: distances(1.0 / (k + 1)) for way in ("forward", "backward")}} for k in (0, 1)]
    found = {
        "test": {"forward": {**entry, "path_kl": 4.56}, "backward": entry},
        "rounds": rounds, "history": history, "sigma": 0.5, "steps": 77,
        "rows": {"source": {"train": 200, "test": 40}, "target": {"train": 210, "test": 40}},
        "timing": {"training": 3.0}, "settings": {"seed": 0}, "versions": {"girsanov": "0.1.0"},
    }  # fmt: skip
    return found | changes


def contents(x, y, *, names=None, paths=True, **changes):
    raw = array_raw(torch.cat([x, y]).numpy(), names=names)
    schema = Schema.infer(raw)
    path = torch.stack([x + share * (y - x) for share in (0.0, 0.3, 1.0)])
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    views = (
        BridgeView("forward", x, y, y + 0.1, path if paths else None, times),
        BridgeView("backward", y, x, x + 0.1, path if paths else None, times),
    )
    return BridgeContents(("data/before.csv", "data/after <i>.csv"), metrics(**changes), schema, views)


def rows(d=4, n=40, shift=0.0, seed=0):
    return torch.randn(n, d, generator=seeded(seed), dtype=torch.float64) + shift


class Outline(HTMLParser):
    """Headings, cells and the kinds of elements of a page."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.cells, self.kinds, self.inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.kinds.append(tag)
        self.inside = tag

    def handle_data(self, data):
        if self.inside == "h2":
            self.headings.append(data)
        elif self.inside == "td":
            self.cells.append(data)
        self.inside = None


def test_a_report_of_tables():
    page = render_bridge(contents(rows(), rows(shift=2.0, seed=1), names=NAMES))
    outline = Outline(page)
    shown, folded = ["Result", "Both ends", "Paths", "All numbers"], ["What the numbers mean", "Training"]
    assert outline.headings == [*shown, *folded, "Data, settings, versions"]
    assert page.count("<details>") == len(outline.headings) - len(shown)
    assert outline.kinds.count("svg") == 8  # clouds, marginals of both directions, paths, errors: two of each
    assert outline.kinds.count("svg") == page.count('role="img"') == page.count("<desc id=")
    assert {"0.123", "−0.032", "2.346", "1.234", "4.560", "0.79", "0.9100", "0.8200"} <= set(outline.cells)
    assert "<b>weight" not in page
    assert "after &lt;i&gt;.csv" in page
    assert "no bound on a likelihood" in page
    assert "data/before.csv" in outline.cells
    assert "from data/before.csv to data/after" in page


def test_ids_of_drawings_are_unique():
    page = render_bridge(contents(rows(), rows(shift=2.0, seed=1), names=NAMES))
    found = re.findall(r'\bid="([^"]+)"', page)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("d", [1, 2])
def test_tables_of_few_columns_are_drawn_as_they_are(d):
    outline = Outline(render_bridge(contents(rows(d), rows(d, shift=2.0, seed=1))))
    assert outline.kinds.count("svg") == (5 if d == 1 else 6)  # clouds, paths (one axis needs no plane), errors


def test_a_report_of_images_shows_them():
    x, y = (torch.randint(0, 17, (40, 1, 4, 4), generator=seeded(k)).double() for k in (0, 1))
    page = render_bridge(contents(x, y))
    outline = Outline(page)
    assert outline.kinds.count("img") == 2 * 3 + 2  # before, after and truth of both directions; a strip of each
    assert "right to left" in page
    assert "the spread of the pixels" in page


def test_without_data_a_section_says_why():
    full = contents(rows(), rows(shift=2.0, seed=1), names=NAMES)
    page = render_bridge(BridgeContents(full.names, full.metrics, full.schema, missing="gone: a.csv"))
    assert "gone: a.csv" in page
    assert Outline(page).kinds.count("svg") == 2


def test_a_known_end_has_a_bound_and_its_training():
    history = [
        {"stage": "joint", "step": s, "elbo": -3.0 + s, "prior": -1.0, "prior_lower": 0.1, "reference": 2.0}
        for s in (0, 1)
    ]
    elbo = {"nats": -2.345, "bits_per_dim": None, "rows_stderr": 0.05, "kind": "lower_bound"}
    test = metrics()["test"] | {"elbo": elbo}
    test["backward"] = {"rows": 40, **distances(0.1), "floor": distances(0.0)}
    full = contents(rows(), rows(seed=1), names=NAMES, test=test, history=history, rounds=[], sigma=1.0)
    views = (full.views[0], BridgeView("backward", None, full.views[1].truth, full.views[1].moved, None))
    page = render_bridge(BridgeContents(("a.csv", "normal"), full.metrics, full.schema, views))
    assert "−2.345 ± 0.050 nats per row" in page
    assert "lower bound" in page
    assert "prior loss" in page
    assert "no bound on a likelihood" not in page
    assert "strays the least" not in page


def test_the_first_box_says_how_far_rows_have_come():
    page = render_bridge(contents(rows(), rows(shift=2.0, seed=1), names=NAMES))
    box = page.split('class="box"')[1].split("</section>")[0]
    closed = (2.3456 - 0.1234) / (2.3456 + 0.0321)
    assert f"From before.csv to after &lt;i&gt;.csv: {100 * closed:.2g} % of the distance closed" in box
    assert "confirmed 2 of 2 corrections" in box
    assert "between 40 held-out rows" in box
    assert "<h3>What to try next</h3>" in box


def test_training_that_changed_nothing_is_not_drawn():
    still = [
        {"section": 0, "round": 1, "direction": way, "before": 0.9, "after": 0.9, "steps": 7, "seconds": 1.0}
        for way in ("backward", "forward")
    ]
    full = contents(rows(), rows(shift=2.0, seed=1), names=NAMES, history=still)
    page = render_bridge(full)
    assert "Held-out paths confirmed no correction" in page
    assert Outline(page).kinds.count("svg") == 6
    assert "0.9000" in page


def test_principal_axes_see_the_direction_between_the_ends():
    generator = rng(0)
    first = generator.normal(size=(200, 5))
    second = first + 10.0 * np.eye(5)[2]
    second[:, 3] += 10.0  # two columns that move together carry the first component
    centre, axes, _ = principal_axes([first, second], tuple("abcde"))
    assert abs(axes[:, 0]).argsort()[-2:].tolist() in ([2, 3], [3, 2])
    gap = (((second - centre) @ axes).mean(0) - ((first - centre) @ axes).mean(0))[0]
    assert abs(gap) > 2.0
