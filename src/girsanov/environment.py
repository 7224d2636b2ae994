"""What a bug report needs to say about a machine: versions and processors. Loads none of what it names."""

__all__ = ["PACKAGES", "processors", "versions"]

import math
import os
import platform
from importlib import metadata
from pathlib import Path

from girsanov import __version__

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of processor time, and of each period

#: whose versions can change numbers or behaviour
PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "zuko",
    "safetensors",
    "typer",
    "rich",
    "matplotlib",
    "pyarrow",
    "pillow",
    "datasets",
    "diffusers",
)


def versions() -> dict[str, str]:
    """Names and versions, ``not installed`` where an optional package is missing.

    Example:
        >>> versions()["girsanov"]
        '0.1.0'
    """
    found = {"girsanov": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["platform"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    found["processors"] = str(processors())
    return found


def processors() -> int:
    """How many processors this process may use: fewer than there are in a container, or where it is tied to some.

    Example:
        >>> processors() >= 1
        True
    """
    tied = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return max(1, min(tied, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or "max": no limit
        return tied
