"""Pieces of a self-contained HTML page: every text is escaped here, nothing is loaded from anywhere."""

__all__ = ["bullets", "details", "figure", "headline", "minus", "page", "paragraph", "picture", "section", "table"]

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6472; --line: #d9dde3; --paper: #fdfdfc; --tint: #f2f4f7;
  --ours: #1f6fb2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ec; --soft: #a0a8b4; --line: #363c46; --paper: #15181d; --tint: #1f242b; --ours: #6db1ea; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header { border-bottom: 2px solid var(--ours); margin-bottom: 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .4rem; font-weight: 600; }
p { margin: .5rem 0 .8rem; max-width: 46rem; overflow-wrap: anywhere; }
header p { color: var(--soft); }
.headline { font-size: 1.25rem; }
.headline b { color: var(--ours); white-space: nowrap; }
.wide { overflow-x: auto; margin: .4rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: .2rem; }
table.text td, table.text th { text-align: left; }
table.text td:last-child { white-space: normal; overflow-wrap: anywhere; min-width: 14rem; }
tr.ours td { font-weight: 600; color: var(--ours); }
figure { margin: .8rem 0 1rem; overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 36rem; height: auto; font-family: inherit; }
figure img { max-width: 100%; height: auto; image-rendering: pixelated; display: block; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .4rem; max-width: 46rem; }
.beside { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; }
.beside figure { flex: 0 1 26rem; min-width: min(15rem, 100%); }
.beside img { width: 100%; }
.gallery { display: flex; flex-wrap: wrap; gap: .8rem; margin: .3rem 0 1rem; }
.gallery figure { margin: 0; width: 5.6rem; }
.gallery img { width: 100%; }
.gallery figcaption { font-size: .76rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
ul { padding-left: 1.2rem; }
@media print { details { display: block; } body { max-width: none; } }
"""
#: nothing may be loaded and nothing may run, whatever a column is called
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """The whole page.

    Args:
        title: plain text.
        subtitle: plain text.
        sections: HTML that the other functions of this module made.

    Example:
        >>> "<h1>a &lt; b</h1>" in page("a < b", "", [])
        True
    """
    body = "\n".join(sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what is under it."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def minus(text: str) -> str:
    """A formatted number with a real minus sign.

    Example:
        >>> minus(f"{-1.5:.2f}")
        '−1.50'
    """
    return text.replace("-", "−")


def headline(number: str, rest: str) -> str:
    """The one number that a reader should leave with."""
    return f'<p class="headline"><b>{escape(number)}</b> {escape(rest)}</p>'


def paragraph(text: str) -> str:
    """Plain text."""
    return f"<p>{escape(text)}</p>"


def bullets(title: str, items: Iterable[str]) -> str:
    """A list of sentences under a heading."""
    return f"<h3>{escape(title)}</h3>\n<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", ours: str = "\0", text: bool = False
) -> str:
    """A table that scrolls by itself where it is too wide.

    Args:
        header: names of the columns.
        rows: cells, plain text.
        caption: a heading above it.
        ours: rows whose first cell starts with this are emphasised.
        text: left-aligned cells that wrap.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = []
    for row in rows:
        mark = ' class="ours"' if row[0].startswith(ours) else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    above = f"<h3>{escape(caption)}</h3>\n" if caption else ""
    kind = ' class="text"' if text else ""
    body = "<thead><tr>" + head + "</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody>"
    return f'{above}<div class="wide"><table{kind}>\n{body}</table></div>'


def figure(svg: str, caption: str) -> str:
    """A drawing that :mod:`girsanov.reports.figures` made."""
    return f"<figure>\n{svg}\n<figcaption>{escape(caption)}</figcaption></figure>"


def picture(uri: str, caption: str, description: str) -> str:
    """Pixels as a ``data:`` address."""
    caption = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{escape(uri)}" alt="{escape(description)}">{caption}</figure>'


def details(title: str, *parts: str) -> str:
    """What opens on demand."""
    return f"<details><summary>{escape(title)}</summary>\n" + "\n".join(parts) + "\n</details>"
