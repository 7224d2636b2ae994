r"""Peers that the bridges are set beside: [SF]2M of torchcfm, and published numbers.

[SF]2M (Tong et al., 2024) regresses a flow and a score on the reference pinned at pairs of a minibatch plan. What is
run here is the class ``SchrodingerBridgeConditionalFlowMatcher`` of torchcfm with the two losses of its examples,

.. math:: E\|v(t, X_t) - u_t\|^2 + E\|\lambda_t s(t, X_t) + \varepsilon\|^2 ,

and the process :math:`dX = (v + s)\, dt + \sigma\, dW`; networks are those of our own bridges, in coordinates with unit
spread, so that the comparison is of methods.
"""

__all__ = ["SF2M", "published", "torchcfm_from"]

import copy
import importlib
import sys
import time
import warnings
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from girsanov.bridges import BridgeNetwork, NetworkConfig


def torchcfm_from(folder):
    """The module torchcfm, from a folder put first on the path or as installed; ``None`` where it is absent."""
    if folder is not None:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("torchcfm")
    except ImportError:
        return None


def published(name):
    """Numbers of the literature as collected in the note of paper 3, section 6.1: context, other instances or sizes."""
    tables = {
        "gaussian KL(p_1), mean KL(p_t), d = 5/20/50": {
            "SF2M-Exact": [[0.007, 0.029, 0.124], [0.006, 0.028, 0.258]],
            "DSBM-IPF": [[0.015, 0.132, 0.528], [0.005, 0.050, 0.221]],
            "SB-CFM": [[0.001, 0.034, 0.170], [0.008, 0.086, 0.447]],
            "DSB": [[8.757, 49.96, 221.2], [8.757, 49.96, 221.2]],
        },
        "shifted unit Gaussians, a = 0.1, d = 50, 1e-3 nats (second-hand)": {
            "DSBM-IPF": 8.75, "DSBM-IMF": 9.76, "DSB": 32.8, "SB-CFM": 49.4,
        },
        "mixture cBW2-UVP %, eps = 0.1 / 1 / 10, d = 2/16/64": {
            "LightSB (second-hand)": [[0.03, 0.08, 0.28], [0.05, 0.09, 0.24], [0.07, 0.11, 0.21]],
            "SF2M-Sink (unverified)": [[0.54, 3.7, 9.5], [0.2, 1.1, 9.0], [0.31, 4.9, 319.0]],
            "DSBM (unverified)": [[5.2, 16.8, 37.3], [0.3, 1.1, 9.7], [3.7, 105.0, 3557.0]],
        },
        "cite W1, 50 components": {"SF2M-Geo": 38.5, "SF2M-Exact": 40.0, "DSBM": 53.8},
    }  # fmt: skip
    return {key: value for key, value in tables.items() if key.startswith(name)}


class SF2M(nn.Module):
    """Flow and score networks over one or more neighbouring sections of time, each one unit long.

    Args:
        torchcfm: the module.
        dim: number of dimensions.
        sigma: noise level of the reference.
        plan: minibatch plan, ``exact`` (the class's default) or ``sinkhorn``.
        network: size of either network.
        spread: standard deviation of the states, a number.
        seed: keys everything random.
    """

    def __init__(self, torchcfm, dim, sigma, *, plan="exact", network=None, spread=1.0, seed=0):
        super().__init__()
        self.matcher = torchcfm.SchrodingerBridgeConditionalFlowMatcher(sigma=sigma, ot_method=plan)
        self.sigma, self.spread, self.seed, self.sections = sigma, spread, seed, 1
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            size = network or NetworkConfig()
            self.flow, self.score = BridgeNetwork((dim,), size), BridgeNetwork((dim,), size)

    def velocity(self, t, x):
        """Of the flow, at times in units of sections."""
        return self.spread * self.flow(t / self.sections, x / self.spread)

    def pull(self, t, x):
        """Half of sigma^2 times the score: what the process adds to the flow."""
        return self.sigma * self.score(t / self.sections, x / self.spread)

    def fit(self, sections, *, steps=2000, batch=256, learning_rate=1e-3, decay=0.995, seconds=None):
        """Train on ``[(x0, x1), ...]`` of neighbouring sections; returns the seconds spent and the steps taken."""
        self.sections, start = len(sections), time.perf_counter()
        generator = torch.Generator().manual_seed(self.seed)
        np.random.seed(self.seed)  # torchcfm draws its plans from numpy's global state
        optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate)
        rate = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, learning_rate, total_steps=steps, pct_start=min(0.1, 200 / steps), final_div_factor=4
        )
        average, done = copy.deepcopy(self), 0
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            for done in range(1, steps + 1):
                loss = sum(self._loss(i, *ends, batch // len(sections), generator) for i, ends in enumerate(sections))
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters(), 1.0)
                optimizer.step()
                rate.step()
                keep = min(decay, done / (done + 10.0))
                with torch.no_grad():
                    for p, q in zip(average.parameters(), self.parameters(), strict=True):
                        p.lerp_(q, 1.0 - keep)
                if seconds is not None and time.perf_counter() - start > seconds:
                    break
        self.load_state_dict(average.state_dict())
        return time.perf_counter() - start, done

    def _loss(self, i, x0, x1, batch, generator):
        rows = [x[torch.randint(len(x), (batch,), generator=generator)] for x in (x0, x1)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Sinkhorn iterations that have not converged
            t, x, u, eps = self.matcher.sample_location_and_conditional_flow(*rows, return_noise=True)
        weight = self.matcher.compute_lambda(t)[:, None]
        flow = (self.velocity(t + i, x) - u) / self.spread
        return flow.square().mean() + (weight * self.pull(t + i, x) + eps).square().mean()

    @torch.no_grad()
    def move(self, x, times, *, noise=True, generator=None):
        """Euler-Maruyama (or Euler, of the flow) along increasing ``times`` in units of sections: all states."""
        generator, states = generator or torch.Generator().manual_seed(0), [x]
        for s, t in pairwise(times):
            at = torch.full((1,), float(s if noise else 0.5 * (s + t)))  # one time for all rows
            width = float(t - s)
            drift = self.velocity(at, x)
            if noise:
                eps = torch.randn(x.shape, generator=generator)
                x = x + width * (drift + self.pull(at, x)) + self.sigma * width**0.5 * eps
            else:
                x = x + width * drift
            states.append(x)
        return torch.stack(states)
