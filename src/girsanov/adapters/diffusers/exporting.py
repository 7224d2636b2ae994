r"""A score as a network that diffusers' pipelines can sample.

The network predicts the noise at the timesteps of an ordinary ``DDPMScheduler``, whose betas follow the model's own
log-SNR range: with :math:`l_k` evenly spaced from the data end to the noise end,
:math:`1 - \beta_k = \bar\alpha_k / \bar\alpha_{k-1}`, :math:`\bar\alpha_k = \mathrm{sigmoid}(l_k)`.

Pipelines show images of [-1, 1]. Where the model lives in other coordinates, :math:`y = (u - m) / s` with one scale s,
noising commutes with the map: u at log-SNR l is y at :math:`l + 2 \log s`, and its noise is the same.
"""

__all__ = ["score_pipeline"]

import math
from typing import Any

import torch
from torch import Tensor, nn

from girsanov.adapters.diffusers.loading import import_diffusers
from girsanov.adapters.schedules import signal_and_noise
from girsanov.calculus import expand_as_rows
from girsanov.pairs.score_model import ScoreModel
from girsanov.types import InputError

FINEST = 12.0  # log-SNR at the data end beyond which the scheduler's single precision does not follow


def score_pipeline(
    model: ScoreModel,
    event_shape: tuple[int, ...],
    *,
    steps: int = 1000,
    mean: Tensor | None = None,
    scale: float = 1.0,
) -> Any:
    """A ``DDPMPipeline`` of any score model.

    Args:
        model: the score model.
        event_shape: ``(c, h, w)``.
        steps: number of training timesteps of the scheduler.
        mean: m of the map from the pipeline's images u to the model's rows (u - m) / s, shape ``event_shape``.
        scale: s.

    Raises:
        InputError: for rows that are no images.
    """
    if len(event_shape) != 3:
        raise InputError(f"Pipelines sample images (c, h, w); the model's rows have shape {tuple(event_shape)}")
    diffusers = import_diffusers()
    low, high = (level - 2.0 * math.log(scale) for level in model.log_snr_range)
    levels = torch.linspace(min(high, FINEST), low, steps, dtype=torch.float64)
    alpha_bar = torch.sigmoid(levels)
    betas = 1.0 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=steps, trained_betas=betas.tolist(), prediction_type="epsilon", clip_sample=False
    )
    shift = torch.zeros(event_shape) if mean is None else mean
    kind = type("ScoreNetwork", (_Exported, diffusers.ModelMixin), {})
    return diffusers.DDPMPipeline(unet=kind(model, levels, shift, scale), scheduler=scheduler)


class _Exported(nn.Module):
    """A score model with the face of a ``UNet2DModel``; diffusers' own base is added where diffusers is there."""

    levels: Tensor
    shift: Tensor

    def __init__(self, model: ScoreModel, levels: Tensor, shift: Tensor, scale: float) -> None:
        super().__init__()
        from diffusers.configuration_utils import FrozenDict  # pyright: ignore[reportMissingImports]  # an extra

        channels, *size = shift.shape
        settings = {"sample_size": tuple(size), "in_channels": channels, "out_channels": channels}
        self._internal_dict = FrozenDict(settings)
        self.model, self.scale = model, scale
        self.register_buffer("levels", levels)
        self.register_buffer("shift", shift.double())

    @property
    def config(self) -> Any:
        """Sizes, as a pipeline asks for them."""
        return self._internal_dict

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of images: the network's, else single precision."""
        return next((p.dtype for p in self.model.parameters()), torch.float32)

    def forward(
        self, sample: Tensor, timestep: Any, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> Any:
        """Noise prediction at scaled images ``b c h w`` and the scheduler's timesteps."""
        from diffusers.models.unets.unet_2d import UNet2DOutput  # pyright: ignore[reportMissingImports]

        index = torch.as_tensor(timestep, device=sample.device).long().reshape(-1).expand(len(sample))
        levels = self.levels[index]
        alpha, sigma = signal_and_noise(levels)
        y = (sample - expand_as_rows(alpha, sample) * self.shift.to(sample.dtype)) / self.scale
        unit = expand_as_rows((alpha.square() + (sigma / self.scale).square()).sqrt(), y)
        inner = levels + 2.0 * math.log(self.scale)
        noise = self.model.noise(inner, y / unit, class_labels).to(sample.dtype)
        return UNet2DOutput(sample=noise) if return_dict else (noise,)

    def save_pretrained(self, *args: Any, **options: Any) -> None:
        """Refused: diffusers could not build this network again."""
        raise InputError("This network is none of diffusers': save the model itself, and export it after loading")
