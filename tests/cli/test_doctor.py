"""``girsanov doctor``: what it says of this machine, and what it says of worse ones."""

import dataclasses

import pytest
import torch

import girsanov as gv
from girsanov import self_test


def test_all_is_well_here(girsanov, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = girsanov("doctor", "--json", "--threads", "1")
    assert result.code == 0
    assert result.json["ok"]
    assert result.json["versions"]["torch"] == torch.__version__
    assert [check["name"] for check in result.json["checks"][:4]] == ["threads", "elbo", "density", "ode"]
    assert any(str(tmp_path) in check["name"] for check in result.json["checks"])
    assert list(tmp_path.iterdir()) == []


def test_a_line_for_every_check(girsanov, monkeypatch):
    monkeypatch.setattr(self_test, "check_likelihoods", lambda device: [self_test.Check("ode", "failed", "it is off")])
    result = girsanov("doctor", "--threads", "1")
    assert result.code == 1
    assert f"girsanov       {gv.__version__}\n" in result.out
    assert "ode: failed, it is off\n" in result.out


def test_a_likelihood_that_is_a_little_off_fails(monkeypatch):
    """By a tenth of a nat: more than any of them is off where all is well."""
    for name in ("elbo", "density", "ode_log_prob"):
        right = getattr(self_test, name)
        monkeypatch.setattr(self_test, name, lambda *given, right=right, **options: moved(right(*given, **options)))
    found = list(self_test.check_likelihoods())
    assert [check.status for check in found] == ["failed"] * 3
    assert all("report this" in check.sentence for check in found)


def moved(estimate):
    return dataclasses.replace(estimate, value=estimate.value + 0.1)


def test_a_folder_that_takes_no_checkpoint(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "absent", tmp_path / "file"):
        check = self_test.check_storage(place)
        assert check.status == "failed"
        assert "use another folder" in check.sentence


@pytest.mark.parametrize(
    ("threads", "available", "policy", "status"),
    [(2, 2, "", "ok"), (1, 64, "PASSIVE", "ok"), (3, 2, "PASSIVE", "warning"), (2, 2, "active", "warning")],
)
def test_settings_that_are_slow(threads, available, policy, status):
    assert self_test.check_threads(threads, available, policy).status == status


def test_a_container_has_the_processors_of_its_quota(tmp_path, monkeypatch):
    from girsanov import environment

    monkeypatch.setattr(environment, "QUOTA", tmp_path / "cpu.max")
    free = environment.processors()
    for text, count in (("max 100000", free), ("50000 100000", 1), ("100000000 100000", free)):
        (tmp_path / "cpu.max").write_text(text)
        assert environment.processors() == count
