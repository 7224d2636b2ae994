"""Other density models, fitted to the same rows, so that a likelihood has something to stand beside.

Every peer gets standardised rows with the model's own dequantisation draws, nothing that our own model has learned, and
is reported in data units; its choices are made on the validation rows, the test rows are not looked at. To add one,
write ``fit(data, seconds) -> Peer`` and name it in ``PEERS``, or in ``LEVEL_PEERS``.
"""

__all__ = [
    "LEVEL_PEERS",
    "PEERS",
    "SEARCHES",
    "Peer",
    "PeerData",
    "compressed",
    "fit_gaussian",
    "fit_mixture",
    "fit_neighbours",
    "fit_pixels",
    "fit_spline_flow",
    "peers_for",
]

import math
from collections.abc import Callable

from girsanov.datasets import Schema
from girsanov.peers.codecs import compressed
from girsanov.peers.data import Peer, PeerData
from girsanov.peers.gaussian import fit_gaussian
from girsanov.peers.levels import fit_neighbours, fit_pixels
from girsanov.peers.mixture import fit_mixture
from girsanov.peers.spline_flow import fit_spline_flow

FitPeer = Callable[[PeerData, float], Peer]

#: of any rows, by the name under which a report lists them
PEERS: dict[str, FitPeer] = {
    "gaussian": fit_gaussian,
    "mixture": fit_mixture,
    "spline_flow": fit_spline_flow,
}

#: of images of whole levels, as exact log-probabilities
LEVEL_PEERS: dict[str, FitPeer] = {"pixels": fit_pixels, "neighbours": fit_neighbours}


#: those that use whatever time they are given
SEARCHES = frozenset({"mixture", "spline_flow"})
LARGE = 256  # dimensions of images


def peers_for(schema: Schema) -> dict[str, FitPeer]:
    """The peers of rows of a schema, quick ones first.

    Example:
        >>> from girsanov.datasets import load
        >>> list(peers_for(load("digits").schema))
        ['pixels', 'neighbours', 'gaussian', 'mixture', 'spline_flow']
    """
    if schema.kind != "images":
        return PEERS
    found = LEVEL_PEERS | PEERS if bool((schema.bin_width > 0).all()) else PEERS
    # Of larger images a mixture gets no further in a fit's time than its first component, which is the Gaussian, and
    # the flow a few steps: there they would stand as if a mixture or a flow could do no better.
    searched = math.prod(schema.event_shape) <= LARGE
    return {name: fit for name, fit in found.items() if searched or name not in SEARCHES}
