"""The site: `make docs` builds it from this folder, the docstrings and the command line's own help."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs" / "_extensions"), str(ROOT / "src")]

import girsanov  # noqa: E402

project = "girsanov"
version = release = girsanov.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "api",
    "commands",
    "outside",
    "percent",
]
exclude_patterns = ["conf.py", "_*"]
smartquotes_action = "D"  # dashes alone; names of options are code

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4  # as GitHub makes them, so that one link serves both

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Source"]
maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "girsanov"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {
    f"{mode}_css_variables": {
        f"color-{part}": colour for part in ("brand-primary", "brand-content", "api-name", "api-pre-name")
    }
    for mode, colour in {"light": "#1f5f8b", "dark": "#7fb8de"}.items()
}
