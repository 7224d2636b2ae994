import os

import pytest
import torch

from girsanov.training import load_latest, save
from girsanov.types import InputError

TENSORS = {"model": {"w": torch.arange(4.0)}, "optimizer": {"w:step": torch.tensor(3.0)}}


def flip(path, position=-1):
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(bytes(data))


def test_round_trip_and_pointer(tmp_path):
    root = tmp_path / "checkpoints"
    assert load_latest(root) is None
    path = save(root, 12, TENSORS, {"note": [1, None, "x"]})
    found = load_latest(root)
    assert found.step == 12
    assert found.state == {"note": [1, None, "x"]}
    assert torch.equal(found.tensors["model"]["w"], torch.arange(4.0))
    assert (root / "LATEST").read_text() == f"{path.name}\n"


def test_the_last_two_are_kept(tmp_path):
    for step in (1, 5, 9):
        save(tmp_path, step, TENSORS, {})
    assert sorted(os.listdir(tmp_path)) == ["LATEST", "step-000000005", "step-000000009"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_damaged_newest_falls_back_with_a_note(tmp_path, name):
    save(tmp_path, 1, TENSORS, {"v": 1})
    flip(save(tmp_path, 2, TENSORS, {"v": 2}) / name)
    notes = []
    assert load_latest(tmp_path, note=notes.append).state == {"v": 1}
    assert len(notes) == 1
    assert "damaged" in notes[0]


def test_after_a_fallback_the_damaged_one_is_dropped_not_the_good_one(tmp_path):
    save(tmp_path, 1, TENSORS, {"v": 1})
    flip(save(tmp_path, 9, TENSORS, {"v": 9}) / "state.json")
    save(tmp_path, 4, TENSORS, {"v": 4})
    assert sorted(os.listdir(tmp_path)) == ["LATEST", "step-000000001", "step-000000004"]


def test_same_step_is_replaced(tmp_path):
    flip(save(tmp_path, 4, TENSORS, {"v": 0}) / "state.json")
    save(tmp_path, 4, TENSORS, {"v": 1})
    assert load_latest(tmp_path).state == {"v": 1}


def test_all_damaged_is_an_error_that_says_what_to_do(tmp_path):
    for step in (1, 2):
        flip(save(tmp_path, step, TENSORS, {}) / "model.safetensors")
    with pytest.raises(InputError, match="remove that folder"):
        load_latest(tmp_path, note=lambda text: None)


@pytest.mark.parametrize("pointer", ["", "step-000000001\n", "../../etc", "\udcff"])
def test_a_wrong_pointer_never_hides_a_checkpoint(tmp_path, pointer):
    save(tmp_path, 3, TENSORS, {"v": 3})
    (tmp_path / "LATEST").write_bytes(pointer.encode("utf-8", "surrogateescape"))
    assert load_latest(tmp_path).state == {"v": 3}


def test_what_a_kill_left_is_removed_at_the_next_save(tmp_path):
    (tmp_path / ".tmp-step-000000002.abc").mkdir()
    (tmp_path / ".tmp-LATEST.abc").write_text("x")
    save(tmp_path, 3, TENSORS, {})
    assert sorted(os.listdir(tmp_path)) == ["LATEST", "step-000000003"]


def test_an_unwritable_folder_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write a checkpoint"):
        save(tmp_path / "file" / "checkpoints", 1, TENSORS, {})
