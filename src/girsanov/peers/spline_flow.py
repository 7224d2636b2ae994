"""zuko's neural spline flow, autoregressive: two sizes, trained by our own loop as our models are.

What a peer lacks in tuning would otherwise be counted for us.
"""

__all__ = ["fit_spline_flow"]

import time

import torch
from torch import Tensor

from girsanov.density_model.coordinates import train_flow
from girsanov.peers.data import LogProb, Peer, PeerData
from girsanov.transforms import SplineFlow

SETTINGS = {  # of the flow, and of its training
    "small": ({"transforms": 3, "width": 64, "bins": 8}, {"learning_rate": 4e-3, "weight_decay": 0.1}),
    "large": ({"transforms": 5, "width": 128, "bins": 8}, {"learning_rate": 2e-3, "weight_decay": 0.01}),
}
STEPS = 20_000


def fit_spline_flow(data: PeerData, seconds: float) -> Peer:
    """Fit a small and a large flow and keep the one that the validation rows prefer.

    Args:
        data: the rows.
        seconds: time for both together.
    """
    begun, rows = time.monotonic(), data.x[data.splits.train]
    limits = {"steps": STEPS, "time_budget": max(seconds / len(SETTINGS), 1e-3), "seed": data.seed}
    validate = lambda flow: data.validation(_log_prob(flow))  # noqa: E731
    fits = {
        name: train_flow(data.encoding, rows, validate, size, limits | rates, purposes=(6, 7))
        for name, (size, rates) in SETTINGS.items()
    }
    best = max(fits, key=lambda name: fits[name][1])
    flow, value, steps = fits[best]
    size, rates = SETTINGS[best]
    settings = {"size": best, "steps": steps, **size, **rates}
    return Peer("spline_flow", settings, _log_prob(flow), value, time.monotonic() - begun)


def _log_prob(flow: SplineFlow) -> LogProb:
    @torch.no_grad()
    def log_prob(y: Tensor) -> Tensor:
        return flow.log_prob(y).double()

    return log_prob
