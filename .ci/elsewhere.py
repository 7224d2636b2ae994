"""Run the tests under other seeds and other kernels, and print a table of what failed where.

    python .ci/elsewhere.py                          # 5 offsets x 3 kernels, logs in runs/elsewhere
    python .ci/elsewhere.py --offsets 1,2 --kernels compatible tests/stein

A combination whose log is whole is not run again, so a run that was stopped goes on where it was. Every process is
niced and has one thread; ``--jobs`` says how many tests run at once.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KERNELS = {
    "native": {},
    "avx2": {"MKL_CBWR": "AVX2"},
    "compatible": {
        "MKL_CBWR": "COMPATIBLE",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
}
# the most telling first: other seeds, then other rounding, then both
ORDER = [(1, "native"), (0, "compatible"), (2, "avx2"), (3, "compatible"), (4, "native")]
CLOSING = re.compile(r"^=* ?\d+ (passed|failed|skipped).* in [\d.]+s", re.MULTILINE)


def main() -> int:
    """Run what is asked for and print the table; exit status 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--offsets", default="0,1,2,3,4")
    parser.add_argument("--kernels", default=",".join(KERNELS))
    parser.add_argument("--logs", type=Path, default=ROOT / "runs" / "elsewhere")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("tests", nargs="*", default=["tests"])
    options = parser.parse_args()
    wanted = [(int(o), k) for o in options.offsets.split(",") for k in options.kernels.split(",")]
    wanted.sort(key=lambda pair: ORDER.index(pair) if pair in ORDER else len(ORDER))
    options.logs.mkdir(parents=True, exist_ok=True)
    failures: dict[str, set[tuple[int, str]]] = {}
    for pair in wanted:
        log = run(*pair, options)
        for test in re.findall(r"^(?:FAILED|ERROR) (\S+::\S+?)(?: - .*)?$", log, re.MULTILINE):
            failures.setdefault(test, set()).add(pair)
    print_table(failures, wanted)
    return int(bool(failures))


def run(offset: int, kernel: str, options: argparse.Namespace) -> str:
    """The log of one combination, from its file where it is whole."""
    path = options.logs / f"{offset}-{kernel}.log"
    if path.exists() and CLOSING.search(path.read_text()):
        return path.read_text()
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "GIRSANOV_TEST_SEED_OFFSET": str(offset)}
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-o", "timeout=1800"]
    command += ["-m", "not slow and not pinned", "--tb=short", "-n", str(options.jobs), *options.tests]
    print(f"offset {offset}, {kernel}: {path}", flush=True)
    with path.open("w") as file:
        subprocess.run(
            ["nice", "-n", "10", *command], cwd=ROOT, env=os.environ | threads | KERNELS[kernel], stdout=file
        )
    return path.read_text()


def print_table(failures: dict[str, set[tuple[int, str]]], wanted: list[tuple[int, str]]) -> None:
    """One line per test that failed, with a mark for every combination."""
    print("columns: " + ", ".join(f"{offset} {kernel}" for offset, kernel in wanted))
    for test, pairs in sorted(failures.items(), key=lambda item: -len(item[1])):
        print("".join("F" if pair in pairs else "." for pair in wanted), test)
    print(f"{len(failures)} tests failed in at least one of {len(wanted)} combinations")


if __name__ == "__main__":
    sys.exit(main())
