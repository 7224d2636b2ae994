"""Likelihoods you can trust, for diffusion models.

The names of the package stand in one list, ``__init__.pyi``, which type checkers and editors read as it is. Each is
imported from its module when it is first used, and so are the parts of the package (``gv.stein``, ``gv.processes``),
so that ``import girsanov`` and ``girsanov --help`` stay light: neither loads PyTorch.

Example:
    >>> import girsanov as gv
    >>> gv.InputError.__module__, gv.stein.__name__
    ('girsanov.types', 'girsanov.stein')
"""

import ast
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"


def _listed() -> dict[str, str]:
    """The module of every public name; that of a part of the package is the package itself."""
    tree = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


_MODULES = _listed()
_PARTS = tuple(name for name, module in _MODULES.items() if module == __name__)
__all__ = sorted(set(_MODULES) - set(_PARTS))  # pyright: ignore[reportUnsupportedDunderAll]  (the stub has it)


def __getattr__(name: str) -> object:
    """Import a public name from its module, or a part of the package, when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _PARTS:
        return import_module(f"{__name__}.{name}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})
