"""What a bug report needs to say about a machine: versions, processor, threads. Loads none of what it names."""

__all__ = ["PACKAGES", "versions"]

import os
import platform
from importlib import metadata

from girsanov import __version__

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
    found["processors"] = str(os.cpu_count())
    return found
