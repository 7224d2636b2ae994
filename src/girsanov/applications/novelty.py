r"""Novelty scores: is this row unlike the data? Raw log p answers badly, since simple rows score high.

The squared error of the noise predictions splits a log-density into bands of log-SNR, coarse structure in some and fine
in others. With the reference's exact denoiser in closed form and only the network's gain over it sampled,

.. math::
    e_b(x) = \tfrac12 \int_b E\|\varepsilon - \hat\varepsilon\|^2 dl, \qquad
    \log p(x) = \log \mathcal{N}(y; m, S) + \log|\det| + \tfrac12 \sum_b \int_b (\mathrm{mse}_G - \mathrm{mse})\, dl ,

so that one pass yields log p and all bands (note of paper 2, sections 2.4 and 5.1). A rule makes one number of them,
larger where a row is more novel. Rows held out from the fit make conformal p-values of it: for a new row of the same
law, :math:`P(\mathrm{pvalue} \le a) \le a`. The usual errors, their means and covariances, come from other rows: half
of those held out, or such as the fit was chosen by.
"""

__all__ = ["RULES", "BandErrors", "Novelty", "band_errors"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor

from girsanov.densities import Gaussian
from girsanov.display import Shown, Summary
from girsanov.likelihoods import RandomisedRows
from girsanov.likelihoods.baselines import GaussianBaseline
from girsanov.likelihoods.common_noise import systematic
from girsanov.pairs import ScorePair
from girsanov.randomness import keyed_generators, keyed_normal, keyed_uniform, seed_of
from girsanov.rows import by_blocks
from girsanov.solvers import LogSNRDensity
from girsanov.types import InputError, Nats, State, require_count

FEWEST_ROWS = 4  # that moments and p-values each are made of
CHUNK = 2048  # network evaluations per call, fixed so that results do not depend on the number of rows


class Fitted(Protocol):
    """What is asked of a model: what a fitted density model has."""

    @property
    def pair(self) -> ScorePair:
        """The model in its own space, with a Gaussian reference."""
        ...

    def encode(self, x: Any) -> RandomisedRows:
        """Rows as the user has them, and how the model's space sees them."""
        ...


@final
@dataclass(frozen=True, repr=False)
class BandErrors(Shown):
    """What one pass over the rows yields.

    Attributes:
        log_prob: the density formula's value in nats, data units, shape ``n``.
        errors: half the integrated squared error per band, shape ``n b``.
        edges: of the bands in log-SNR, shape ``b + 1``.
    """

    log_prob: Nats
    errors: Tensor
    edges: Tensor

    def __getitem__(self, rows: slice) -> "BandErrors":
        """Those of some rows."""
        return BandErrors(self.log_prob[rows], self.errors[rows], self.edges)


@torch.no_grad()
def band_errors(
    model: Fitted,
    x: Any,
    *,
    bands: int = 8,
    samples: int = 64,
    generator: torch.Generator | None = None,
) -> BandErrors:
    """Integrated squared errors per band of log-SNR, and the log-density that they add up to.

    Args:
        model: a fitted density model; of a mixture, its diffusion is looked at.
        x: rows in data units; discrete columns are dequantised, one draw per row.
        bands: number of bands, of equal shares of the reference's denoising.
        samples: network evaluations per row, rounded down to a multiple of ``bands``.
        generator: read once for a seed; the noise of a row is keyed by its content; ``None`` means seed 0.

    Raises:
        InputError: for fewer samples than bands, or rows that the model cannot read.

    Example:
        >>> import girsanov as gv
        >>> model = gv.fit(torch.randn(100, 2), config=gv.Config(steps=2))
        >>> band_errors(model, torch.zeros(3, 2), bands=4, samples=8).errors.shape
        torch.Size([3, 4])
    """
    if not require_count("bands", bands) <= require_count("samples", samples):
        raise InputError(f"Give one band or more and at least as many samples; got {bands} bands, {samples} samples")
    seed, rows, pair = seed_of(generator), model.encode(x), model.pair
    assert pair.reference is not None
    baseline = GaussianBaseline(pair, None, pair.reference)
    proposal = LogSNRDensity.from_spectrum(*pair.log_snr_range, pair.reference.spectrum())
    edges = proposal.nodes(bands + 1)
    count = samples // bands * bands

    def evaluate(index: Tensor) -> dict[str, Tensor]:
        view = rows.views(rows.rows[index], 1, seed, 0)  # seen once each
        y = view.x[:, 0]
        gain = _gains(baseline, y, proposal, count, bands, seed)
        spans = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        mean = torch.stack([baseline.integral(y, *span) for span in spans], 1)
        log_prob = baseline.reference.log_prob(y) + view.log_det[:, 0] + gain.sum(1)
        return {"log_prob": log_prob, "errors": 0.5 * mean - gain}

    return BandErrors(**by_blocks(evaluate, len(rows), CHUNK // count, rows.rows.device, dim=0), edges=edges)


def _gains(baseline: GaussianBaseline, y: State, proposal: LogSNRDensity, count: int, bands: int, seed: int) -> Tensor:
    """Sampled gains over the reference, shape ``n b``."""
    generators = keyed_generators(seed, "novelty", y)
    offset = keyed_uniform(generators, (1,), y)[:, 0]
    like = y.new_empty(0, dtype=baseline.pair.dtype(y))
    half = keyed_normal(generators, ((count + 1) // 2, *y.shape[1:]), like)
    at, weights = systematic(y, proposal, offset, half, count)
    return (weights * baseline.sampled(at)).reshape(len(y), bands, -1).sum(2)


@final
@dataclass(frozen=True, repr=False)
class Calibration(Shown):
    """Moments on held-out rows.

    Attributes:
        log_prob: mean and standard deviation of log p, shape ``2``.
        mean: of the bands, shape ``b``.
        covariance: of the bands, shrunk (Ledoit-Wolf), shape ``b b``.
    """

    log_prob: Tensor
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, found: BandErrors) -> "Calibration":
        """Moments of these rows."""
        law = Gaussian.fit(found.errors)
        log_prob = torch.stack([found.log_prob.mean(), found.log_prob.std()])
        return cls(log_prob, law.mean, law.covariance)

    def z(self, found: BandErrors) -> Tensor:
        """Bands in units of their held-out spread, shape ``n b``."""
        return (found.errors - self.mean) / self.covariance.diagonal().sqrt()


def _likelihood(calibration: Calibration, found: BandErrors) -> Tensor:
    """Minus log p: the score that fails on rows simpler than the data."""
    del calibration
    return -found.log_prob


def _typicality(calibration: Calibration, found: BandErrors) -> Tensor:
    """Distance of log p from its held-out mean, on either side."""
    mean, spread = calibration.log_prob
    return (found.log_prob - mean).abs() / spread


def _bands(calibration: Calibration, found: BandErrors) -> Tensor:
    """Mahalanobis distance of all bands from their held-out mean."""
    gap = found.errors - calibration.mean
    # elementwise, so that a row's score does not depend on the number of rows beside it
    terms = gap[:, :, None] * torch.linalg.inv(calibration.covariance) * gap[:, None, :]
    return terms.sum((1, 2)).clamp_min(0.0).sqrt()


def _largest_band(calibration: Calibration, found: BandErrors) -> Tensor:
    """The band that is furthest from its held-out mean."""
    return calibration.z(found).abs().amax(1)


#: rules by name: from calibration and band errors to one score per row, larger where a row is more novel
RULES: dict[str, Callable[[Calibration, BandErrors], Tensor]] = {
    "likelihood": _likelihood,
    "typicality": _typicality,
    "bands": _bands,
    "largest_band": _largest_band,
}


@final
class Novelty(Shown):
    """A novelty score, calibrated on rows that the model was not fitted to.

    Args:
        rule: one of :data:`RULES`.
        bands: see :func:`band_errors`.
        samples: see :func:`band_errors`.
        generator: read once for a seed; ``None`` means seed 0.

    Raises:
        InputError: for an unknown rule.

    Example:
        >>> import girsanov as gv
        >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> model = gv.fit(x[:100], config=gv.Config(steps=2))
        >>> novelty = Novelty(samples=16).fit(model, x[100:])
        >>> near, far = novelty.pvalue(torch.tensor([[0.0, 0.5], [9.0, -9.0]])).tolist()
        >>> near > 0.1, round(far, 3)
        (True, 0.02)
    """

    def __init__(
        self,
        rule: str = "bands",
        *,
        bands: int = 8,
        samples: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        if rule not in RULES:
            raise InputError(f"Unknown rule {rule!r}: choose one of {', '.join(RULES)}")
        self.rule = rule
        self.bands = require_count("bands", bands)
        self.samples = require_count("samples", samples, self.bands)
        self.seed = seed_of(generator)
        self._model: Fitted | None = None

    def _summary(self) -> Summary:
        held = 0 if self._model is None else len(self._reference_scores)
        known = (
            f"{held:,} rows, the smallest p-value is {1 / (held + 1):.2g}" if held else "not yet: fit(model, held_out)"
        )
        facts = {
            "rule": self.rule,
            "bands": f"{self.bands}",
            "evaluations": f"{self.samples} per row",
            "held out": known,
        }
        return Summary("Novelty", facts, hint="novelty.pvalue(x): small where a row is unlike the held-out ones")

    def fit(self, model: Fitted, held_out: Any, *, moments: Any = None) -> "Novelty":
        """Calibrate on held-out rows; returns itself.

        Args:
            model: a fitted density model.
            held_out: rows in data units that took no part in the fit, nor in its choice.
            moments: other rows for the usual errors, which may have chosen the fit, such as its validation rows. Left
                out, they are the first half of ``held_out``, whose order must then be random.

        Raises:
            InputError: for fewer than four rows of either kind.
        """
        self._model = model
        found = self._evaluate(held_out)
        if moments is None:
            half = len(found.log_prob) // 2
            usual, found = found[:half], found[half:]
        else:
            usual = self._evaluate(moments)
        if min(len(usual.log_prob), len(found.log_prob)) < FEWEST_ROWS:
            few = f"{2 * FEWEST_ROWS} or more held-out rows, or {FEWEST_ROWS} beside as many for moments"
            raise InputError(f"Calibration needs {few}")
        self._calibration = Calibration.of(usual)
        self._reference_scores = RULES[self.rule](self._calibration, found).sort().values
        return self

    @property
    def model(self) -> Fitted:
        """What it was calibrated with.

        Raises:
            InputError: before it was.
        """
        if self._model is None:
            raise InputError("This novelty score has no model yet: call fit(model, held_out) first")
        return self._model

    @property
    def calibration_rows(self) -> int:
        """Number n of held-out scores: no p-value is below 1 / (n + 1)."""
        return len(self._reference_scores)

    def score(self, x: Any) -> Tensor:
        """Novelty of each row, shape ``n``: larger is more novel."""
        found = self._evaluate(x)
        return RULES[self.rule](self._calibration, found)

    def pvalue(self, x: Any) -> Tensor:
        """Conformal p-value of each row, shape ``n``: the share of held-out scores as large, itself counted."""
        return self.pvalue_of(self.score(x))

    def pvalue_of(self, scores: Tensor) -> Tensor:
        """Conformal p-values of rows whose scores are known, shape ``n``."""
        held = self._reference_scores
        above = len(held) - torch.searchsorted(held, scores.to(held))
        return (above.double() + 1.0) / (len(held) + 1.0)

    def curve(self, x: Any) -> tuple[Tensor, Tensor]:
        """Edges of the bands ``b + 1`` and the rows' errors in units of the held-out spread ``n b``."""
        found = self._evaluate(x)
        return found.edges, self._calibration.z(found)

    def _evaluate(self, x: Any) -> BandErrors:
        generator = torch.Generator().manual_seed(self.seed)
        return band_errors(self.model, x, bands=self.bands, samples=self.samples, generator=generator)
