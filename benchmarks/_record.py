"""Results of benchmarks as JSON: what was measured, on which commit and machine, with which spread.

Times are recorded together with a calibration workload run on the same machine, so that two machines compare.
"""

__all__ = ["calibration_seconds", "record", "spread"]

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

import torch

import girsanov

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")


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
