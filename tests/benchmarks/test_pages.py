"""The README, the pages of the papers and the index say what the committed results say, and what they name exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import girsanov as gv
from girsanov.bridges import AlternatingConfig, JointConfig, NetworkConfig
from tests.seeds import seeded

ROOT = Path(__file__).parents[2]
#: a page -> the module that writes its figures
PAGES = {
    "README.md": "benchmarks.summary",
    "benchmarks/README.md": "benchmarks.index",
    "docs/audit.md": "benchmarks.audit.summary",
    **{f"docs/paper{k}.md": f"benchmarks.paper{k}.summary" for k in (1, 2, 3, 4)},
}
each_page = pytest.mark.parametrize("page", PAGES)


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@each_page
def test_the_numbers_are_those_of_the_results(page):
    command = [sys.executable, "-m", PAGES[page]]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    assert printed in text(page), f"run python -m {PAGES[page]} --write"
    if page == "docs/paper2.md":  # which is written whole
        assert printed == text(page).strip()


@each_page
def test_what_a_page_names_exists(page):
    for module in re.findall(r"python -m (benchmarks[.\w]*)", text(page)):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module
    for path in re.findall(r"(?:tests|benchmarks)/[\w/]+\.py", text(page)):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(((?!https?:)[^)#]+)", text(page)):
        assert ((ROOT / page).parent / path).exists(), path


@pytest.mark.parametrize("name", ["certificate", "classifier", "novelty"])
def test_figures_are_small(name):
    path = ROOT / "docs" / "figures" / f"paper2-{name}.png"
    assert f"figures/{path.name}" in text("docs/paper2.md")
    assert 0 < path.stat().st_size < 150 * 1024


def example(page: str) -> str:
    return text(page).split("```python\n")[1].split("```")[0]


def test_the_example_of_paper_1_runs():
    code = example("docs/paper1.md").replace("steps=512", "steps=64")
    x = torch.randn(80, 2, generator=seeded(0), dtype=torch.float64)
    model = gv.fit(x, config=gv.Config(steps=2, network=gv.networks.MLPConfig(width=8, blocks=1), gaussianise=False))
    found = {"gv": gv, "model": model, "x": x}
    exec(code, found)
    assert float((model.elbo(x).value - found["bound"]).abs().mean()) < 0.5  # 64 steps of an almost Gaussian model


def test_the_example_of_paper_3_runs():
    small = {
        "steps": 4,
        "network": NetworkConfig(width=8, blocks=1),
        "alternating": AlternatingConfig(rounds=1, steps=2, paths=50),
        "joint": JointConfig(steps=2, batch_size=16),
    }
    original = gv.SchrodingerBridge

    class Namespace:
        def __getattr__(self, name):
            return (lambda *a, **k: original(*a, **k, **small)) if name == "SchrodingerBridge" else getattr(gv, name)

    x = torch.randn(2, 100, 2, generator=seeded(0))
    found = {"gv": Namespace(), "x0": x[0], "x1": x[1]}
    exec(example("docs/paper3.md").replace("import girsanov as gv\n", ""), found)
    assert found["y"].shape == (100, 2)
