import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import girsanov.training
from girsanov.training.distributed import World
from girsanov.types import InputError


def test_one_process_shares_nothing():
    world = World(torch.device("cpu"))
    batch = (torch.arange(4), {"y": torch.arange(4)})
    assert world.share(batch) is batch
    assert world.agree(2, 0.5) == (2, (0.5,))


def test_each_rank_takes_its_rows():
    world = World(torch.device("cpu"))
    world.rank, world.size = 1, 2
    first, second = world.share((torch.arange(5), {"y": torch.arange(4), "name": "x"}))
    assert first.tolist() == [1, 3]
    assert second["y"].tolist() == [1, 3]
    assert second["name"] == "x"
    with pytest.raises(InputError, match="choose a multiple"):
        world.check(5)


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path):
    source = Path(girsanov.training.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("distributed_driver.py"))
    single = subprocess.run(
        [sys.executable, script, str(tmp_path / "one")], env=environment, capture_output=True, text=True
    )
    assert single.returncode == 0, single.stderr
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, script, str(tmp_path / "two")]
    double = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if "terminate called without an active exception" in double.stderr:  # the backend's own threads, now and then
        shutil.rmtree(tmp_path / "two")
        double = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert double.returncode == 0, double.stderr
    one = json.loads((tmp_path / "one" / "rank-0.json").read_text())
    two = [json.loads((tmp_path / "two" / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert two[0]["weights"] == two[1]["weights"]
    assert two[0]["weights"] == pytest.approx(one["weights"], rel=1e-3, abs=1e-5)
    assert two[0]["resumed_from"] == 30
    assert two[0]["noise"] != two[1]["noise"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "two" / "run" / "train.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
