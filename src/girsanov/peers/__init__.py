"""Other density models, fitted to the same rows, so that a likelihood has something to stand beside.

Every peer gets standardised rows with the model's own dequantisation draws, nothing that our own model has learned, and
is reported in data units; its choices are made on the validation rows, the test rows are not looked at. To add one,
write ``fit(data, seconds) -> Peer`` and name it in ``PEERS``.
"""

__all__ = ["PEERS", "Peer", "PeerData", "fit_gaussian", "fit_mixture", "fit_spline_flow"]

from collections.abc import Callable

from girsanov.peers.data import Peer, PeerData
from girsanov.peers.gaussian import fit_gaussian
from girsanov.peers.mixture import fit_mixture
from girsanov.peers.spline_flow import fit_spline_flow

PEERS: dict[str, Callable[[PeerData, float], Peer]] = {
    "gaussian": fit_gaussian,
    "mixture": fit_mixture,
    "spline_flow": fit_spline_flow,
}
