"""The command line of a benchmark, and its results as JSON: on which commit and machine, with which spread.

Times are recorded together with a calibration workload run on the same machine, so that two machines compare.
"""

__all__ = [
    "RESULTS",
    "Command",
    "append_line",
    "calibration_seconds",
    "read_lines",
    "record",
    "settings",
    "spread",
]

import argparse
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import girsanov

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")


class Command(argparse.ArgumentParser):
    """Options of a benchmark, whose help is its page; ``--quick`` is a check that it runs, and records nothing.

    Args:
        page: docstring of the script.
        quick: values that take the place of defaults with ``--quick``.
    """

    def __init__(self, page: str | None, **quick: object) -> None:
        super().__init__(description=page, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.quick = quick
        self.add_argument("--quick", action="store_true", help="small sizes: a check that it runs; records nothing")

    def parse_args(self, *given: Any, **options: Any) -> Any:
        """Parse; what is given by name keeps its value with ``--quick`` too."""
        found = super().parse_args(*given, **options)
        if not found.quick:
            return found
        self.set_defaults(**self.quick)
        return super().parse_args(*given, **options)


def settings(options: argparse.Namespace, *without: str) -> dict[str, object]:
    """What was asked for, as it is recorded: places and names aside."""
    return {name: value for name, value in vars(options).items() if name not in ("quick", *without)}


def record(name: str, rows: list[dict], **facts: object) -> Path:
    """Write ``results/name.json`` with the rows, the given facts, and where they come from.

    Args:
        name: file stem.
        rows: one flat dictionary per measurement.
        facts: settings and totals of the whole run.

    Returns:
        The path written.
    """
    RESULTS.mkdir(exist_ok=True)
    document = {
        "name": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "machine": _machine(),
        "versions": {"girsanov": girsanov.__version__, **{package: _version(package) for package in PACKAGES}},
        "calibration_seconds": calibration_seconds(),
        **facts,
        "rows": rows,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(_plain(document), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What a run that takes long has kept so far, one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Keep one more."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _plain(value: object) -> object:
    """JSON has no infinities: they become null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, extremes and the central 90 % of repeated measurements."""
    tensor = torch.tensor(list(values), dtype=torch.float64)
    low, middle, high = tensor.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
    return {
        "median": middle,
        "q05": low,
        "q95": high,
        "min": float(tensor.min()),
        "max": float(tensor.max()),
        "count": len(tensor),
    }


def calibration_seconds(repeats: int = 5) -> float:
    """Best time of a fixed workload of matrix products and elementwise functions, float64."""
    x = torch.linspace(-1.0, 1.0, 256 * 256, dtype=torch.float64).reshape(256, 256)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        y = x
        for _ in range(20):
            y = torch.tanh(y @ x)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _commit() -> str:
    """The commit's hash, with ``+changes`` where sources differ from it, or ``unknown`` outside a repository."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return f"{head}+changes" if _git("status", "--porcelain", "--", ":/src", ":/benchmarks/*.py") else head


def _machine() -> dict[str, object]:
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
