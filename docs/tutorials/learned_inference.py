# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Learned inference without simulation
#
# A diffusion model's inference process is usually fixed. It need not be: any Gaussian law q(x_t given x) whose mean and
# scale are functions of time and data is a path, and every path bounds the likelihood of a generative SDE. A path may
# give each dimension a noise schedule of its own that looks at the data, or encode its mean; both learn together with
# the generative drift by the gradient of one bound, and nothing is simulated.

# %%
import torch
from torch import nn

import girsanov as gv
from girsanov.objectives import Batch, gaussian_decoder
from girsanov.training import ShuffledBatches, TrainingConfig, train

torch.manual_seed(0)

# %% [markdown]
# ## Data with two scales
#
# The first coordinate has two wide lobes, the second two that are ten times narrower.

# %%
means = torch.tensor([[1.0, 0.1], [-1.0, -0.1], [1.0, -0.1]])
law = gv.GaussianMixture(torch.ones(3), means, torch.tensor([0.2, 0.02]).square().expand(3, 2))
rows = law.sample(4000, generator=torch.Generator().manual_seed(0)).float()
train_rows, held = rows[:3500], rows[3500:]

# %% [markdown]
# ## Three paths
#
# All begin at the same log-SNR, where a Gaussian decoder takes the rest of the noise away, and end near N(0, I). The
# process between is straight in log-SNR, which every path starts from.

# %%
SPAN = (-6.0, 9.0)
process = gv.processes.LearnedSchedule(SPAN).requires_grad_(False)


class Schedule(nn.Module):
    """Logits of five monotone functions of time for each dimension of each row."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 10))

    def forward(self, x):
        return self.net(x).reshape(len(x), 5, 2)


class Encoder(nn.Module):
    """How far the mean moves from the data point at a time."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, t, x):
        return self.net(torch.cat([t[:, None], x], 1))


PATHS = {
    "fixed": lambda: gv.processes.ProcessPath(process),
    "schedule of each dimension": lambda: gv.processes.ScheduledPath(SPAN, Schedule()),
    "encoded mean": lambda: gv.processes.EncodedPath(process, Encoder()),
}

# %% [markdown]
# ## One model, one bound
#
# The generative drift is that of the pair which a network's score and the straight process make, and the diffusion is
# that process's each time: the models differ in nothing but what they were trained with.


# %%
class Model(nn.Module):
    def __init__(self, path):
        super().__init__()
        self.path = path
        self.net = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def drift(self, t, x):
        level, (_, sigma) = process.log_snr(t), process.marginal(t)
        noise = self.net(torch.cat([x, level[:, None] / 10.0], 1))
        return gv.ScorePair(lambda time, y: -noise / sigma[:, None], process).generative_drift(t, x)

    def objective(self):
        return gv.objectives.PathObjective(
            self.path, lambda t: process.rates(t)[1].sqrt(), gaussian_decoder(2.718281828 ** -SPAN[1])
        )


def loss(model, batch, generator, step):
    return model.objective()(model.drift, Batch(batch), generator, step)


# %%
config = TrainingConfig(steps=300, batch_size=128, learning_rate=1e-2, ema_decay=0.98)
shuffled, bounds = ShuffledBatches(len(train_rows), 128, seed=0), {}
for name, make in PATHS.items():
    fitted = train(Model(make()), loss, lambda step: train_rows[shuffled(step)], config=config).module
    bounds[name] = gv.likelihoods.loss_bound(fitted.objective(), fitted.drift, held, samples=32)
    gain = (bounds[name].replicates - bounds["fixed"].replicates).mean(1)  # the noise of a row is the same each time
    error = float(gain.std()) / len(gain) ** 0.5
    print(f"{name:28s} bound {bounds[name].mean().value:6.3f}, gain {float(gain.mean()):.3f} ± {error:.3f}")
print(f"{'density of the data':28s}       {float(law.log_prob(held).mean()):6.3f}")

# %% [markdown]
# Each line is a lower bound on the log-likelihood of its own generative process, comparable with the others and with
# the data's own density. `Config(process="learned")` of `gv.fit` is the scalar case: there only the ends count for
# the bound, and what is learned lowers its variance.
