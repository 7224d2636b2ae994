"""``evaluate`` and ``score`` given a class, every row's own class, or embeddings: the library's own numbers."""

import csv
import io

import numpy as np
import pytest
import torch

import girsanov as gv
from girsanov import runs
from girsanov.cli import main
from girsanov.runs import all_rows
from girsanov.stein import WildBootstrap
from tests.seeds import rng, seeded

FEW = ("--limit", "5", "--samples", "8", "--quiet")


@pytest.fixture(scope="module")
def run(tmp_path_factory, quick):
    folder = tmp_path_factory.mktemp("conditions") / "run"
    options = ["--limit", "150", "--conditional", "--no-lattice-head", "--out", str(folder)]
    assert main(["fit", "digits", *options, *quick, "--quiet"]) == 0
    return folder


def draws():
    """The draws of a command with the default seed and as few samples."""
    return {"samples": 8, "generator": torch.Generator().manual_seed(0)}  # what --seed 0 is


def values(result):
    assert result.code == 0, result.err
    return [float(row["value"]) for row in csv.DictReader(io.StringIO(result.out))]


def test_one_class_and_every_rows_own(run, girsanov):
    model = gv.DensityModel.from_pretrained(run)
    rows = all_rows(model, "digits").first(5)
    for options, condition in (
        ((), None),
        (("--class", "3"), torch.tensor([3])),
        (("--own-class",), rows.data.labels),
    ):
        expected = model.elbo(rows.x, condition=condition, **draws()).value
        assert values(girsanov("score", run, "digits", *FEW, *options)) == pytest.approx(expected.tolist(), rel=1e-9)


def test_held_out_rows_keep_their_classes_and_the_result_says_what_was_given(run, girsanov):
    model = gv.DensityModel.from_pretrained(run)
    rows = runs.tested_rows(model).first(5)
    entry = girsanov("evaluate", run, *FEW, "--own-class", "--json").json["test"]["elbo"]
    expected = model.elbo(rows.x, condition=rows.data.labels, **draws()).value.mean()
    assert entry["nats"] == pytest.approx(float(expected), rel=1e-9)
    assert entry["given"] == "its own class"
    assert "given" not in girsanov("evaluate", run, *FEW, "--json").json["test"]["elbo"]
    assert "given class 3, 5 held-out rows" in girsanov("evaluate", run, *FEW, "--class", "3").out


def test_classes_are_found_by_name_in_other_data(run, girsanov, tmp_path):
    """Labels 0 and 1 of a folder whose subfolders are called 7 and 3 are the model's classes 7 and 3."""
    pillow = pytest.importorskip("PIL.Image")
    images, names = rng(0).integers(0, 17, (4, 8, 8)).astype(np.uint8), ["3", "3", "7", "7"]
    for k, (image, name) in enumerate(zip(images, names, strict=True)):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        pillow.fromarray(image).save(tmp_path / "data" / name / f"{k}.png")
    model = gv.DensityModel.from_pretrained(run)
    expected = model.elbo(all_rows(model, str(tmp_path / "data")).x, condition=torch.tensor([3, 3, 7, 7]), **draws())
    found = values(girsanov("score", run, tmp_path / "data", "--samples", "8", "--quiet", "--own-class"))
    assert found == pytest.approx(expected.value.tolist(), rel=1e-9)


def test_a_target_is_reached_or_the_command_says_which_rows_missed_it(run, girsanov):
    options = ("--likelihood", "density", "--limit", "4", "--samples", "32")
    loose = girsanov("score", run, "digits", *options, "--target-stderr", "1e3")
    assert "did not reach" not in loose.err
    tight = girsanov("score", run, "digits", *options, "--target-stderr", "1e-6")
    assert "4 of 4 rows did not reach a standard error of 1e-06 nats" in tight.err
    errors = [[float(row["stderr"]) for row in csv.DictReader(io.StringIO(r.out))] for r in (loose, tight)]
    assert max(errors[1]) < min(errors[0])


def test_what_cannot_work_is_one_line(run, complete, girsanov, tmp_path):
    data, unconditional, _ = complete
    np.save(tmp_path / "flat.npy", np.zeros(5))
    np.save(tmp_path / "two.npy", np.zeros((2, 3)))
    np.save(tmp_path / "plain.npy", np.zeros((4, 8, 8)))
    cases = {
        ("score", run, "digits", "--class", "ten"): "unknown class 'ten'",
        ("score", run, "digits", "--class", "1", "--own-class"): "one condition",
        ("score", run, tmp_path / "plain.npy", "--own-class"): "no classes with",
        ("score", unconditional, data, "--class", "1"): "knows no classes",
        ("score", run, "digits", "--condition", tmp_path / "flat.npy"): "shape (rows or 1, ...)",
        ("score", run, "digits", "--condition", tmp_path / "two.npy"): "1797 finite conditions",
        ("score", run, "digits", "--condition", tmp_path / "none.npy"): "cannot be read",
        ("score", run, "digits", "--target-stderr", "1"): "density formula",
    }
    for arguments, words in cases.items():
        done = girsanov(*arguments)
        assert done.code == 2, arguments
        assert words.lower() in done.err.splitlines()[-1].lower(), done.err


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Untrained networks of diffusers that take labels and text, saved with their scheduler."""
    pytest.importorskip("diffusers")
    from tests.adapters.diffusers.exact import diffusers

    torch.manual_seed(0)
    base = tmp_path_factory.mktemp("conditional")
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 8), "norm_num_groups": 4}
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "layers_per_block": 1}
    labels = diffusers.UNet2DModel(**sizes, **plain, num_class_embeds=10)
    crossed = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 6,
        "attention_head_dim": 4,
    }
    text = diffusers.UNet2DConditionModel(**sizes, **crossed)
    for name, network in (("labels", labels), ("text", text)):
        network.save_pretrained(base / name / "unet")
        diffusers.DDPMScheduler().save_pretrained(base / name / "scheduler")
    return base


SCALE = ("--data-range=-1,1", "--levels", "17", "--no-check")


def folder_options(base, name):
    return (base / name / "unet", "digits", "--scheduler", base / name / "scheduler", *SCALE, *FEW)


@pytest.mark.slow
def test_labels_and_text_of_diffusers(pretrained, girsanov, tmp_path):
    from girsanov.density_model.diffusers import density_from_diffusers

    def model(name):
        paths = (pretrained / name / "unet", pretrained / name / "scheduler")
        return density_from_diffusers(*paths, data_range=(-1.0, 1.0), levels=17)

    labels = model("labels")
    assert labels.classes == tuple(str(k) for k in range(10))
    rows = all_rows(labels, "digits").first(5)
    one = labels.elbo(rows.x, condition=torch.tensor([4]), **draws()).value
    own = labels.elbo(rows.x, condition=rows.data.labels, **draws()).value
    assert float((one - own).abs().max()) > 1e-3  # the label matters
    options = folder_options(pretrained, "labels")
    assert values(girsanov("score", *options, "--class", "4")) == pytest.approx(one.tolist(), rel=1e-6)
    assert values(girsanov("score", *options, "--own-class")) == pytest.approx(own.tolist(), rel=1e-6)

    embeddings = torch.randn(5, 7, 6, generator=seeded(1))
    options = folder_options(pretrained, "text")
    for name, given in (("each", embeddings), ("all", embeddings[:1])):
        np.save(tmp_path / f"{name}.npy", given.numpy())
    everyone = model("text").elbo(rows.x, condition=embeddings[:1], **draws()).value
    found = values(girsanov("score", *options, "--condition", tmp_path / "all.npy"))
    assert found == pytest.approx(everyone.tolist(), rel=1e-6)
    done = girsanov("evaluate", *options, "--condition", tmp_path / "each.npy")
    assert (done.code, "1797 finite conditions" in done.err) == (2, True)  # one for every row of DATA, or one for all


@pytest.mark.slow
def test_a_conditional_network_of_diffusers_asks_for_its_condition(pretrained, girsanov):
    done = girsanov("score", *folder_options(pretrained, "labels"))
    assert (done.code, "give --class, --own-class or --condition" in done.err) == (2, True)


@pytest.mark.slow
def test_a_classifier_takes_a_network_of_diffusers(pretrained):
    from girsanov.density_model.diffusers import density_from_diffusers

    paths = (pretrained / "labels" / "unet", pretrained / "labels" / "scheduler")
    model = density_from_diffusers(*paths, data_range=(-1.0, 1.0), levels=17)
    rows = all_rows(model, "digits").x[:3]
    found = gv.DiffusionClassifier(model, samples=4).classify(rows)
    assert found.probabilities.shape == (3, 10)
    estimate = model.difference(rows.round().numpy(), 1, 2, samples=16)
    assert bool(estimate.value.isfinite().all())


@pytest.mark.parametrize("names", [("oak", "ash"), (1, 2), ("2", "10")], ids=["text", "from one", "digits as text"])
def test_classes_are_named_as_in_the_data(names, girsanov, quick, tmp_path):
    code = rng(5).integers(0, 2, 90)
    x = rng(6).normal(size=(90, 2)) + 4.0 * code[:, None]
    np.savez(tmp_path / "data.npz", x=x, y=np.array(names)[code])
    done = girsanov("fit", tmp_path / "data.npz", "--conditional", "--out", tmp_path / "run", *quick, "--quiet")
    assert done.code == 0, done.err
    model = gv.DensityModel.from_pretrained(tmp_path / "run")
    assert model.classes == tuple(sorted(map(str, names)))
    x = x[:5]
    for name in names:
        expected = model.elbo(x, condition=[name], **draws()).value
        found = values(girsanov("score", tmp_path / "run", tmp_path / "data.npz", *FEW, "--class", name))
        assert found == pytest.approx(expected.tolist(), rel=1e-9)
    own = model.elbo(x, condition=np.array(names)[code[:5]], **draws()).value
    assert values(girsanov("score", tmp_path / "run", tmp_path / "data.npz", *FEW, "--own-class")) == pytest.approx(
        own.tolist(), rel=1e-9
    )
    options = ("--resamples", "19", "--level", "1", "--json", "--quiet")
    held = runs.tested_rows(model)
    for given, condition in (
        (("--class", names[1]), [names[1]]),
        (("--own-class",), held.data.labels),
        ((), None),
    ):
        entry = girsanov("evaluate", tmp_path / "run", "--samples", "8", "--json", *given).json["test"]["elbo"]
        expected = float(model.elbo(held.data, condition=condition, **draws()).value.mean())
        assert entry["nats"] == pytest.approx(expected, rel=1e-9)
        tested = girsanov("test", tmp_path / "data.npz", tmp_path / "run", *options, *given).json
        method = WildBootstrap(19)
        expected = model.score_test(
            held.data, [1.0], condition=condition, method=method, generator=draws()["generator"]
        )
        assert tested["levels"][0]["discrepancy"] == pytest.approx(expected.levels[0].result.discrepancy, rel=1e-9)
        assert tested.get("given") == entry.get("given")
    for command in (("evaluate", tmp_path / "run"), ("test", tmp_path / "data.npz", tmp_path / "run")):
        done = girsanov(*command, "--class", "elm")
        assert (done.code, "Unknown class 'elm'" in done.err) == (2, True), done.err


def test_the_self_test_takes_names_of_classes(monkeypatch):
    """A conditional network of diffusers is tested on rows given their classes, as the command line names them."""
    pytest.importorskip("diffusers")
    from girsanov.density_model import diffusers as ours
    from tests.adapters.diffusers.exact import diffusers

    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 8), "norm_num_groups": 4}
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "layers_per_block": 1}
    network = diffusers.UNet2DModel(**sizes, **plain, num_class_embeds=10)
    options = {"data_range": (-1.0, 1.0), "levels": 17, "check": None}
    model = ours.density_from_diffusers(network, diffusers.DDPMScheduler(), **options)
    seen = []
    monkeypatch.setattr(ours, "require_evidence", lambda *given: seen.append(given[-1].tolist()))
    x = torch.zeros(9, 1, 8, 8)
    many, first = ["1", "0", "9"] * 3, [1, 0, 9, 1, 0, 9, 1, 0]
    for given, expected in ((np.array(["4"], dtype=object), [4]), (many, first), ([3], [3])):
        ours.check_density(model, x, rows=8, condition=given)
        assert seen[-1] == expected
    with pytest.raises(gv.InputError, match="Unknown class"):
        ours.check_density(model, x, condition=["ten"])
