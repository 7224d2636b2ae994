"""``girsanov evaluate`` and ``score`` on a folder of diffusers: a real, briefly trained network of digits."""

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from sklearn.datasets import load_digits

from tests.adapters.diffusers.exact import diffusers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small ``UNet2DModel`` after 200 steps of DDPM training, its scheduler, and digits it has not seen."""
    torch.manual_seed(0)
    base = tmp_path_factory.mktemp("digits")
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    scheduler = diffusers.DDPMScheduler()
    images = torch.tensor(load_digits().images[:, None], dtype=torch.float32)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=4e-3)
    for _ in range(200):
        x = images[torch.randint(0, 1500, (32,))] / 8.0 - 1.0
        t, eps = torch.randint(0, 1000, (32,)), torch.randn_like(x)
        loss = (unet(scheduler.add_noise(x, eps, t), t).sample - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    diffusers.DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(base / "pipeline")
    unet.save_pretrained(base / "unet")
    np.save(base / "new.npy", images[1500:1540].numpy())
    np.save(base / "scaled.npy", images[1500:1540].numpy() / 8.0 - 1.0)
    return base


SCALE = ("--data-range=-1,1", "--levels", "17")


@pytest.mark.slow
def test_evaluate_gives_bits_per_dimension_of_the_declared_bins(girsanov, folder):
    options = (*SCALE, "--samples", "64", "--json")
    done = girsanov("evaluate", folder / "pipeline", folder / "new.npy", *options)
    assert done.code == 0, done.err
    entry = done.json["test"]["elbo"]
    assert (entry["kind"], entry["measure"], entry["rows"]) == ("lower_bound", "mass", 40)
    assert 1.5 < entry["bits_per_dim"] < np.log2(17.0)  # better than not looking
    assert entry["bits_per_dim"] == pytest.approx(-entry["nats"] / (64 * np.log(2.0)))
    assert "testing the network" in done.err


@pytest.mark.slow
def test_score_takes_a_bare_network_with_its_scheduler(girsanov, folder):
    options = (*SCALE, "--scheduler", folder / "pipeline", "--samples", "16", "--limit", "3")
    for likelihood in ("elbo", "density"):
        done = girsanov(
            "score", folder / "unet", folder / "new.npy", *options, "--likelihood", likelihood, "--no-check"
        )
        assert done.code == 0, done.err
        lines = done.out.splitlines()
        assert lines[0] == "row,value,stderr,kind,model,error"
        assert len(lines) == 4


@pytest.mark.slow
def test_continuous_values_are_a_density(girsanov, folder):
    done = girsanov(
        "evaluate", folder / "pipeline", folder / "scaled.npy", "--data-range=-1,1", "--levels", "0", "--json"
    )
    assert done.code == 0, done.err
    assert done.json["test"]["elbo"]["measure"] == "density"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give the scale of its training, such as --data-range=-1,1"),
        (("--data-range=1",), "give the scale of its training"),
        (("--data-range=-1,1", "--levels", "9"), "beyond 0 to 8: declare the number"),
    ],
)
def test_a_wrong_scale_is_one_line(girsanov, folder, options, message):
    done = girsanov("evaluate", folder / "pipeline", folder / "new.npy", *options)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--data-range=0,1", "--levels", "17"), ("--data-range=-1,1", "--levels", "256")])
def test_rows_that_a_network_knows_little_of_are_said(girsanov, folder, options):
    """Sixteen rows and two hundred steps of training tell no scale from another: the user is told where to look."""
    done = girsanov("score", folder / "pipeline", folder / "new.npy", *options, "--limit", "16", "--samples", "8")
    assert done.code == 0
    assert "The self-test is undecided: the network leaves" in done.err
    assert "look at the rows' scale and the training" in done.err


@pytest.mark.slow
def test_a_bare_network_needs_its_scheduler_and_a_run_none(girsanov, folder, tmp_path):
    assert "pass the scheduler" in girsanov("score", folder / "unet", folder / "new.npy", *SCALE).err
    done = girsanov("score", tmp_path / "nowhere", folder / "new.npy", "--data-range=-1,1")
    assert (done.code, "no such folder" in done.err) == (2, True)
    done = girsanov("score", tmp_path, folder / "new.npy", "--data-range=-1,1")
    assert (done.code, "a run knows its own data" in done.err) == (2, True)
