"""The full-covariance Gaussian: maximum likelihood with a ridge, or shrunk; the validation rows choose."""

__all__ = ["fit_gaussian"]

import time

import torch

from girsanov.densities import Gaussian
from girsanov.peers.data import Peer, PeerData

WIDE = 256  # columns, of which many rows need no shrinkage, whose fit costs more than all ridges
MANY = 20  # rows for each column
RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2)  # shares of the columns' mean variance


def fit_gaussian(data: PeerData, seconds: float) -> Peer:
    """Fit a Gaussian with full covariance.

    Args:
        data: the rows.
        seconds: not needed: the fit is closed form.
    """
    begun = time.monotonic()
    rows = data.training()
    mean, covariance = rows.mean(0), torch.cov(rows.T, correction=0).reshape(data.dim, data.dim)
    values, vectors = torch.linalg.eigh(covariance)
    many = data.dim > WIDE and len(rows) > MANY * data.dim
    candidates: dict[str, Gaussian] = {} if many else {"shrinkage": Gaussian.fit(rows)}
    for ridge in RIDGES:
        added = ridge * float(covariance.diagonal().mean())
        candidates[f"ridge {ridge:g}"] = Gaussian.from_spectrum(mean, vectors, values.clamp_min(0.0) + added)
    scores = data.validations({name: candidate.log_prob for name, candidate in candidates.items()})
    best = max(scores, key=lambda name: scores[name])
    return Peer("gaussian", {"covariance": best}, candidates[best].log_prob, scores[best], time.monotonic() - begun)
