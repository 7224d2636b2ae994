import contextlib
import json
import os
import pickle
import stat

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from girsanov.files import (
    atomic_directory,
    lock_directory,
    pack_tensors,
    parse_json,
    parse_tensors,
    read_verified,
    write_atomic,
    write_manifest,
)
from girsanov.types import InputError


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (self.target,))


@pytest.fixture
def folder(tmp_path):
    with atomic_directory(tmp_path / "model") as temporary:
        (temporary / "config.json").write_text('{"format": 1}')
        (temporary / "weights.safetensors").write_bytes(pack_tensors({"w": torch.arange(5.0)}))
    return tmp_path / "model"


def test_atomic_text_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "one")
    write_atomic(path, "zwei ä")
    assert path.read_text(encoding="utf-8") == "zwei ä"
    assert os.listdir(tmp_path) == ["a.txt"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_directory_appears_whole_with_a_manifest(folder):
    assert sorted(read_verified(folder)) == ["config.json", "weights.safetensors"]
    assert os.listdir(folder.parent) == ["model"]


def test_failing_block_leaves_the_old_directory(folder):
    before = read_verified(folder)

    def crash(temporary):
        (temporary / "config.json").write_text("half")
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"), atomic_directory(folder) as temporary:
        crash(temporary)
    assert read_verified(folder) == before
    assert os.listdir(folder.parent) == ["model"]


def test_replacing_a_directory_and_removing_what_a_kill_left(folder):
    leftover = folder.parent / ".tmp-model.killed"
    leftover.mkdir()
    (leftover / "part").write_text("x")
    with atomic_directory(folder) as temporary:
        (temporary / "new.json").write_text("{}")
    assert sorted(read_verified(folder)) == ["new.json"]
    assert os.listdir(folder.parent) == ["model"]


def test_a_file_in_the_way_is_an_input_error(tmp_path):
    (tmp_path / "model").write_text("x")
    with pytest.raises(InputError, match="is a file"), atomic_directory(tmp_path / "model"):
        pass


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "manifest.json"])
def test_every_bit_flip_is_noticed(folder, name):
    good = (folder / name).read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        (folder / name).write_bytes(bytes(bad))
        with pytest.raises(InputError):
            read_verified(folder)
    (folder / name).write_bytes(good)
    assert "config.json" in read_verified(folder)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "manifest.json"])
def test_missing_and_truncated_files_are_noticed(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-3])
    with pytest.raises(InputError):
        read_verified(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match="missing"):
        read_verified(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", ".hidden"])
def test_manifest_cannot_point_outside(folder, name):
    (folder.parent / "secret").write_text("x")
    entry = {"bytes": 1, "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    text = json.dumps({"files": {name: entry}, "format": 1}, indent=1, sort_keys=True) + "\n"
    (folder / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="file name"):
        read_verified(folder)


def test_manifest_of_some_files_ignores_the_others(folder):
    (folder / "train.jsonl").write_text("{}\n")
    write_manifest(folder, ["config.json"])
    assert tuple(read_verified(folder)) == ("config.json",)


def test_pipe_is_refused_and_not_waited_for(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(InputError, match="missing"):
        read_verified(folder)


def test_pickle_is_refused_and_not_run(tmp_path):
    target = tmp_path / "ran"
    torch.save(Malicious(str(target)), tmp_path / "model.pt")
    for data in (pickle.dumps(Malicious(str(target))), (tmp_path / "model.pt").read_bytes()):
        with pytest.raises(InputError, match="pickle, which is never loaded"):
            parse_tensors(data, "model.safetensors")
    assert not target.exists()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_random_bytes_raise_only_our_error(data):
    for parse in (parse_tensors, parse_json):
        with contextlib.suppress(InputError):
            assert isinstance(parse(data, "file"), dict)


@pytest.mark.parametrize("header", ['{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}', "[]", "{"])
def test_lying_safetensors_headers_raise_only_our_error(header):
    data = len(header).to_bytes(8, "little") + header.encode() + b"\0\0\0\0"
    with pytest.raises(InputError):
        parse_tensors(data, "w.safetensors")


@pytest.mark.parametrize("text", ["[1]", "{", "NaN", '{"a": Infinity}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_json_bombs_raise_only_our_error(text):
    with pytest.raises(InputError, match=r"state\.json"):
        parse_json(text.encode(), "state.json")


def test_shared_and_strided_tensors_survive(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    loaded = parse_tensors(pack_tensors({"a": base, "b": base.T, "c": base[:, 1], "d": torch.empty(0)}), "x")
    assert torch.equal(loaded["b"], base.T)
    assert torch.equal(loaded["c"], base[:, 1])
    assert loaded["d"].shape == (0,)


def test_lock_admits_one(tmp_path):
    with lock_directory(tmp_path), pytest.raises(InputError, match="another process"), lock_directory(tmp_path):
        pass
    with lock_directory(tmp_path):  # released: no error
        assert (tmp_path / ".lock").exists()
