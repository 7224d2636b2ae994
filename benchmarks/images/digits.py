"""Digits at 8 x 8: the demo from its first second to its report, with peers, codecs, memory and the training step.

The row is the command of `make demo`, measured around the process; its held-out images are one seeded split
(benchmarks/digits.py has five).

    python -m benchmarks.images.digits --out RUNS
"""

__all__: list[str] = []

from pathlib import Path

from benchmarks._record import Command, record, settings
from benchmarks.images._command import fitted, kept, step_seconds


def row(options):
    """The command and its step."""
    out = options.out / "digits"
    found = fitted("digits", out, seconds=options.seconds, threads=options.threads)
    return {**found, **step_seconds(out, rounds=options.rounds, threads=options.threads)}


def main():
    """One command, one row."""
    parser = Command(__doc__, seconds=12.0, rounds=1)
    parser.add_argument("--out", type=Path, default=Path("runs") / "images", help="folder of the run")
    parser.add_argument("--seconds", type=float, default=280.0, help="of the command; those of `make demo`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="in which the step is timed")
    options = parser.parse_args()
    lines = options.out / ("digits-quick.jsonl" if options.quick else "digits.jsonl")
    found = kept(lines, "digits", lambda: row(options))
    print(found)
    if not options.quick:
        record("images-digits", [found], **settings(options, "out"))


if __name__ == "__main__":
    main()
