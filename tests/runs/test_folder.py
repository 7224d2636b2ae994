import json

import pytest
import torch

from girsanov.runs import DensityRun, RunFolder
from girsanov.types import InputError


def test_values_come_back_bit_by_bit(tmp_path):
    folder = RunFolder(tmp_path)
    rows = torch.tensor([7, 3, 11])
    values = {"elbo": torch.randn(3, dtype=torch.float64) / 3, "stderr": torch.tensor([0.1, float("nan"), 1e-300])}
    folder.write_values(rows, values)
    found = folder.values()
    assert found is not None
    assert torch.equal(found[0], rows)
    assert (tmp_path / "test.csv").read_text().splitlines()[1].startswith("8,")  # people count from 1
    assert torch.equal(found[1]["elbo"], values["elbo"])
    assert torch.equal(found[1]["stderr"].nan_to_num(), values["stderr"].double().nan_to_num())


@pytest.mark.parametrize("text", ["", "row,elbo\n1\n", "row,elbo\n1,abc\n", "elbo\n1.0\n"])
def test_damaged_values_are_one_sentence(text, tmp_path):
    (tmp_path / "test.csv").write_text(text)
    with pytest.raises(InputError, match=r"test\.csv is damaged"):
        RunFolder(tmp_path).values()


def test_what_is_not_there_yet(tmp_path):
    folder = RunFolder(tmp_path)
    assert (folder.record(), folder.metrics(), folder.values(), folder.history()) == (None, None, None, [])


MODEL = {"kind": "density model", "format": 2}
RECORD = {"data": {}, "config": {}, "splits": {}}


@pytest.mark.parametrize(
    "content", [{}, {"record": 3}, MODEL | {"record": {"data": {}}}, {"format": 1, "record": RECORD}], ids=str
)
def test_a_config_of_something_else_or_of_an_earlier_version(content, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"not the config\.json of a fitted model"):
        DensityRun.begun(RunFolder(tmp_path))


def test_only_traces_of_a_refused_fit_are_removed(tmp_path):
    run = tmp_path / "run"
    (run / "flow" / "checkpoints").mkdir(parents=True)
    (run / ".lock").touch()
    (run / "notes.txt").write_text("mine")
    RunFolder(run).discard_traces()
    assert (run / "notes.txt").exists()
    assert (run / "flow").exists()
    (run / "notes.txt").unlink()
    RunFolder(run).discard_traces()
    assert not run.exists()
