import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from jinja2 import UndefinedError
from PIL import Image

from girsanov.cli.output import print_result
from girsanov.datasets import from_array
from girsanov.peers import LEVEL_PEERS, PEERS
from girsanov.reports import as_lossless_code, figures, result_tables, samples_png
from girsanov.reports.page import TEMPLATES, render
from girsanov.reports.png import image_grid, png_bytes
from girsanov.runs import write_report
from tests.seeds import rng

HEADINGS = [
    "Result",
    "What the number means",
    "Paired differences",
    "Learning",
    "Where in log-SNR the model learned",
    "Tests of the score",
    "Certificate of DDPM training",
    "Samples",
    "Most and least likely rows",
    "Values of single rows",
    "Data, settings, versions",
]
VOID = {"meta", "link", "img", "br", "path", "use", "rect"}


class Reader(HTMLParser):
    """Headings, addresses and elements of a page; notices elements that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.addresses, self.names, self.faults = [], [], [], set(), []
        self.ids, self.references = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
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
    assert Reader(table_run.page).headings == HEADINGS


def test_sections_of_images(image_run):
    assert Reader(image_run.page).headings == HEADINGS
    assert image_run.page.count("<img ") == 2 + 16


def test_what_users_write_is_text(table_run):
    assert "<script>document" not in table_run.page
    assert "&lt;script&gt;document" in table_run.page
    assert "data &lt;i&gt;.csv" in table_run.page


def test_the_numbers_are_those_of_the_metrics(table_run):
    elbo = table_run.metrics["test"]["elbo"]
    shown = f"{elbo['nats']:,.3f}".replace("-", "−")
    assert f"<td>{shown}</td>" in table_run.page
    assert f"{shown} nats per row is a lower bound on the log-density" in table_run.page
    assert "the true lead is at least" in table_run.page  # the peers of continuous data are exact


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
    for shown in ("PNG, lossless", "per-pixel histogram", "neighbour table", as_lossless_code(metrics)):
        assert shown in printed
        assert shown in image_run.page
    assert as_lossless_code(table_run.metrics) == ""


def test_a_lossless_code_is_compared_both_ways():
    entry = {"bits_per_dim": 1.43, "nats": -777.0, "rows_stderr": 6.5, "kind": "lower_bound", "rows": 1500}

    def said(png, webp):
        return as_lossless_code({"test": {"elbo": entry}, "codecs": {"png": one(png), "webp": one(webp)}})

    def one(bits):
        return {"bits_per_dim": bits, "rows": 1500}

    first = "As a lossless code these images take 1.43 ± 0.012 bits per dimension: "
    assert said(1.716, 1.473).startswith(first + "1.2 times smaller than PNG, 1.03 times smaller than WebP. ")
    assert said(1.3, 1.4301).startswith(first + "1.1 times larger than PNG, as large as WebP. ")
    assert "(1,500 held-out images, ± their standard error; at most so many bits, with an ideal" in said(1.0, 1.0)
    entry = {**entry, "kind": "exact", "rows_stderr": None}
    assert "(1,500 held-out images; with an ideal entropy coder; " in said(1.0, 1.0)


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
    text = render("page", title="<t>", subtitle="&", sections=[("<h>", table)])
    assert "&lt;e&gt;" in text
    assert not set("tcdeh") & set(re.findall(r"<([tcdeh])>", text))


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="'text' is undefined"):
        render("sentence")
