# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Log-densities of pretrained diffusers models
#
# Any network of `diffusers` with its scheduler is a density model: `from_diffusers` finds out what the network predicts
# and at which noise level, tests that it does, and returns a pair like any other. This page makes a small pipeline of
# its own, since it runs without a network connection; with one, write a model's id instead of a folder.

# %%
import tempfile
import warnings
from pathlib import Path

import torch
from sklearn.datasets import load_digits

from girsanov import Gaussian, InputError, elbo
from girsanov.adapters.diffusers import from_diffusers
from girsanov.density_model.diffusers import density_from_diffusers, to_diffusers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import DDPMPipeline, DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel

torch.manual_seed(0)
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A pipeline, trained the usual way and saved
#
# Digits of 8 x 8 pixels in 17 grey levels, brought to [-1, 1] as pipelines expect them.

# %%
images = torch.tensor(load_digits().images[:, None], dtype=torch.float32)
train, test = images[:1500], images[1500:]


def scaled(levels):
    return levels / 8.0 - 1.0


unet = UNet2DModel(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    block_out_channels=(16, 32),
    norm_num_groups=8,
    layers_per_block=1,
    down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
)
scheduler = DDPMScheduler()
optimizer = torch.optim.AdamW(unet.parameters(), lr=5e-3)
for step in range(300):
    optimizer.param_groups[0]["lr"] = 5e-3 * (1.0 - step / 300)
    x = scaled(train[torch.randint(0, len(train), (64,))])
    t, noise = torch.randint(0, 1000, (64,)), torch.randn_like(x)
    loss = (unet(scheduler.add_noise(x, noise, t), t).sample - noise).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(folder)

# %% [markdown]
# ## Its score, tested on load
#
# `check=` takes 64 rows or more in the network's own scale. If another reading of its outputs, another scheduler or
# another scale of the rows fits the network's denoising errors clearly better, the error says what to pass instead.

# %%
pair = from_diffusers(folder, check=scaled(train[:64]))
print(pair.log_snr_range, pair.score.network.notes)

# %% [markdown]
# This is a `ScorePair`, and likelihoods take that. These are densities of continuous images, so the digits get uniform
# noise within their bins first. The Gaussian that was fitted to the rows of `check` is a control variate, which shrinks
# the standard error and nothing else; one of many such images shrinks it more.

# %%
reference = Gaussian.fit(scaled(train + torch.rand_like(train) - 0.5))
spread = scaled(test[:16] + torch.rand_like(test[:16]) - 0.5)
bound = elbo(pair.replace(reference=reference), spread, samples=32)
print(bound.kind, bound.model, bound.mean())

# %% [markdown]
# ## Bits per dimension of declared bins
#
# `density_from_diffusers` is told where the network saw black and white and how many levels there are. Images are then
# dequantised inside their bins, and the value is a lower bound on a log-mass.

# %%
digits = density_from_diffusers(folder, data_range=(-1.0, 1.0), levels=17, check=scaled(train[:64]))
mass = digits.elbo(test[:32], samples=16)
print(f"{float(mass.bits_per_dim().mean()):.2f} bits per dimension, a {mass.kind} of a log-{mass.measure}")

# %% [markdown]
# The same from a shell, for a folder of images or an array:
#
#     girsanov evaluate FOLDER images.npy --data-range=-1,1 --levels 17
#     girsanov score FOLDER images.npy --data-range=-1,1 --levels 17 --out scores.csv
#
# ## What the self-test refuses
#
# Each of these would have given a number. A network that was trained for seconds hardly knows more than a Gaussian, so
# that some of them are only said to be undecided: then, too, look before you trust the number.


# %%
def attempt(what, *arguments, **options):
    try:
        said = from_diffusers(*arguments, **options).score.network.notes
    except InputError as error:
        said = (error,)
    assert said, f"{what} was accepted without a word"
    print(f"{what}:\n    {said[0]}\n")


attempt("noise that is read as a velocity", folder, prediction="v_prediction", check=scaled(train[:64]))
attempt("the scheduler of another family", folder, FlowMatchEulerDiscreteScheduler(), check=scaled(train[:64]))
betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
attempt("the betas of another model", folder, DDPMScheduler(**betas), check=scaled(train[:64]))
attempt("images of [0, 1]", folder, check=train[:64] / 16.0)
attempt("a network that was never trained", UNet2DModel.from_config(unet.config), scheduler)

# %% [markdown]
# ## The way back
#
# `to_diffusers` gives a pipeline that samples the model: the original one for a model that came from diffusers, and for
# ours one whose network looks like a `UNet2DModel`.

# %%
pipeline = to_diffusers(digits)
pipeline.set_progress_bar_config(disable=True)
print(pipeline(batch_size=4, num_inference_steps=20, output_type="np").images.shape)
