"""The same estimators with scores that are wrong on purpose: which of four numbers each one says, and how well.

Gaussian data in 16 dimensions and affine scores, so that log p of the data, the bound of the plug-in SDE, the
densities of the reverse SDE and of the ODE are four different numbers, all known (`benchmarks/audit/_problem.py`).

    OMP_NUM_THREADS=1 python -m benchmarks.audit.wrong --site FOLDER --lines LINES
"""

__all__: list[str] = []

from dataclasses import fields

import torch

from benchmarks._record import Command, record, settings
from benchmarks.audit._contenders import CONTENDERS
from benchmarks.audit._measure import add_options, rows_of
from benchmarks.audit._problem import WRONG, affine_problem
from tests.laws import gaussian_case


def main() -> None:
    """Measure, print and record."""
    parser = Command(__doc__, scores=["scaled by 1.1"])
    add_options(parser)
    parser.add_argument("--scores", nargs="*", default=list(WRONG), help="names of wrong scores")
    parser.set_defaults(evaluations=200_000, least=10, ours=40, ladder=False)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    case = gaussian_case((16,))
    x, rows, truths = case.rows(options.rows, seed=1), [], {}
    for name in options.scores:
        problem, truth = affine_problem(name, case, x)
        truths[name] = {f.name: float(getattr(truth, f.name).mean()) / problem.d for f in fields(truth)}
        print(name, truths[name], flush=True)
        rows += rows_of(problem, truth, x, options)
    if not options.quick:
        held = {c.name: c.truth for c in CONTENDERS}
        record(
            "audit-wrong", rows, truths=truths, held_to=held, **settings(options, "lines", "site", "contenders", "rows")
        )


if __name__ == "__main__":
    main()
