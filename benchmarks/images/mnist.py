"""MNIST at 28 x 28 with 256 levels: what the whole command reaches in 5, 20 and 100 minutes on two cores.

Each row is `girsanov fit FOLDER --time-budget S` with its defaults, from reading the files to the written report: wall
clock, memory, held-out bits per dimension with both standard errors, peers and codecs on the same images, the bits of
the untrained model and of the chosen one on validation images, and a training step beside the network alone. The
longest is stopped every `--piece` minutes and given again; its seconds are those of all these commands, and its peers
get together the quarter of the time that a command would give them. Rows are kept as they are finished.

    python -m benchmarks.images.mnist FOLDER --out RUNS
"""

__all__: list[str] = []

import shlex
from pathlib import Path

from benchmarks._record import Command, record, settings
from benchmarks.images._command import fitted, kept, step_seconds

PEERS = 0.25 / 5  # share of a command's time for each of five peers


def row(options, minutes):
    """The command of one duration, and its step."""
    out, seconds = options.out / f"mnist-{minutes:g}", 60.0 * minutes
    asked, piece = shlex.split(options.options), None
    if options.limit is not None:
        asked += ["--limit", str(options.limit)]
    if minutes > options.piece:
        asked, piece = [*asked, "--peer-seconds", f"{PEERS * seconds:.0f}"], 60.0 * options.piece
    found = fitted(options.data, out, *asked, seconds=seconds, threads=options.threads, piece=piece)
    return {"minutes": minutes, **found, **step_seconds(out, rounds=options.rounds, threads=options.threads)}


def main():
    """Every duration that is not kept yet; the record grows with each."""
    parser = Command(__doc__, minutes=[0.5], limit=300, rounds=1)
    parser.add_argument("data", help="folder of MNIST's idx files")
    parser.add_argument("--out", type=Path, default=Path("runs") / "images", help="folder of the runs")
    parser.add_argument("--minutes", type=float, nargs="*", default=[5.0, 20.0, 100.0])
    parser.add_argument("--piece", type=float, default=25.0, help="minutes after which a command is stopped")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="in which the step is timed")
    parser.add_argument("--limit", type=int, help="images, in place of all")
    parser.add_argument("--options", default="", help="further options of the command, as one text")
    options = parser.parse_args()
    lines, rows = options.out / ("mnist-quick.jsonl" if options.quick else "mnist.jsonl"), []
    for minutes in options.minutes:
        rows.append(kept(lines, f"{minutes:g} minutes", lambda minutes=minutes: row(options, minutes)))
        print(rows[-1], flush=True)
        if not options.quick:
            record("images-mnist", rows, **settings(options, "data", "out", "minutes"))


if __name__ == "__main__":
    main()
