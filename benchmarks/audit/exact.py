"""Estimators that the field reports, held to log p with the exact score: bias, noise, cost and what a row depends on.

Five laws, in 1 to 64 dimensions, each with its own score, so that bound, ODE and log p are one number.
Every contender runs at the settings that it is known by (`benchmarks/audit/_contenders.py`), in double precision.

    OMP_NUM_THREADS=1 python -m benchmarks.audit.exact --site FOLDER --lines LINES
"""

__all__: list[str] = []

import torch

from benchmarks._record import Command, record, settings
from benchmarks.audit._contenders import CONTENDERS
from benchmarks.audit._measure import add_options, rows_of
from benchmarks.audit._problem import exact_problem
from tests.laws import HARD, mixture_case, note_mixture_2d

LAWS = {
    "mixture, d = 2": note_mixture_2d,
    "mixture, d = 16": lambda: mixture_case((16,)),
    "mixture, d = 64": HARD["scales, d = 64"][0],
    "spike and slab, d = 1": HARD["spike and slab"][0],
    "ring, d = 2": HARD["ring"][0],
}


def main() -> None:
    """Measure, print and record."""
    parser = Command(__doc__, laws=["mixture, d = 2"])
    add_options(parser)
    parser.add_argument("--laws", nargs="*", default=list(LAWS), help="names of laws")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rows: list[dict[str, object]] = []
    for law in options.laws:
        case = LAWS[law]()
        x = case.rows(options.rows, seed=1).flatten(1)
        rows += rows_of(*exact_problem(law, case, x), x, options)
    if not options.quick:
        about = {c.name: {"source": c.source, "settings": c.settings} for c in CONTENDERS}
        record("audit-exact", rows, about=about, **settings(options, "lines", "site", "contenders", "rows"))


if __name__ == "__main__":
    main()
