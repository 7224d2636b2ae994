"""The page of paper 1 says what the committed results say."""

import importlib.util
from pathlib import Path

import torch

import girsanov as gv
from tests.seeds import seeded

ROOT = Path(__file__).parents[1]


def summary():
    spec = importlib.util.spec_from_file_location("paper1_summary", ROOT / "benchmarks" / "paper1" / "summary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_numbers_are_those_of_the_results():
    page = (ROOT / "docs" / "paper1.md").read_text()
    assert summary().PAGE.block() in page, "run python benchmarks/paper1/summary.py --write"


def test_what_the_page_names_exists():
    page = (ROOT / "docs" / "paper1.md").read_text()
    for part in page.replace("`", " ").replace("(", " ").replace(")", " ").replace(",", " ").split():
        if part.startswith(("tests/", "benchmarks/")) and part.endswith(".py"):
            assert (ROOT / part).exists(), part
        if part.startswith(("figures/", "tutorials/", "../benchmarks/")):
            assert (ROOT / "docs" / part).exists(), part


def test_the_example_runs():
    page = (ROOT / "docs" / "paper1.md").read_text()
    code = page.split("```python\n")[1].split("```")[0].replace("steps=512", "steps=64")
    x = torch.randn(80, 2, generator=seeded(0), dtype=torch.float64)
    model = gv.fit(x, config=gv.Config(steps=2, network="mlp", width=8, blocks=1, gaussianise=False))
    found = {"gv": gv, "model": model, "x": x}
    exec(code, found)
    assert float((model.elbo(x).value - found["bound"]).abs().mean()) < 0.5  # 64 steps of an almost Gaussian model
