r"""Density models from diffusers' pretrained ones, and pipelines of diffusers from ours.

A pretrained network lives on a range such as [-1, 1]. Images of N levels 0 ... N - 1 are put there as its training
did, level k at :math:`a + (b - a)\, k / (N - 1)`; they are dequantised within their bins, so that a likelihood is the
log-mass of the declared bins and bits per dimension follow from it. The reference is the Gaussian of the range,
:math:`\mathcal{N}((a + b)/2, (b - a)^2/12)`: it depends on no data, serves as control variate, last decoder and
prior's origin, and stands in for the network beyond its log-SNR range.
"""

__all__ = ["Within", "check_density", "density_from_diffusers", "to_diffusers"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from girsanov.adapters.diffusers import DiffusersNetwork, event_shape_of, from_diffusers, latent_scaling, score_pipeline
from girsanov.adapters.diffusers.loading import find_parts, import_diffusers
from girsanov.adapters.diffusers.network import CLASSES, PretrainedHead
from girsanov.adapters.diffusers.selftest import conventions_beside
from girsanov.adapters.evidence import require_evidence
from girsanov.datasets import Schema
from girsanov.datasets.columns import Numeric
from girsanov.datasets.lattice import Lattice
from girsanov.densities import Gaussian
from girsanov.density_model.conditions import Conditioning
from girsanov.density_model.model import DensityModel
from girsanov.encoding import Encoding
from girsanov.pairs import ScoreModel, ScorePair
from girsanov.rows import condition_at
from girsanov.transforms import Dequantise, Standardise, Transform
from girsanov.types import InputError, State

LEVELS = 256
CHECKED, FEWEST = 16, 8  # images of the self-test, and those below which it tells nothing


def density_from_diffusers(
    source: Any,
    scheduler: Any = None,
    *,
    data_range: tuple[float, float] | None = None,
    levels: int | None = LEVELS,
    vae: Any = None,
    event_shape: Sequence[int] | None = None,
    **options: Any,
) -> DensityModel:
    """A density on images from a pretrained diffusers model.

    Args:
        source: see :func:`girsanov.from_diffusers`.
        scheduler: see :func:`girsanov.from_diffusers`.
        data_range: where the network saw its darkest and its brightest value, such as ``(-1, 1)``.
        levels: number N of grey levels of the images, whole numbers 0 ... N - 1; ``None`` for continuous images that
            lie on the network's scale already.
        vae: the autoencoder of a model of latents, in place of range and levels: rows are latents as it encodes them
            (:func:`girsanov.adapters.diffusers.encode_latents`), and their density holds the Jacobian of its scaling.
            It is no density of images.
        event_shape: shape of one row, ``(c, h, w)``; default the network's.
        options: see :func:`girsanov.from_diffusers`; ``check`` takes rows in the network's scale.

    Returns:
        The model; its likelihoods take images in their own levels and return nats per image, of the log-mass of
        their bins, or the log-density of continuous ones.

    Raises:
        InputError: for a range or a number of levels that cannot be, both a range and a ``vae`` or neither, or an
            unknown shape.

    Example:
        >>> model = density_from_diffusers("google/ddpm-cifar10-32", data_range=(-1, 1))  # doctest: +SKIP
        >>> model.elbo(images, samples=64).bits_per_dim()  # doctest: +SKIP
    """
    if (data_range is None) == (vae is None):
        raise InputError(
            "Say where the network's data lay: pass data_range=(low, high), or vae= for a model of latents"
        )
    parts = find_parts(source, scheduler, options.pop("unet", None), options.pop("variant", None))
    shape = tuple(event_shape or event_shape_of(parts.network) or ())
    if not shape:
        raise InputError("The network's settings do not say the rows' shape: pass event_shape=(c, h, w)")
    if data_range is None:
        centre, variance, levels = torch.zeros(shape, dtype=torch.float64), 1.0, None
        transforms = [latent_scaling(vae, shape)]
    else:
        low, high = _checked(data_range, levels)
        centre, variance = torch.full(shape, 0.5 * (low + high), dtype=torch.float64), (high - low) ** 2 / 12.0
        transforms = _to_range(shape, low, high, levels)
    reference = Gaussian(centre, variance)
    pair = from_diffusers(parts.network, parts.scheduler, reference=reference, **options)
    network = pair.score.network  # type: ignore[attr-defined]
    assert isinstance(network, DiffusersNetwork)
    score = ScoreModel(network, pair.process, "noise", reference=reference, head=PretrainedHead(reference))
    schema = Schema(
        "images", shape, (Numeric("pixel", Lattice(step=1.0), (0.0, levels - 1.0)) if levels else Numeric("pixel"),)
    )
    return DensityModel(Encoding(schema, transforms), score, conditioning=_conditioning(network)).eval()


def _checked(data_range: tuple[float, float], levels: int | None) -> tuple[float, float]:
    low, high = data_range
    if not low < high:
        raise InputError(f"The data's range must be low,high with low < high; got {low},{high}")
    if levels is not None and levels < 2:
        raise InputError(f"Images need at least 2 levels; got {levels}")
    return low, high


def _conditioning(network: DiffusersNetwork) -> Conditioning:
    """What the network is conditioned on: labels are their own names, and other conditions have any shape."""
    if network.slot == CLASSES and network.labels:
        return Conditioning(tuple(str(k) for k in range(network.labels)))
    return Conditioning(numbers=network.slot is not None or network.call is not None)


def check_density(model: DensityModel, x: Any, *, rows: int = CHECKED, condition: Any = None) -> None:
    """The self-test of a model from :func:`density_from_diffusers`, on the middle of its images' bins.

    Args:
        model: the model.
        x: images as the model takes them.
        rows: number of images that are used; from 64 on the test is as sharp as it is meant to be.
        condition: of the images, ``n`` or 1, as the model takes it.

    Raises:
        InputError: where the network denoises as another scheduler, prediction or scale claims.
    """
    network = model.score.network
    assert isinstance(network, DiffusersNetwork)
    encoded = model.encode(x).rows
    given = model.encode_condition(condition, len(encoded))
    encoded, given = encoded[:rows], condition_at(given, slice(None, rows))
    y, _ = model.encoding.transforms(encoded, torch.full_like(encoded, 0.5))
    network.notes = network.standing
    if len(y) < FEWEST:
        network.notes += (f"The self-test did not run: it needs {FEWEST} rows or more, and got {len(y)}.",)
        return
    own = network.convention
    conventions = (own, *conventions_beside(own))
    require_evidence(network, y.to(model.pair.dtype(y)), conventions, own.schedule.log_snr_range, given)


@final
class Within(Transform):
    """The identity on values of a closed range, an error on others.

    Args:
        low: lower end.
        high: upper end.
        advice: what to do about values beyond.

    Example:
        >>> Within(-1.0, 1.0)(torch.zeros(1, 2))[1]
        tensor([0.], dtype=torch.float64)
    """

    def __init__(self, low: float, high: float, advice: str = "give the range of the data") -> None:
        super().__init__()
        self.low, self.high, self.advice = low, high, advice

    def forward(self, x: State, uniform: Tensor | None = None) -> tuple[State, Tensor]:
        """Return the rows as they are."""
        del uniform
        if bool(((x < self.low) | (x > self.high)).any()):
            found = f"{float(x.min()):g} to {float(x.max()):g}"
            raise InputError(f"Values run from {found}, beyond {self.low:g} to {self.high:g}: {self.advice}")
        return x, torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def inverse(self, y: State) -> State:
        """Return the rows as they are, even beyond: samples are what they are."""
        return y

    def config(self) -> dict[str, Any]:
        """See :class:`Transform`."""
        return {"low": self.low, "high": self.high, "advice": self.advice}


def _to_range(shape: tuple[int, ...], low: float, high: float, levels: int | None) -> list[Transform]:
    if levels is None:
        return [Within(low, high, "declare the images' levels, or bring the values to the data range")]
    inside = Within(0, levels - 1, "declare the number of the images' levels")
    scale = (levels - 1) / (high - low)
    affine = Standardise(shape, torch.full(shape, -low * scale), torch.full(shape, scale))
    return [inside, Dequantise(shape, torch.ones(shape), torch.zeros(shape)), affine]


def to_diffusers(
    model: DensityModel | ScorePair | ScoreModel,
    folder: str | Path | None = None,
    *,
    event_shape: Sequence[int] | None = None,
    data_range: tuple[float, float] | None = None,
    steps: int = 1000,
) -> Any:
    """A ``DDPMPipeline`` that samples a model of images.

    Args:
        model: a density model of images, any pair of a score model, or the score model.
        folder: where to save the pipeline; only for models that came from diffusers, whose networks it can rebuild.
        event_shape: of one image, for score models without a reference.
        data_range: what a density model's data run from and to, such as ``(0, 255)``: pipelines show it as black to
            white. Default: the model's rows are images of [-1, 1] already.
        steps: training timesteps of the scheduler.

    Returns:
        The pipeline: of the original network and scheduler for a model from diffusers, else of a network that looks
        like a ``UNet2DModel`` and calls the model.

    Raises:
        InputError: for rows that are no images, coordinates that are not one scale apart from images, or a folder
            that could not be read again.

    Example:
        >>> pipeline = to_diffusers(gv.fit("digits"), data_range=(0, 16))  # doctest: +SKIP
        >>> pipeline(batch_size=4).images  # doctest: +SKIP
    """
    score = model if isinstance(model, ScoreModel) else model.score
    if not isinstance(score, ScoreModel):
        raise InputError(f"This pair's score is no network, but a {type(score).__name__}: pass a score model")
    if isinstance(score.network, DiffusersNetwork) and score.network.scheduler is not None:
        diffusers = import_diffusers()
        pipeline = diffusers.DDPMPipeline(unet=score.network.network, scheduler=score.network.scheduler)
        if folder is not None:
            pipeline.save_pretrained(str(folder))
        return pipeline
    if folder is not None:
        raise InputError(
            "Diffusers could not build this network again: save the model itself, and export it when loaded"
        )
    shape = event_shape if event_shape is not None else getattr(score.reference, "event_shape", None)
    if shape is None and isinstance(model, ScorePair):
        shape = model.event_shape or None
    if shape is None:
        raise InputError("This score model does not know its images' shape: pass event_shape=(c, h, w)")
    mean, scale = _to_images(model, tuple(shape), data_range)
    return score_pipeline(score, tuple(shape), steps=steps, mean=mean, scale=scale)


def _to_images(
    model: DensityModel | ScorePair | ScoreModel, shape: tuple[int, ...], data_range: tuple[float, float] | None
) -> tuple[Tensor, float]:
    """Mean and scale of images of [-1, 1] in the model's coordinates (u - mean) / scale."""
    mean, scale = torch.zeros(shape, dtype=torch.float64), 1.0
    members = model.encoding.transforms.members if isinstance(model, DensityModel) else []
    for member in (m for m in members if not isinstance(m, Dequantise | Within)):
        if not isinstance(member, Standardise) or not bool((member.scale == member.scale.flatten()[0]).all()):
            raise InputError("The model's coordinates are no scaled images, so no pipeline can show its samples")
        mean, scale = mean + scale * member.mean, scale * float(member.scale.flatten()[0])
    if data_range is None:
        return mean, scale
    low, high = data_range
    return 2.0 * (mean - low) / (high - low) - 1.0, 2.0 * scale / (high - low)
