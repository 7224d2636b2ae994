"""What every peer sees: the same rows with the same dequantisation, standardised, and the way back to data units."""

__all__ = ["Peer", "PeerData"]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from girsanov.datasets import Splits
from girsanov.density_model import DensityModel
from girsanov.display import Shown
from girsanov.encoding import Encoding
from girsanov.randomness import seed_of, stream
from girsanov.transforms import Dequantise, Standardise
from girsanov.types import Estimate, Nats, State

COPIES_OF = 20_000  # training rows that dequantised copies are made to reach
MAX_COPIES = 8
VALIDATION_DRAWS = 4
VALIDATION_ROWS = 2000  # as many as our own choices look at
TEST_DRAWS = 8  # the number of replicates of our own bound, whose draws these are
FEW_DRAWS, WIDE = 2, 256  # of more dimensions, whose draws average each other's noise out
MOST_NUMBERS = 2**24  # in training rows of more dimensions
CHUNK = 4096
BROAD = 0.005  # share of independent Cauchy columns in every peer

#: log-density of flat standardised rows ``n d``, shape ``n``
LogProb = Callable[[Tensor], Nats]


@dataclass(frozen=True, repr=False)
class Peer(Shown):
    """A fitted peer.

    Attributes:
        name: its key in ``PEERS`` or ``LEVEL_PEERS``.
        settings: what was chosen on the validation rows.
        log_prob: log-density of flat standardised rows; where it is ``of_levels``, log-probability of encoded ones.
        validation: mean log-likelihood of the validation rows, nats in data units.
        seconds: what fitting took, all settings that were tried included.
        of_levels: whether it takes whole levels as they are, without dequantisation.
    """

    name: str
    settings: dict[str, Any]
    log_prob: LogProb
    validation: float
    seconds: float
    of_levels: bool = False


@dataclass(frozen=True)
class PeerData:
    """Rows of the three parts, dequantised with the model's own draws and standardised: what a peer's user would do.

    Attributes:
        model: with which the peers are compared.
        x: encoded rows, shape ``n *event_shape``.
        splits: the model's own.
        seed: keys the noise: that of a generator with this seed, which given to the model's own bound makes the same
            dequantisation draws.
    """

    model: DensityModel
    x: State
    splits: Splits
    seed: int = 0

    @cached_property
    def encoding(self) -> Encoding:
        """Dequantisation on the schema's lattice, and one mean and scale per column (one scale for images)."""
        found = Encoding(schema := self.model.schema)
        if schema.discrete:
            found = found.then(Dequantise(schema.event_shape, schema.bin_width, schema.offset))
        # of the dequantised rows: a column with one frequent value varies less than the width of its bins
        y, _ = found.spread(self._learned, stream(self.seed, "scale of peers"), copies=1)
        return found.then(Standardise.fit(y, shared=schema.kind == "images"))

    @property
    def _learned(self) -> State:
        """The training rows; of many long ones a part, which tells a Gaussian as much."""
        train = self.splits.train
        return self.x[train[:: math.ceil(len(train) * self.dim / MOST_NUMBERS)] if self.dim > WIDE else train]

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self.x[0].numel()

    def training(self) -> Tensor:
        """Flat standardised training rows; where columns are dequantised, several copies, shape ``m d``."""
        rows = self._learned
        copies = min(MAX_COPIES, max(1, COPIES_OF // len(rows))) if self.encoding.draws else 1
        return self.spread(rows, stream(self.seed, "training peers"), copies)

    def spread(self, rows: State, generator: torch.Generator, copies: int = 1) -> Tensor:
        """Flat standardised rows with fresh dequantisation noise."""
        return self.encoding.spread(rows, generator, copies)[0].flatten(1)

    def validation(self, log_prob: LogProb) -> float:
        """Mean log-likelihood of the validation rows, nats in data units, every copy of a row with its own draws."""
        return self.validations({"": log_prob})[""]

    def validations(self, log_probs: Mapping[str, LogProb]) -> dict[str, float]:
        """:meth:`validation` of several log-densities, of the same draws."""
        generator, values = stream(self.seed, "validation peers"), {name: [] for name in log_probs}
        for rows in self.x[self.splits.validation][:VALIDATION_ROWS].split(CHUNK):
            y, log_det = self.encoding.spread(rows, generator, VALIDATION_DRAWS)
            for name, log_prob in log_probs.items():
                values[name].append(_with_broad_share(log_prob, y.flatten(1)) + log_det)
        return {name: float(torch.cat(found).mean()) for name, found in values.items()}

    def estimate(self, peer: Peer, rows: State) -> Estimate:
        """Log-likelihood of encoded rows in data units: exact, or the bound that dequantisation gives."""
        common: dict[str, Any] = {"model": "density", "nfe": 0, "event_dim": self.dim}
        if peer.of_levels:
            value = peer.log_prob(rows)
            return Estimate(value, torch.zeros_like(value), kind="exact", measure="mass", **common)
        draws = TEST_DRAWS if self.dim <= WIDE else FEW_DRAWS
        values, common = self._values(peer.log_prob, rows, draws), common | {"measure": self.encoding.measure}
        if self.encoding.draws:
            return Estimate.from_replicates(values, kind="lower_bound", **common)
        return Estimate(values[0], torch.zeros_like(values[0]), kind="exact", **common)

    @torch.no_grad()
    def _values(self, log_prob: LogProb, rows: State, draws: int) -> Tensor:
        """Shape ``r n``; the draws are the first ones that the model's own bound makes for these rows."""
        draws = draws if self.encoding.draws else 1
        parts = []
        for start in range(0, len(rows), CHUNK):
            block = rows[start : start + CHUNK]
            view = self.encoding.view(block, draws, seed_of(torch.Generator().manual_seed(self.seed)))
            values = [_with_broad_share(log_prob, view.x[:, j].flatten(1)) for j in range(draws)]
            parts.append(torch.stack(values) + view.log_det.T)
        return torch.cat(parts, 1)


def _with_broad_share(log_prob: LogProb, y: Tensor) -> Nats:
    """A peer's log-density with a small share of a broad law, as our own models have it: no row can rule a mean."""
    broad = -(torch.log1p(y.double().square()) + math.log(math.pi)).sum(1)
    return torch.logaddexp(log_prob(y).double() + math.log1p(-BROAD), broad + math.log(BROAD))
