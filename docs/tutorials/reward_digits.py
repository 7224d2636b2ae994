# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A reward, and what it costs
#
# A diffusion model of digits is trained once more, to draw what a classifier calls a three. Its sampler is a chain of
# Gaussian steps, each with a log-probability, so that policy gradients with clipped ratios need nothing else; the
# divergence of each step from the first model is a closed form, and the likelihood of held-out digits says what the
# reward was paid with.

# %%
import copy

import matplotlib.pyplot as plt
import torch
from sklearn.linear_model import LogisticRegression

import girsanov as gv
from girsanov.datasets import load

WANTED, STEPS, ROUNDS, DRAWS, CLIP = 3, 8, 6, 96, 0.2
torch.manual_seed(0)

# %% [markdown]
# ## A model, and a reward of its pictures

# %%
digits = load("digits")
held = torch.arange(len(digits.x)) % 20 == 0
config = gv.Config(network="conv", dequantise="uniform", steps=200, time_budget=6.0, members=1)
model = gv.fit(digits.x[~held], config=config)
judge = LogisticRegression(max_iter=2000).fit(digits.x[~held].flatten(1).numpy() / 16.0, digits.codes[~held].numpy())
weight, bias = (torch.from_numpy(value).float() for value in (judge.coef_, judge.intercept_))


def reward(y):
    """How sure the classifier is of pictures in the model's space."""
    pixels = model.encoding.inverse(y).flatten(1).float().clamp(0.0, 16.0) / 16.0
    return (pixels @ weight.T + bias).softmax(1)[:, WANTED]


# %% [markdown]
# ## Policy and reference
#
# Both are chains of the same levels. `sample_path` draws and keeps states, noise and log-probabilities; under the
# policy that drew them the ratio is exactly 1.

# %%
policy, reference = (gv.AncestralChain(copy.deepcopy(model.pair), STEPS) for _ in range(2))
policy.pair.score.requires_grad_(True)
optimiser = torch.optim.Adam(policy.pair.score.network.parameters(), lr=1e-3)
rows = model.encode(digits.x[held])


def bits(pair):
    """Of held-out digits, per dimension."""
    with torch.no_grad():
        bound = gv.elbo(pair, rows, samples=16).mean()
    return -bound.value / (digits.x[0].numel() * torch.log(torch.tensor(2.0)).item())


# %%
history = []
for k in range(ROUNDS):
    path = policy.sample_path(DRAWS, generator=torch.Generator().manual_seed(k))
    value = reward(path.x)
    advantage = ((value - value.mean()) / value.std()).double()[:, None]
    with torch.no_grad():
        kl = policy.step_kl(reference, path).mean(0)
    history.append((float(value.mean()), kl, bits(policy.pair)))
    print(f"round {k:2d}  reward {history[-1][0]:.3f}  KL {float(kl.sum()):7.2f} nats  {history[-1][2]:.3f} bits/dim")
    for j in torch.randperm(policy.steps, generator=torch.Generator().manual_seed(k)).split(4):
        ratio = (policy.step_log_prob(path, only=j.tolist()) - path.step_log_prob[:, j]).exp()
        clipped = ratio.clamp(1.0 - CLIP, 1.0 + CLIP)
        loss = -torch.minimum(advantage * ratio, advantage * clipped).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

# %% [markdown]
# ## What the reward costs
#
# Left: each round's reward over the bits that held-out digits then take. Right: the steps in which the policy left the
# reference.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
left.plot([h[2] for h in history], [h[0] for h in history], marker="o")
left.set(xlabel="bits per dimension, held-out digits", ylabel=f"probability of a {WANTED}")
right.bar(range(policy.steps), history[-1][1].tolist())
right.set_xlabel("step, from noise to data")
right.set_ylabel("KL from the first model, nats")
figure.tight_layout()
figure.savefig("reward.png")
