"""The page of paper 3 says what the committed results say, and what it names exists."""

import importlib.util
import re
from pathlib import Path

import torch

import girsanov as gv
from girsanov.bridges import AlternatingConfig, JointConfig, NetworkConfig
from tests.seeds import seeded

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper3.md").read_text(encoding="utf-8")


def test_the_numbers_are_those_of_the_results():
    spec = importlib.util.spec_from_file_location("paper3_summary", ROOT / "benchmarks" / "paper3" / "summary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.block() in PAGE, "run python benchmarks/paper3/summary.py --write"


def test_what_the_page_names_exists():
    for path in re.findall(r"(?:tests|benchmarks)/[\w/]+\.py", PAGE):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\((figures/[\w.-]+|\.\./benchmarks/[\w./-]+)\)", PAGE):
        assert (ROOT / "docs" / path).exists(), path


def test_the_example_runs():
    code = PAGE.split("```python\n")[1].split("```")[0]
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
    exec(code.replace("import girsanov as gv\n", ""), found)
    assert found["y"].shape == (100, 2)
