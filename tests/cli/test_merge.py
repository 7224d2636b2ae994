"""``girsanov score --shard`` and ``girsanov merge``: together they are one command."""

import numpy as np
import pandas as pd
import pytest

from girsanov.cli import main


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run, and rows for it of which one is refused."""
    base = tmp_path_factory.mktemp("shards")
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(90, 2)), columns=["a", "b"])
    x.to_csv(base / "data.csv", index=False)
    run = base / "run"
    tiny = ["--steps", "2", "--no-flow", "--no-mixed", "--width", "8", "--ode-rows", "0", "--no-peers"]
    assert main(["fit", str(base / "data.csv"), "--out", str(run), *tiny, "--quiet"]) == 0
    x.loc[4, "b"] = np.nan
    x[:11].to_csv(base / "rows.csv", index=False)
    return run, base / "rows.csv"


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["csv", "json"])
@pytest.mark.parametrize("count", [1, 3, 12])
def test_shards_merged_are_the_bytes_of_one_command(scored, tmp_path, girsanov, options, count):
    """Refused rows, and shards without any row, included; the order of the files is no matter."""
    common = [*map(str, scored), "--samples", "16", "--quiet", *options]
    whole = girsanov("score", *common).out
    parts = []
    for i in range(count, 0, -1):
        parts.append(tmp_path / f"{i}.txt")
        assert girsanov("score", *common, "--shard", f"{i}/{count}", "--out", parts[-1]).code == 0
    assert girsanov("merge", *parts).out == whole
    assert girsanov("merge", *parts, "--out", tmp_path / "all").code == 0
    assert (tmp_path / "all").read_text() == whole


def test_what_is_no_whole_is_refused(scored, tmp_path, girsanov):
    parts = [tmp_path / f"{i}.csv" for i in (1, 2, 3)]
    for i, path in enumerate(parts):
        girsanov("score", *map(str, scored), "--samples", "16", "--quiet", "--shard", f"{i + 1}/3", "--out", path)
    (tmp_path / "cut.csv").write_text("\n".join(parts[1].read_text().splitlines()[:-2]) + "\n")
    (tmp_path / "other.csv").write_text("row,value\n2,1.0\n")
    (tmp_path / "none.csv").write_text("no,rows\n")
    for files, sentence in (
        (parts[:2], "no file has row 3, 6, 9: give the file of every shard"),
        ([*parts, parts[0]], "has row 1, which another file has too"),
        ([parts[0], tmp_path / "cut.csv", parts[2]], "no file has row 8"),
        ([parts[0], tmp_path / "other.csv"], "has other columns than"),
        ([tmp_path / "none.csv"], "has no lines of girsanov score"),
        ([tmp_path / "absent.csv"], "cannot be read"),
    ):
        result = girsanov("merge", *files)
        assert result.code == 2
        assert sentence in result.err, result.err
    for shard in ("0/3", "4/3", "2", "a/b", "1/0"):
        result = girsanov("score", *map(str, scored), "--shard", shard)
        assert (result.code, "the second of four" in result.err) == (2, True)
