r"""Which closed forms stand beside a fitted diffusion, and with which weights: held-out rows say so.

Of few rows every fit is a draw of its own, and the average of several is likelier than each of them: mixtures of
Gaussians are fitted to the training rows less one fold, for several numbers of components and ridges, and those of the
best settings, of all folds, are one mixture. On 128 rows of 13 columns that gains 0.7 nats over the best single one.
A small share of it is a Gaussian ten times as wide as the rows: one of a thousand rows that no component expects would
else cost as much as all others together (on the 20 columns of parkinsons 0.6 nats a row, 4 on other rows).

The weights are those of the largest posterior, given validation rows, under a Dirichlet prior that counts for ten of
them (expectation maximisation). Few rows, by which the training was stopped before, so hedge rather than choose, and
many choose. Of many training rows, the closed forms are left out unless held-out rows gain by them, beyond the error of
their mean; of few, whose diffusion is more often behind than they can tell, where they lose beyond twice that error.
"""

__all__ = ["companions_of", "mixed_with"]

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from girsanov.datasets import Data, Splits
from girsanov.densities import GaussianMixture
from girsanov.densities.fitting import broad_gaussian, fit_gaussians, joined
from girsanov.density_model.config import Config, FitConfig
from girsanov.density_model.fresh import fresh_elbo
from girsanov.density_model.mixed import Companion, Mixed
from girsanov.density_model.model import DensityModel
from girsanov.encoding import COPIES, MOST_COPIES, Encoding
from girsanov.networks import MixtureHead
from girsanov.randomness import stream
from girsanov.transforms import Dequantise, SplineFlow, Standardise
from girsanov.types import State

COMPONENTS, OF_MANY_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32), (1, 4, 8, 16, 32, 48)
RIDGES = (1e-6, 1e-5, 1e-3, 1e-2, 1e-1)
FOLDS, AVERAGED, PATIENCE = 5, 4, 2  # folds, best settings whose fits are averaged, numbers of components without gain
BROAD_SHARE, BROAD_SCALE = 1e-3, 10.0  # of the widest component, and its size beside that of the rows
FEW = 2000  # training rows up to which all folds are fitted; of more, one
MOST_ROWS = 20_000
ITERATIONS = 60
SHARE, SECONDS = 0.15, 25.0  # of a time budget, else in seconds
SPEED, OVERHEAD = 6e9, 400  # multiplications in each, and as many as a row's other work in one component takes
PRIOR = {"diffusion": 1.0, "start": 1.0, "mixture": 8.0}  # validation rows that these weights count for
WEIGHED_ROWS, SAMPLES, ROUNDS = 512, 64, 300


def companions_of(model: DensityModel, data: Data, splits: Splits, config: FitConfig) -> list[Companion]:
    """The closed forms that may stand beside a model of a table: its start, and a mixture of Gaussians.

    Args:
        model: prepared, not yet trained.
        data: all rows.
        splits: of which the training rows are fitted to.
        config: of the fit.

    Returns:
        Nothing for images, conditional models, continuous flows, and dequantisation noise other than uniform.
    """
    if (
        not isinstance(config, Config)
        or not config.mixed
        or config.conditional
        or config.dequantise not in (None, "uniform")
    ):
        return []
    if len(data.schema.event_shape) != 1:
        return []
    found = [Companion("start", _start(model))]
    encoding = Encoding(data.schema)
    if data.schema.discrete:
        encoding = encoding.then(Dequantise(data.schema.event_shape, data.schema.bin_width, data.schema.offset))
    rows, limit = data.x[splits.train].cpu(), max(2, MOST_ROWS // COPIES)
    y, _ = encoding.spread(rows, stream(config.seed, "scale of companions"), copies=1)
    encoding = encoding.then(Standardise.fit(y))
    law = _averaged_mixtures(encoding, rows[:limit], config)
    return found if law is None else [*found, Companion("mixture", law, encoding)]


def _start(model: DensityModel) -> GaussianMixture:
    """The law in the model's space that its training starts from."""
    head, d = model.score.head, model.reference.event_dim
    if isinstance(head, MixtureHead):
        return head.mixture
    if any(isinstance(member, SplineFlow) for member in model.encoding.transforms.members):
        return GaussianMixture(torch.ones(1), torch.zeros(1, d), torch.eye(d)[None])
    return GaussianMixture(torch.ones(1), model.reference.mean[None], model.reference.covariance[None])


def _averaged_mixtures(encoding: Encoding, rows: State, config: Config) -> GaussianMixture | None:
    """Mixtures of the best settings, fitted to the rows less a fold each; ``None`` where no setting works."""
    few = len(rows) < FEW
    copies = (COPIES if few else 2) if encoding.draws else 1
    y = encoding.spread(rows, stream(config.seed, "companions"), copies)[0].numpy()
    fold, counts = np.repeat(np.arange(len(rows)) % FOLDS, copies), COMPONENTS if few else OF_MANY_ROWS
    broad = broad_gaussian(y, BROAD_SCALE, RIDGES[0])
    tried = _search(y, fold, range(FOLDS if few else 1), [n for n in counts if 4 * n <= len(rows)], config, broad)
    if not tried:
        return None
    fits = [fit for _, _, fits in tried[:AVERAGED] for fit in fits]
    return joined([*fits, broad], [(1.0 - BROAD_SHARE) / len(fits)] * len(fits) + [BROAD_SHARE])


def _search(
    y: np.ndarray, fold: np.ndarray, folds: range, counts: Sequence[int], config: Config, broad: Any
) -> list[tuple[float, float, list[Any]]]:
    """Values on the rows left out, ridges and fits of the settings that were tried, the best first.

    More components as long as they pay and there is time, with the ridges about the best so far.
    """
    allowed = (SECONDS if config.time_budget is None else SHARE * config.time_budget) * SPEED
    iterations = min(ITERATIONS, config.steps or ITERATIONS)
    tried, ridges, stale, spent = [], RIDGES, 0, 0.0
    for count in counts:
        spent += len(folds) * len(ridges) * iterations * count * len(y) * (y.shape[1] ** 2 + OVERHEAD)
        if stale == PATIENCE or (count > 1 and spent > allowed):
            break
        best = max((value for value, _, _ in tried), default=-math.inf)
        for ridge in ridges:
            options = [{"seed": (config.seed + k) % 2**31, "iterations": iterations} for k in folds]
            fits = [fit_gaussians(y[fold != k], count, ridge, **given) for k, given in zip(folds, options, strict=True)]
            if all(fit is not None for fit in fits):
                values = [_with_broad_share(fit, broad, y[fold == k]) for fit, k in zip(fits, folds, strict=True)]
                tried.append((float(np.concatenate(values).mean()), ridge, fits))
        tried.sort(key=lambda entry: -entry[0])
        stale = 0 if tried and tried[0][0] > best else stale + 1
        if tried:
            near = RIDGES.index(tried[0][1])
            ridges = RIDGES[max(0, near - 1) : near + 2]
    return tried


def _with_broad_share(fit: Any, broad: Any, y: np.ndarray) -> np.ndarray:
    """Log-densities of rows under a mixture of which the broad law has its share."""
    own, wide = fit.score_samples(y), broad.score_samples(y)
    return np.logaddexp(own + math.log1p(-BROAD_SHARE), wide + math.log(BROAD_SHARE))


@torch.no_grad()
def mixed_with(
    model: DensityModel, companions: Sequence[Companion], data: Data, splits: Splits, config: FitConfig
) -> DensityModel:
    """The mixture of a fitted model and closed forms that the validation rows ask for, or the model as it is.

    Args:
        model: fitted.
        companions: as :func:`companions_of` returns them.
        data: all rows, where the model is.
        splits: of which the validation rows weigh.
        config: of the fit.
    """
    if not companions:
        return model
    parts = [companion.to(model.device) for companion in companions]
    values = _held_out(model, parts, data[splits.validation[:WEIGHED_ROWS]], config.seed).cpu()
    weights = _weights(values, torch.tensor([PRIOR[name] for name in ("diffusion", *(part.name for part in parts))]))
    gain = (values + weights.log()).logsumexp(1) - values[:, 0]
    if not _worth_having(gain, len(splits.train)):
        return model
    found = Mixed(weights, parts).to(model.device)
    return model.replace(mixed=found, record={**model.record, "mixed": found.shares})


def _worth_having(gain: Tensor, training_rows: int) -> bool:
    """Whether the mixture stays, by what each validation row gains by it."""
    error = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
    return float(gain.mean()) > (-2.0 * error if training_rows < FEW else error)


def _held_out(model: DensityModel, companions: Sequence[Companion], rows: Data, seed: int) -> Tensor:
    """Log-densities of rows under the diffusion and every closed form, ``n j``, in data units, with fresh noise."""
    values, copies = [fresh_elbo(model, rows, stream(seed, "weights"), samples=SAMPLES).value], MOST_COPIES
    for companion in companions:
        y, log_det = (companion.encoding or model.encoding).spread(rows.x, stream(seed, "weights"), copies)
        values.append((companion.law.log_prob(y) + log_det).reshape(len(rows), -1).mean(1))
    return torch.stack(values, 1)


def _weights(values: Tensor, prior: Tensor) -> Tensor:
    """Weights of the largest posterior, from log-densities ``n j`` of rows under every part, shape ``j``."""
    weights = prior.double() / prior.sum()
    for _ in range(ROUNDS):
        shares = (values + weights.log()).softmax(1)
        weights = (shares.sum(0) + prior) / (len(values) + prior.sum())
    return weights
