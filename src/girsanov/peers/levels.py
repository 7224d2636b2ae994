r"""Tables of whole levels, for images: histograms of each pixel, and of a pixel given quantised neighbours.

Both give the log-probability of an image's levels exactly, without dequantisation. A table of few counts leans on a
coarser one: with :math:`n(q, k)` counts of level k in context q and :math:`\bar p` the coarser table,

.. math:: p(k \mid q) = \frac{n(q, k) + s\, \bar p(k \mid q)}{n(q) + s}.
"""

__all__ = ["LevelImages", "fit_neighbours", "fit_pixels"]

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from girsanov.peers.data import VALIDATION_ROWS, Peer, PeerData
from girsanov.types import Nats, State

STRENGTHS = (0.5, 2.0, 8.0, 32.0, 128.0, 512.0, 2048.0)  # s
CLASSES = (3, 4, 6, 8, 12)  # into which a neighbour's level is put
MOST_CONTEXTS = 2**15
BLOCK = 2048  # images at a time
#: of the pixel's own channel: how many rows up, and columns to the left; the first two are the coarser table's
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))

#: log-probabilities of levels ``n c h w``, shape ``n``, by settings
Tables = dict[str, Callable[[Tensor], Nats]]


@dataclass(frozen=True)
class LevelImages:
    """The rows of :class:`girsanov.peers.PeerData` as whole levels, ``n c h w``, from 0 to ``count - 1``."""

    data: PeerData

    @cached_property
    def lowest(self) -> float:
        """Of the training rows."""
        return min(float(rows.min()) for rows in self._training)

    @cached_property
    def count(self) -> int:
        """The power of two above the largest difference of training levels: 256 of bytes."""
        most = max(int(self._above(rows).max()) for rows in self._training)
        return 2 ** max(1, math.ceil(math.log2(1 + most)))

    @property
    def _training(self) -> Iterator[State]:
        """Training rows, a block at a time: all of them again would be much memory."""
        for index in self.data.splits.train.split(BLOCK):
            yield self.data.x[index]

    def _above(self, rows: State) -> Tensor:
        return ((rows - self.lowest) / self.data.model.schema.bin_width).round().long()

    def of(self, rows: State) -> Tensor:
        """Levels of encoded rows; what lies outside is put at an end, which favours the table."""
        return self._above(rows).clamp(0, self.count - 1)

    def blocks(self, part: Tensor) -> Iterator[Tensor]:
        """Levels of some rows, a block at a time."""
        for index in part.split(BLOCK):
            yield self.of(self.data.x[index])

    def chosen(
        self,
        name: str,
        tables: dict[str, Callable[[Tensor], Nats]],
        settings: dict[str, dict[str, float]],
        begun: float,
    ) -> Peer:
        """The one of several log-probabilities of levels that the validation rows prefer."""
        held = self.data.splits.validation[:VALIDATION_ROWS]
        values = {
            key: float(torch.cat([table(levels) for levels in self.blocks(held)]).mean())
            for key, table in tables.items()
        }
        best = max(values, key=lambda key: values[key])
        log_prob = lambda rows: tables[best](self.of(rows))  # noqa: E731
        return Peer(name, settings[best], log_prob, values[best], time.monotonic() - begun, of_levels=True)


def fit_pixels(data: PeerData, seconds: float) -> Peer:
    """A histogram of each pixel's levels, leaning on that of all pixels.

    Args:
        data: the rows.
        seconds: not needed: counting is quick.
    """
    begun, images = time.monotonic(), LevelImages(data)
    d = data.dim
    counts = torch.zeros(d * images.count, dtype=torch.float64)
    for levels in images.blocks(data.splits.train):
        index = torch.arange(d) * images.count + levels.flatten(1)
        counts += torch.bincount(index.flatten(), minlength=d * images.count)
    counts = counts.reshape(d, images.count)
    coarser = _leaning(counts.sum(0, keepdim=True), torch.full((1, images.count), 1.0 / images.count), 1.0)
    tables: Tables = {}
    settings: dict[str, dict[str, float]] = {}
    for strength in STRENGTHS:
        table = _leaning(counts, coarser, strength).log()
        tables[f"{strength}"] = lambda levels, table=table: (
            table.expand(len(levels), -1, -1).gather(2, levels.flatten(1)[..., None])[..., 0].sum(1)
        )
        settings[f"{strength}"] = {"smoothing": strength}
    return images.chosen("pixels", tables, settings, begun)


def fit_neighbours(data: PeerData, seconds: float) -> Peer:
    """A histogram of a pixel's level for each context: its four causal neighbours, and its own earlier channels.

    Args:
        data: the rows.
        seconds: the search for numbers of classes stops once so many have passed.
    """
    begun, images = time.monotonic(), LevelImages(data)
    tables: Tables = {}
    settings: dict[str, dict[str, float]] = {}
    for classes in CLASSES:
        channels = data.model.schema.event_shape[0]
        many = classes ** (len(NEIGHBOURS) + channels - 1) * channels > MOST_CONTEXTS
        if tables and (many or time.monotonic() - begun > seconds):
            break
        contexts = _Contexts(images, classes)
        fine, coarse = contexts.counts()
        for strength in STRENGTHS:
            table = contexts.table(fine, coarse, strength)
            key = f"{classes} {strength}"
            tables[key] = lambda levels, contexts=contexts, table=table: contexts.log_prob(table, levels)
            settings[key] = {"classes": classes, "smoothing": strength}
    return images.chosen("neighbours", tables, settings, begun)


class _Contexts:
    """What is known of a pixel before its level is read, as a number."""

    def __init__(self, images: LevelImages, classes: int) -> None:
        self.images, self.classes = images, classes
        self.channels = images.data.model.schema.event_shape[0]
        self.coarse = classes**2  # contexts of the coarser table in each channel
        self.fine = classes ** (len(NEIGHBOURS) + self.channels - 1)
        self.edges = self._edges()

    def _edges(self) -> Tensor:
        """Upper ends of classes: the lowest level, then equal shares of the levels between, the highest for itself."""
        levels = next(self.images.blocks(self.images.data.splits.train)).flatten().double()
        top = float(levels.max())
        between = levels[(levels > 0) & (levels < top)]
        between = between if len(between) else levels
        shares = torch.linspace(0.0, 1.0, self.classes - 1, dtype=torch.float64)[1:-1]
        inner = between.quantile(shares)
        ends = torch.tensor([0.5, top - 0.5], dtype=torch.float64)
        return torch.cat([ends[:1], inner.floor() + 0.5, ends[1:]])

    def of(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Fine and coarse contexts of every pixel, ``n c h w`` each."""
        quantised = torch.bucketize(levels.double(), self.edges).clamp_max(self.classes - 1)
        height, breadth = levels.shape[2:]
        around = pad(quantised, (1, 1, 1, 0))  # as dark as can be beyond the frame
        near = [around[:, :, 1 - up : 1 - up + height, 1 - left : 1 - left + breadth] for up, left in NEIGHBOURS]
        channel = torch.arange(self.channels)[:, None, None]
        coarse = (channel * self.classes + near[0]) * self.classes + near[1]
        fine = coarse
        for other in near[2:]:
            fine = fine * self.classes + other
        for back in range(1, self.channels):
            earlier = torch.zeros_like(quantised)
            earlier[:, back:] = quantised[:, : self.channels - back]
            fine = fine * self.classes + earlier
        return fine, coarse

    def counts(self) -> tuple[Tensor, Tensor]:
        """Of levels in every fine and every coarse context."""
        k = self.images.count
        found = [torch.zeros(self.channels * size * k, dtype=torch.float64) for size in (self.fine, self.coarse)]
        for levels in self.images.blocks(self.images.data.splits.train):
            for total, context in zip(found, self.of(levels), strict=True):
                total += torch.bincount((context * k + levels).flatten(), minlength=len(total))
        fine, coarse = (total.reshape(-1, k) for total in found)
        return fine, coarse

    def table(self, fine: Tensor, coarse: Tensor, strength: float) -> Tensor:
        """Log-probabilities of levels in fine contexts."""
        k = self.images.count
        pooled = coarse.reshape(self.channels, -1, k).sum(1)
        pooled = _leaning(pooled, torch.full((1, k), 1.0 / k), 1.0).repeat_interleave(self.coarse, 0)
        parents = _leaning(coarse, pooled, strength).repeat_interleave(self.fine // self.coarse, 0)
        return _leaning(fine, parents, strength).log().float()

    def log_prob(self, table: Tensor, levels: Tensor) -> Nats:
        """Of images, ``n``."""
        fine, _ = self.of(levels)
        return table.flatten()[fine * self.images.count + levels].double().flatten(1).sum(1)


def _leaning(counts: Tensor, coarser: Tensor, strength: float) -> Tensor:
    """Shares of levels, with a coarser table's in the weight of so many counts."""
    return (counts + strength * coarser) / (counts.sum(1, keepdim=True) + strength)
