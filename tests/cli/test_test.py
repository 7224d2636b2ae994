"""``girsanov test``: rows against a run's score."""

import json

import pytest
import torch

import girsanov as gv
from girsanov.runs import rows_of
from tests.seeds import seeded

QUICK = ("--resamples", "99", "--level", "1", "--level", "4", "--quiet")


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory):
    """A hardly trained model, rows that it drew, and the same rows shifted."""
    folder = tmp_path_factory.mktemp("gaussian")
    generator = seeded(0)
    rows = torch.randn(400, 2, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 3.0]) + 5.0
    model = gv.fit(rows, config=gv.Config(steps=1, network=gv.networks.MLPConfig(width=8, blocks=1), flow=False))
    model.save_pretrained(folder / "model")
    drawn = model.sample(200, generator=generator)
    for name, shift in (("good", 0.0), ("shifted", 0.6)):
        table = "\n".join(",".join(f"{value!r}" for value in row) for row in (drawn + shift).tolist())
        (folder / f"{name}.csv").write_text("a,b\n" + table + "\n")
    return folder


def test_rows_of_the_model_pass_and_shifted_rows_do_not(gaussian, girsanov):
    good = girsanov("test", gaussian / "good.csv", gaussian / "model", *QUICK, "--json").json
    shifted = girsanov("test", gaussian / "shifted.csv", gaussian / "model", *QUICK, "--json").json
    assert good["pvalue"] > 0.02
    assert shifted["pvalue"] == 0.02
    assert [level["log_snr"] for level in good["levels"]] == [1.0, 4.0]
    assert good["rows"] == 200
    assert shifted["levels"][1]["effect_size"] > 5 * abs(good["levels"][1]["effect_size"])
    assert len(good["blind_spots"]) == 4


def test_the_table_says_what_it_does_not_see(gaussian, girsanov):
    result = girsanov("test", gaussian / "good.csv", gaussian / "model", *QUICK, "--limit", "60")
    lines = result.out.splitlines()
    assert lines[0].split() == ["log-SNR", "noise", "discrepancy", "effect", "p", "corrected"]
    assert len(lines[1].split()) == 6
    assert "no difference found" in result.out
    assert "What this test does not see" in result.out
    assert result.err == ""
    assert "differ from the model" in girsanov("test", gaussian / "shifted.csv", gaussian / "model", *QUICK).out


def test_the_same_seed_gives_the_same_result(gaussian, girsanov):
    options = ("test", gaussian / "good.csv", gaussian / "model", *QUICK, "--limit", "60", "--json")
    first, again, other = (girsanov(*options, "--seed", seed).out for seed in (0, 0, 1))
    assert first == again != other


def test_discrete_columns_and_held_out_rows(complete, girsanov):
    data, run, _ = complete
    result = girsanov("test", data, run, "--resamples", "19", "--level", "2", "--json")
    assert result.json["rows"] == 24
    assert "held-out" in result.err
    assert "the score is that of the model's diffusion" in result.err


def test_the_command_is_the_method(gaussian, complete, girsanov):
    """Continuous rows, and rows with a discrete column: one dequantisation for both."""
    for data, run in ((gaussian / "good.csv", gaussian / "model"), (complete[0], complete[1])):
        shown = girsanov("test", data, run, "--level", "2", "--json", "--limit", "50", "--seed", "3").json
        model = gv.DensityModel.from_pretrained(run)
        x = rows_of(model, str(data)).first(50).x
        expected = model.score_test(x, [2.0], generator=torch.Generator().manual_seed(3))
        assert shown["levels"][0]["discrepancy"] == expected.levels[0].result.discrepancy
        assert json.dumps(shown["pvalue"]) == json.dumps(expected.pvalue)


def test_a_diffusion_matrix_by_name(gaussian, girsanov):
    options = ("test", gaussian / "good.csv", gaussian / "model", *QUICK, "--limit", "60", "--json")
    plain, heavy = girsanov(*options).json, girsanov(*options, "--diffusion", "heavy_tailed").json
    assert plain["levels"][0]["discrepancy"] != heavy["levels"][0]["discrepancy"]
    assert "robust" in girsanov(*options, "--diffusion", "cosy").err


def test_a_model_that_is_nearly_right(gaussian, girsanov):
    """Rows that are wrong by 0.6 are tolerated in a wide ball, and not in a narrow one."""
    options = ("test", gaussian / "shifted.csv", gaussian / "model", *QUICK)
    narrow, wide = girsanov(*options, "--contamination", "0.02").out, girsanov(*options, "--contamination", "0.6").out
    assert "differ from the model by more than 2 % of foreign rows, most clearly at log-SNR" in narrow
    assert "no difference found beyond 60 % of foreign rows." in wide
    named = girsanov(*options, "--contamination", "0.01", "--radius", "9").out
    assert "beyond 1 % of foreign rows and a discrepancy of 9." in named
    found = girsanov(*options, "--contamination", "0.02", "--json").json
    assert found["contamination"] == 0.02
    assert found["radius"] == 0.0
    assert all(0.0 < level["radius"] < level["discrepancy"] ** 0.5 for level in found["levels"])
    assert "contamination" not in girsanov(*options, "--json").json


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--contamination", "1.5"], "share of foreign rows"),
        (["--radius", "-1"], "radius"),
        (["--level", "99"], "log-SNR"),
        (["--resamples", "3"], "--resamples"),
        (["--limit", "1"], "two or more"),
    ],
)
def test_tests_that_cannot_be(options, message, gaussian, girsanov):
    result = girsanov("test", gaussian / "good.csv", gaussian / "model", "--quiet", *options)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_the_command_explains_itself(girsanov):
    result = girsanov("test", "--help")
    assert result.code == 0
    assert "Example: girsanov test" in result.out
    assert "held-out rows" in " ".join(result.out.split())
