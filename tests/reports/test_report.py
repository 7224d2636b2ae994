import dataclasses
import io
import math
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from jinja2 import UndefinedError
from PIL import Image

from girsanov.cli.output import print_result
from girsanov.datasets import from_array
from girsanov.evaluation import Curve
from girsanov.peers import LEVEL_PEERS, PEERS
from girsanov.reports import figures, result_tables, samples_png
from girsanov.reports.findings import Evidence, advice, findings, headline
from girsanov.reports.numbers import plus_minus, sensible
from girsanov.reports.page import TEMPLATES, Section, anchor, render
from girsanov.reports.png import image_grid, png_bytes
from girsanov.runs import write_report
from tests.seeds import rng

SHOWN = ["Result", "Samples", "Most and least likely rows", "Columns", "Paired differences", "All numbers"]
FOLDED = [
    "What the number means",
    "Values of single rows",
    "Learning",
    "Where in log-SNR the model learned",
    "Tests of the score",
    "Certificate of DDPM training",
    "Data, settings, versions",
]
VOID = {"meta", "link", "img", "br", "path", "use", "rect"}


class Reader(HTMLParser):
    """Headings, addresses and elements of a page; notices elements that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.addresses, self.names, self.faults = [], [], [], set(), []
        self.ids, self.references, self.folded, self.links, self.drawings = [], set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        found = dict(attributes)
        if tag == "a":
            self.links.append(found["href"])
        if tag == "svg":
            self.drawings.append(found)
        for key, value in attributes:
            if key in ("src", "href", "xlink:href", "data", "action", "srcset"):
                self.addresses.append(value)
            if key == "id":
                self.ids.append(value)
            self.references |= set(re.findall(r"url\(#([^)]+)\)", value or ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
            self.folded += [data] if "details" in self.open else []


@pytest.mark.parametrize("kind", ["table_run", "image_run"])
def test_a_report_is_one_well_formed_file(kind, request):
    reader = Reader(request.getfixturevalue(kind).page)
    assert reader.faults == []
    assert reader.open == []
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert {"script", "iframe", "object", "embed", "form"} & reader.names == set()
    # figures share the page: an id that stands twice would give one the other's clip path
    assert len(set(reader.ids)) == len(reader.ids)
    targets = reader.references | {address[1:] for address in reader.addresses if address.startswith("#")}
    assert targets <= set(reader.ids)


def test_sections_of_a_table(table_run):
    reader = Reader(table_run.page)
    assert reader.headings == SHOWN + FOLDED
    assert reader.folded == FOLDED
    assert "<details open" not in table_run.page


@pytest.mark.parametrize("kind", ["table_run", "image_run"])
def test_the_contents_list_leads_to_every_section(kind, request):
    reader = Reader(request.getfixturevalue(kind).page)
    assert reader.links == [f"#{anchor(heading)}" for heading in reader.headings]
    assert {link[1:] for link in reader.links} <= set(reader.ids)


@pytest.mark.parametrize("kind", ["table_run", "image_run"])
def test_every_drawing_says_what_it_shows(kind, request):
    page = request.getfixturevalue(kind).page
    reader = Reader(page)
    assert reader.drawings
    for drawing in reader.drawings:
        assert drawing["role"] == "img"
        title, told = drawing["aria-labelledby"].split()
        assert re.search(rf'<title id="{re.escape(title)}">\S[^<]+</title>', page)
        assert re.search(rf'<desc id="{re.escape(told)}">\S[^<]+</desc>', page)
    assert {name for drawing in reader.drawings for name in drawing["aria-labelledby"].split()} <= set(reader.ids)


def test_sections_of_images(image_run):
    assert Reader(image_run.page).headings == [name for name in SHOWN if name != "Columns"] + FOLDED
    assert image_run.page.count("<img ") == 2 + 16


def test_what_users_write_is_text(table_run):
    assert "<script>document" not in table_run.page
    assert "&lt;script&gt;document" in table_run.page
    assert "data &lt;i&gt;.csv" in table_run.page


def test_the_numbers_are_those_of_the_metrics(table_run):
    elbo = table_run.metrics["test"]["elbo"]
    shown = sensible(elbo["nats"], elbo["rows_stderr"])
    assert f"<b>{plus_minus(elbo['nats'], elbo['rows_stderr'])} nats per row</b>" in table_run.page
    assert f"<td>{sensible(elbo['nats'], math.hypot(elbo['stderr'], elbo['rows_stderr']))}</td>" in table_run.page
    assert f"{shown} nats per row is a lower bound on the log-density" in table_run.page
    assert "the true lead is at least" in table_run.page  # the peers of continuous data are exact


@pytest.mark.parametrize("kind", ["table_run", "image_run"])
def test_the_first_box_says_what_is_found_and_what_to_try(kind, request):
    run = request.getfixturevalue(kind)
    box = unescape(run.page.split('class="box"')[1].split("</section>")[0])
    found = findings(Evidence(run.metrics))  # the log and the tests of the score add more
    assert found
    for finding in found:
        assert f'<li class="{finding.verdict}">{finding.text}</li>' in box or "Training" in finding.text
    assert f'<p class="headline">{headline(found)}</p>' in box
    plain = re.sub("</?code>", "`", box)
    assert all(sentence in plain for sentence in advice(found))
    assert "The score test" in box


def test_a_chart_of_nothing_is_left_out():
    still = [{"step": step, "loss": 1.0, "validation": -3.0, "validation_stderr": 0.1} for step in (0, 1, 2)]
    assert figures.learning(still, 0) == []
    assert figures.learning([], None) == []
    assert "no curve" in render("learning", charts=[], lattice=False)
    moved = [line | {"validation": -3.0 + line["step"]} for line in still]
    assert len(figures.learning(moved, 2)) == 2
    assert "Gaussian reference" in figures.learning(moved, 2)[0]
    assert "Gaussian reference" not in figures.learning(moved, 2, reference=False)[0]
    levels = torch.linspace(-2.0, 2.0, 5)
    level = Curve(levels, levels, levels.abs(), 0.0 * levels, levels.abs(), levels, levels)
    assert figures.curve(level) == []
    assert len(figures.curve(dataclasses.replace(level, gain=levels.exp() * 9.0))) == 2


def test_kinds_and_models_never_share_a_table(table_run, image_run):
    for run in (table_run, image_run):
        entries = {**run.metrics["test"], **run.metrics["peers"]}
        for part in result_tables(run.metrics):
            assert len({row[1] for row in part.rows}) == 1
            assert not {"girsanov, SDE", "girsanov, ODE"} <= {row[0] for row in part.rows}
            assert all(len(row) == len(part.header) for row in part.rows)
        count = len(entries) + len(run.metrics["codecs"])
        assert sum(len(part.rows) for part in result_tables(run.metrics)) == count
    assert len(result_tables(table_run.metrics)) == 3  # the bound, exact peers, the ODE


def test_images_stand_beside_tables_of_levels_and_codecs(image_run, table_run, capsys):
    metrics = image_run.metrics
    assert list(metrics["peers"]) == [*LEVEL_PEERS, *PEERS]
    assert {entry["kind"] for name, entry in metrics["peers"].items() if name in LEVEL_PEERS} == {"exact"}
    assert metrics["codecs"]["png"]["rows"] == metrics["test"]["elbo"]["rows"]
    assert table_run.metrics["codecs"] == {}
    print_result(metrics)
    printed = capsys.readouterr().out
    for shown in ("PNG, lossless", "per-pixel histogram", "neighbour table", findings(Evidence(metrics))[0].text):
        assert shown in printed
        assert shown in unescape(image_run.page)


def test_figures_do_not_change_matplotlib(table_run):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.intervals({})
    assert dict(matplotlib.rcParams) == before


def test_the_same_run_gives_the_same_page(table_run):
    before = table_run.page
    write_report(table_run.path)
    assert table_run.page == before


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_png_is_read_back(shape):
    pixels = rng(0).integers(0, 256, shape).astype(np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(Image.fromarray(pixels))))), pixels)


def test_grid_places_every_image():
    images = np.arange(5.0)[:, None, None, None] * np.ones((5, 1, 60, 60))
    grid = np.asarray(image_grid(images, low=0.0, high=4.0, columns=2))
    assert grid.shape[0] > 180
    corners = [grid[row * (grid.shape[0] + 8) // 3 + 5, column * 70 + 5, 0] for row in range(3) for column in range(2)]
    assert corners[:5] == [0, 64, 128, 191, 255]
    assert grid[-1, -1, 3] == 0  # nothing where the sixth would be


def test_samples_png_of_tables_and_odd_shapes():
    rows = torch.randn(30, 4, dtype=torch.float64)
    assert samples_png(rows, from_array(rows).schema)[1:4] == b"PNG"
    volumes = torch.randn(4, 1, 2, 2, 2, dtype=torch.float64)
    assert samples_png(volumes, from_array(volumes).schema) is None


def test_what_is_shown_is_escaped():
    table = TEMPLATES.get_template("parts.html").module.table(("<c>",), [("<d>",)], caption="<e>")
    text = render("page", title="<t>", subtitle="&", sections=[Section("<h>", table)])
    assert "&lt;e&gt;" in text
    assert not set("tcdeh") & set(re.findall(r"<([tcdeh])>", text))


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="'text' is undefined"):
        render("sentence")
