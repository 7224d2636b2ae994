"""Whether a learned noise schedule pays on images: the whole command on MNIST, five minutes, with and without one.

A learned schedule does not change the bound of a given network, but where in log-SNR it is trained, and how much the
bound's estimate varies (Kingma et al., 2021, arXiv:2107.00630). The command is that of `benchmarks.images.mnist`, whose
run is taken where it is at hand.

    python -m benchmarks.images.schedule FOLDER --out RUNS
"""

__all__: list[str] = []

from pathlib import Path

from benchmarks._record import Command, record, settings
from benchmarks.images._command import fitted, kept

NAMES = {"vp": "mnist-{minutes:g}", "learned": "mnist-learned-{minutes:g}"}


def row(options, process):
    """The command under one process."""
    asked = [] if process == "vp" else ["--process", process]
    asked += [] if options.limit is None else ["--limit", str(options.limit)]
    out = options.out / NAMES[process].format(minutes=options.minutes)
    return fitted(options.data, out, *asked, seconds=60.0 * options.minutes, threads=options.threads)


def main():
    """Both rows, unless they are kept."""
    parser = Command(__doc__, minutes=0.5, limit=300)
    parser.add_argument("data", help="folder of MNIST's idx files")
    parser.add_argument("--out", type=Path, default=Path("runs") / "images", help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="images, in place of all")
    options = parser.parse_args()
    lines, rows = options.out / ("schedule-quick.jsonl" if options.quick else "schedule.jsonl"), []
    for process in NAMES:
        rows.append(kept(lines, process, lambda process=process: row(options, process)))
        print(rows[-1], flush=True)
    if not options.quick:
        record("images-schedule", rows, **settings(options, "data", "out"))


if __name__ == "__main__":
    main()
