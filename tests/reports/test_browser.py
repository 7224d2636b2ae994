"""Reports in a real browser: what decodes, what is asked of the network, what a narrow window does."""

import json
import re
import subprocess

import pytest
from PIL import Image

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # the browser's own errands stay at home too
]
# The report itself has no script and forbids all; its copy gets this one instead of the policy.
PROBE = """
<script>
const faults = [];
addEventListener('error', event => faults.push(String(event.message || event.target.src)), true);
addEventListener('load', () => {
  const folds = [...document.querySelectorAll('details')], opened = folds.filter(fold => fold.open);
  folds.forEach(fold => { fold.open = true; });
  const boxes = [...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect());
  document.body.dataset.probe = JSON.stringify({
    faults,
    opened: opened.map(fold => fold.querySelector('h2').textContent),
    title: document.title,
    headings: [...document.querySelectorAll('h2')].map(heading => heading.textContent),
    images: [...document.images].map(image => image.complete ? image.naturalWidth : 0),
    figures: boxes.map(box => [box.width, box.height]),
    scroll: document.documentElement.scrollWidth,
    window: innerWidth,
    requests: performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !/^data:/.test(name)),
  });
});
</script>
</body>"""


def browse(chromium, folder, page, *options):
    command = [chromium, *FLAGS, f"--user-data-dir={folder / 'profile'}", *options, page]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    return result


def probe(chromium, folder, text, width, fragment=""):
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    assert policy.search(text)
    page = folder / "probe.html"
    page.write_text(policy.sub("", text).replace("</body>", PROBE), encoding="utf-8")
    dom = browse(chromium, folder, page.as_uri() + fragment, f"--window-size={width},900", "--dump-dom").stdout
    found = re.search(r'data-probe="([^"]*)"', dom)
    assert found, dom[:500]
    return json.loads(found[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["table_run", "image_run"])
@pytest.mark.parametrize("width", [500, 1200])
def test_a_report_in_a_browser(kind, width, chromium, tmp_path, request):
    run = request.getfixturevalue(kind)
    found = probe(chromium, tmp_path, run.page, width)
    assert found["faults"] == []
    assert found["opened"] == []
    assert found["requests"] == []
    assert found["headings"][0] == "Result"
    assert found["headings"][-1] == "Data, settings, versions"
    assert found["title"] != "x"  # no column's name has run
    assert all(side > 0 for side in found["images"])
    assert len(found["images"]) == (18 if kind == "image_run" else 0)
    assert len(found["figures"]) == run.page.count("<svg ") >= 3
    assert all(wide > 250 and high > 50 for wide, high in found["figures"])
    assert found["scroll"] <= found["window"]  # what is too wide scrolls by itself


@pytest.mark.slow
def test_a_link_to_a_folded_section_opens_it(table_run, chromium, tmp_path):
    found = probe(chromium, tmp_path, table_run.page, 1200, "#tests-of-the-score")
    assert found["opened"] == ["Tests of the score"]


@pytest.mark.slow
def test_paper_shows_what_is_folded(table_run, chromium, tmp_path):
    def pages(text):
        page, paper = tmp_path / "paper.html", tmp_path / "paper.pdf"
        page.write_text(text, encoding="utf-8")
        browse(chromium, tmp_path, page.as_uri(), f"--print-to-pdf={paper}")
        return len(re.findall(rb"/Type /Page\b", paper.read_bytes()))

    folded = pages(table_run.page)
    assert folded == pages(table_run.page.replace("<details>", "<details open>"))
    assert folded > pages(table_run.page.replace("::details-content", "::none"))


@pytest.mark.slow
def test_the_report_itself_breaks_no_policy_and_shows_something(table_run, chromium, tmp_path):
    shot, page = tmp_path / "shot.png", (table_run.path / "report.html").as_uri()
    result = browse(chromium, tmp_path, page, "--window-size=1000,1400", f"--screenshot={shot}")
    assert "Content Security Policy" not in result.stderr
    assert "CONSOLE" not in result.stderr
    with Image.open(shot) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 200
