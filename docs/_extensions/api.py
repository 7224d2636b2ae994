"""Pages of the public names, from the package's own lists: a new name has its place without a line here.

Every object has one: what ``gv.`` leads to directly stands there under that name, all else under its part's.
"""

import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from outside import write
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

import girsanov

FRONT = "girsanov"


@cache
def public_names() -> dict[str, list[str]]:
    """Page -> the full names that it documents; the first page is that of names from no part."""
    places = {name: _part(girsanov._MODULES[name]) for name in girsanov.__all__}
    pages = {part: [f"{FRONT}.{name}" for name, at in places.items() if at == part] for part in _pages()}
    taken = {id(getattr(girsanov, name)) for name in girsanov.__all__}
    for part in girsanov._PARTS:
        module = import_module(f"{FRONT}.{part}")
        own = {name: getattr(module, name) for name in module.__all__}
        pages[part] += [f"{FRONT}.{part}.{name}" for name, value in own.items() if id(value) not in taken]
        taken |= {id(value) for value in own.values() if _is_object(value)}
    return pages


def _pages() -> tuple[str, ...]:
    return (FRONT, *girsanov._PARTS)


def _part(module: str) -> str:
    name = f"{module}.".split(".")[1]
    return name if name in girsanov._PARTS else FRONT


def _is_object(value: Any) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value)


def page(part: str, names: list[str]) -> str:
    """A page in reStructuredText: the part's docstring, a table of its names, and each of them in full."""
    module = FRONT if part == FRONT else f"{FRONT}.{part}"
    title = "Python" if part == FRONT else f"gv.{part}"
    lines = [
        f"{title}\n{'=' * len(title)}\n",
        f".. automodule:: {module}\n   :no-members:\n",
        ".. currentmodule:: None\n",
    ]
    lines += _front() if part == FRONT else _summary(names)
    return "\n".join([*lines, *(line for name in names for line in _entry(name))]) + "\n"


def _front() -> Iterator[str]:
    """What a person types daily, part by part, and the list of the parts' pages."""
    for part, names in public_names().items():
        short = [name for name in names if name.count(".") == 1]
        if short:
            heading = "Results, samplers and faces" if part == FRONT else f":doc:`gv.{part} <{part}>`"
            yield from (f".. rubric:: {heading}", "", *_summary(short))
    yield from (".. toctree::", "   :hidden:", "", *(f"   {part}" for part in girsanov._PARTS), "")


def _summary(names: list[str]) -> Iterator[str]:
    """A table of names, each with the first line of its docstring."""
    yield from (".. list-table::", "   :class: names", "")
    for name in names:
        yield from (f"   * - :py:obj:`{name.rpartition('.')[2]} <{name}>`", f"     - {first_line(name)}")
    yield ""


def first_line(name: str) -> str:
    """What a docstring, or the comment of a value, begins with."""
    value = value_of(name)
    return (inspect.getdoc(value) or "").partition("\n")[0] if _is_object(value) else " ".join(_comment(name))


def value_of(name: str) -> Any:
    """The object of a full name."""
    module, _, last = name.rpartition(".")
    return getattr(import_module(module), last)


def _entry(name: str) -> Iterator[str]:
    value = value_of(name)
    if _is_object(value):
        kind = "function" if inspect.isroutine(value) else "class"
        kind = "exception" if inspect.isclass(value) and issubclass(value, BaseException) else kind
        yield from (f".. auto{kind}:: {name}", "")
    else:
        yield from (f".. py:data:: {name}", "", *(f"   {line}" for line in _comment(name)), "")


def _comment(name: str) -> list[str]:
    """What the ``#:`` comment says of a value, in whichever module of its part defines it."""
    module, _, last = name.rpartition(".")
    folder = Path(import_module(module).__file__ or "").parent
    for path in sorted(folder.glob("*.py")):
        inner = module if path.stem == "__init__" or folder.name == FRONT else f"{module}.{path.stem}"
        found = ModuleAnalyzer.for_module(inner).find_attr_docs()
        if ("", last) in found:
            return found["", last]
    return []


def _resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """A reference to a public name from where it is defined or is imported: to the one place where it stands."""
    if node.get("refdomain") != "py":
        return None
    names = sorted((name for found in public_names().values() for name in found), key=lambda name: -name.count("."))
    stands = {name.rpartition(".")[2]: name for name in names}  # of two the shorter
    words, python = node["reftarget"].split("."), env.get_domain("py")
    full = [".".join([stands[word], *words[i + 1 :]]) for i, word in enumerate(words) if word in stands]
    for name in (name for name in full if name in python.objects):
        place = python.objects[name]
        return make_refnode(app.builder, node["refdoc"], place.docname, place.node_id, content, name)
    return None


def _write_pages(app: Any) -> None:
    folder = Path(app.srcdir) / "reference" / "api"
    pages = {folder / f"{part}.rst": page(part, names) for part, names in public_names().items()}
    for old in set(folder.glob("*.rst")) - set(pages):
        old.unlink()
    for path, text in pages.items():
        write(path, text)


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before the folder is read."""
    app.connect("builder-inited", _write_pages)
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True}
