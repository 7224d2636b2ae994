"""Cards of saved models and the Hub, beside a stand-in: a folder whose subfolders are its repositories."""

import contextlib
import io
import json
import pickle
import re
import shutil
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import girsanov as gv
from girsanov.bridges import AlternatingConfig, NetworkConfig, Trajectories
from girsanov.files import read_verified, write_manifest
from girsanov.hub import Card
from girsanov.networks import MLPConfig

TINY = {"steps": 3, "network": MLPConfig(width=8, blocks=1), "flow": False, "mixed": False}
SECRET = 8.171828  # a number that is in the rows alone


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.standard_normal((60, 3)), columns=["a", "b|c", "d"])
    frame.iloc[7, 1] = SECRET
    return frame


@pytest.fixture(scope="module")
def model(table):
    return gv.fit(table, **TINY)


@pytest.fixture(scope="module")
def bridge():
    settings = AlternatingConfig(rounds=1, steps=2, paths=20)
    start = gv.SchrodingerBridge(gv.BrownianMotion(), dim=2, steps=2, network=NetworkConfig(8), alternating=settings)
    return start.fit(torch.randn(40, 2), torch.randn(40, 2) + 1.0)


@pytest.fixture(scope="module")
def trajectories():
    cells = SimpleNamespace(obs={"day": np.repeat([2.0, 3.0], 30)}, obsm={"X_pca": np.random.randn(60, 2)}, n_obs=60)
    settings = AlternatingConfig(rounds=1, steps=2, paths=20)
    options = {"sigma": 0.5, "steps": 2, "network": NetworkConfig(8), "alternating": settings, "progress": False}
    return gv.fit_trajectories(cells, time_key="day", **options)


@pytest.fixture
def saved(model, bridge, trajectories):
    """Every kind of model that can be saved and sent."""
    return {"model": model, "bridge": bridge, "trajectories": trajectories}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """``huggingface_hub`` in front of a folder: what was asked of it, and where its repositories lie."""
    found = SimpleNamespace(root=tmp_path / "hub", asked=[])

    class HfApi:
        def __init__(self, token=None):
            found.asked.append(("token", token))

        def create_repo(self, *, repo_id, private, exist_ok):
            if repo_id == "nobody/forbidden":
                raise RuntimeError("403 Forbidden: you cannot\n\nwrite here.")
            found.asked.append(("private", private))
            (found.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id, folder_path, commit_message, revision, create_pr):
            found.asked += [("message", commit_message), ("revision", revision), ("create_pr", create_pr)]
            shutil.copytree(folder_path, found.root / repo_id, dirs_exist_ok=True)
            return f"https://hub.example/{repo_id}/commit/1"

    def snapshot_download(repo_id, *, allow_patterns, **download):
        found.asked.append(("download", download))
        if not (found.root / repo_id).is_dir():
            raise RuntimeError(f"404 Client Error: Repository Not Found for {repo_id}.")
        place = tmp_path / "cache" / repo_id
        for name in allow_patterns:  # as the Hub's: nothing but what was asked for
            if (found.root / repo_id / name).is_file():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found.root / repo_id / name, place / name)
        place.mkdir(parents=True, exist_ok=True)
        return str(place)

    module = ModuleType("huggingface_hub")
    module.HfApi, module.snapshot_download = HfApi, snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return found


def usage(card):
    """The Python of a card."""
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def ran(code):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    return printed.getvalue()


@pytest.mark.parametrize("kind", ["model", "bridge", "trajectories"])
def test_the_usage_of_a_card_runs_from_the_folder_and_from_the_hub(kind, saved, hub, tmp_path, monkeypatch):
    saved[kind].save_pretrained(tmp_path / "saved")
    monkeypatch.chdir(tmp_path / "saved")
    here = ran(usage((tmp_path / "saved" / "README.md").read_text()))
    assert {"model": "nats, lower bound, SDE, 8 rows", "bridge": "[8, 2]", "trajectories": "[8, 2]"}[kind] in here
    monkeypatch.chdir(tmp_path)
    address = saved[kind].push_to_hub("somebody/thing")
    assert address == "https://hub.example/somebody/thing/commit/1"
    card = (hub.root / "somebody" / "thing" / "README.md").read_text()
    assert "'somebody/thing'" in card
    assert ran(usage(card)) == here
    assert {path.suffix for path in hub.root.rglob("*") if path.is_file()} == {".json", ".md", ".safetensors"}


@pytest.mark.parametrize(
    ("rows", "settings", "call", "printed"),
    [
        (torch.randint(0, 3, (60, 1, 4, 4)).double(), {"lattice_head": False}, "elbo", "lower bound, SDE, 8 rows"),
        (torch.randn(60, 2), {"config": gv.density_model.ContinuousFlowConfig()}, "log_prob", "exact, ODE, 8 rows"),
    ],
    ids=["categorical images", "continuous flow"],
)
def test_a_card_shows_the_likelihood_that_a_model_is_for(rows, settings, call, printed, tmp_path, monkeypatch):
    network = {} if rows.ndim == 4 else {"network": MLPConfig(width=8, blocks=1)}
    model = gv.fit(rows, steps=2, **network, **settings)
    model.save_pretrained(tmp_path / "saved")
    monkeypatch.chdir(tmp_path / "saved")
    code = usage((tmp_path / "saved" / "README.md").read_text())
    assert f"model.{call}(x)" in code
    assert printed in ran(code)


def test_the_card_says_which_likelihood_of_which_data(model, table, tmp_path):
    test = {"other rows": model.elbo(table[:20])}
    model.save_pretrained(tmp_path / "saved", license="cc-by-4.0", evaluations=test)
    card = (tmp_path / "saved" / "README.md").read_text()
    splits = model.record["splits"]
    for part in (
        "license: cc-by-4.0",
        "library_name: girsanov",
        "| `model.elbo(x)` | lower bounds on log-densities of the reverse-time SDE",
        "| `model.log_prob(x)` | log-densities of the probability-flow ODE",
        f"| other rows | {test['other rows']!r} |",
        "table of 3 columns, 60 rows",
        f"{splits['train']} to train on, {splits['validation']} to stop by, {splits['test']} held out",
        "nats per validation row",
    ):
        assert part in card
    assert f"{SECRET:.4f}"[:5] not in card  # no row


def test_the_card_says_how_discrete_columns_enter_and_what_they_make_of_the_number():
    levels = torch.randint(0, 4, (60, 2)).double()
    card = gv.fit(levels, **TINY).card()
    assert "uniform noise over one step of each discrete column (dequantisation)" in card
    assert "lower bounds on log-probabilities of the probability-flow ODE" in card
    assert "license: unknown" in card


def test_a_card_is_for_people_who_may_change_it(model, table, tmp_path):
    place = tmp_path / "saved"
    model.save_pretrained(place)
    (place / "README.md").write_text("Mine now.")
    again = gv.DensityModel.from_pretrained(place)
    assert torch.equal(again.elbo(table).value, model.elbo(table).value)
    assert "README.md" not in read_verified(place)


def test_names_of_a_users_own_have_no_meaning_in_a_card():
    card = Card("a_b | <script>", "x\n# y", "{source!r}", facts={"`n`": "[a](b)|"}).text()
    assert "# a\\_b \\| \\<script\\>" in card
    assert "\n# y" not in card
    assert "| \\`n\\` | \\[a\\](b)\\| |" in card


@pytest.mark.parametrize("license", ["MIT License", "", "a\nb", 3])
def test_a_licence_is_a_name(license):
    with pytest.raises(gv.InputError, match=r"license must be a name such as apache-2\.0"):
        Card("a", "b", "c").text(license=license)


def test_keywords_are_those_of_the_mixin(model, hub):
    options = {"commit_message": "second", "private": True, "token": "t", "branch": "next", "create_pr": True}
    model.push_to_hub("somebody/thing", **options)
    assert dict(hub.asked) == {
        "token": "t", "private": True, "message": "second", "revision": "next", "create_pr": True,
    }  # fmt: skip
    download = {"revision": "next", "token": "t", "cache_dir": "c", "force_download": True, "local_files_only": False}
    gv.DensityModel.from_pretrained("somebody/thing", **download)
    assert hub.asked[-1] == ("download", download)
    with pytest.raises(gv.InputError, match="from_pretrained has no setting revison=: did you mean revision="):
        gv.DensityModel.from_pretrained("somebody/thing", revison="next")


def test_what_is_sent_names_no_folder_of_its_owner(model, hub):
    own = model.replace(record=model.record | {"source": {"path": "/home/owner/a.csv"}})
    own.record["data"] = own.record["data"] | {"name": "/home/owner/a.csv"}
    own.push_to_hub("somebody/thing")
    sent = "".join(path.read_text() for path in hub.root.rglob("*") if path.suffix in (".md", ".json"))
    assert "owner" not in sent
    assert "Density model of a.csv" in sent
    assert own.record["source"]  # which stays


def test_an_id_that_does_not_exist_is_one_sentence(hub):
    with pytest.raises(
        gv.InputError, match=r"^nobody/nothing: there is no such folder, and no .*404.*; check the name$"
    ):
        gv.DensityModel.from_pretrained("nobody/nothing")
    for kind in (gv.SchrodingerBridge, Trajectories):
        with pytest.raises(gv.InputError, match="nobody/nothing: there is no such folder"):
            kind.from_pretrained("nobody/nothing")


def test_a_hub_that_refuses_is_one_sentence(model, hub):
    with pytest.raises(
        gv.InputError, match=r"^nobody/forbidden: the Hub refuses \(403 .* write here\); check name and token$"
    ):
        model.push_to_hub("nobody/forbidden")


def test_a_folder_goes_before_a_repository_of_its_name(model, hub, tmp_path, monkeypatch):
    other = gv.fit(torch.randn(60, 2), **TINY)
    other.push_to_hub("somebody/thing")
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("somebody/thing")
    hub.asked.clear()
    assert gv.DensityModel.from_pretrained("somebody/thing").schema.columns == model.schema.columns
    assert hub.asked == []
    shutil.rmtree("somebody")
    assert gv.DensityModel.from_pretrained("somebody/thing").schema.columns == other.schema.columns


def test_a_repository_of_pickles_is_refused_and_none_is_fetched(hub, tmp_path):
    repository = hub.root / "somebody" / "old"
    repository.mkdir(parents=True)
    (repository / "config.json").write_text("{}")
    (repository / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(
        gv.InputError, match=r"^somebody/old: this repository has no model\.safetensors and no manifest"
    ):
        gv.DensityModel.from_pretrained("somebody/old")
    assert {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()} == {"config.json"}


def test_a_pickle_by_the_name_of_tensors_is_refused(model, hub):
    model.push_to_hub("somebody/thing")
    repository = hub.root / "somebody" / "thing"
    (repository / "model.safetensors").write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(gv.InputError, match="is damaged"):
        gv.DensityModel.from_pretrained("somebody/thing")
    write_manifest(repository)  # by whoever meant it
    with pytest.raises(gv.InputError, match=r"is not a safetensors file .a pickle, which is never loaded"):
        gv.DensityModel.from_pretrained("somebody/thing")


def test_without_its_package_the_hub_is_a_sentence_away(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: model.push_to_hub("a/b"), lambda: gv.DensityModel.from_pretrained("nobody/nothing")):
        with pytest.raises(gv.InputError, match=r"needs its package: pip install .girsanov\[hub\]"):
            call()


def test_a_run_that_was_measured_tells_it_on_the_card(model, tmp_path):
    model.save_pretrained(tmp_path)
    entry = {"nats": -4.0, "stderr": 0.02, "rows_stderr": 0.25, "rows": 12, "kind": "lower_bound", "model": "sde"}
    (tmp_path / "metrics.json").write_text(json.dumps({"test": {"elbo": entry | {"bits_per_dim": None}}}))
    card = gv.DensityModel.from_pretrained(tmp_path).card()
    assert "| held-out rows, elbo | −4.00 ± 0.02 (estimator) ± 0.25 (rows) nats, 12 rows, lower bound, SDE |" in card
    (tmp_path / "metrics.json").write_text("half")
    assert "held-out rows, elbo" not in gv.DensityModel.from_pretrained(tmp_path).card()
