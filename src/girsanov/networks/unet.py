r"""The U-Net for images of usual sizes: diffusers' ``UNet2DModel`` behind our calling convention.

Feature maps become channels, log-SNR becomes its time embedding (scaled so that the range of likelihoods spans the
embedding's useful periods), and the output convolution starts at zero. Sides that the down-sampling does not divide
are padded at the edges and cropped again.
"""

__all__ = ["UNet"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from girsanov.networks.conditioning import Signature, condition_map
from girsanov.types import InputError

TIME_SCALE = 1000.0 / 30.0  # diffusers' embeddings expect times up to about 1000; log-SNR spans about 30


class UNet(nn.Module):
    """``UNet2DModel`` on ``b f c h w`` feature maps.

    Args:
        event_shape: ``(c, h, w)``.
        signature: numbers of maps, and what the condition is.
        width: channels at full resolution, a multiple of 8.
        multipliers: channels of each resolution, in units of ``width``.
        layers: residual layers per resolution.
        dropout: rate inside the residual layers.

    Raises:
        InputError: if diffusers is not installed.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        signature: Signature = Signature(),  # noqa: B008  (a frozen value)
        *,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4),
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        try:
            from diffusers.models.unets.unet_2d import UNet2DModel  # pyright: ignore[reportMissingImports]  # an extra
        except ImportError as error:
            raise InputError("The U-Net comes from diffusers: pip install 'girsanov[diffusers]'") from error
        c, height, breadth = event_shape
        self.outputs = signature.outputs
        levels = len(multipliers)
        stride = 2 ** (levels - 1)
        self.margin = (-breadth % stride, -height % stride)
        self.classes = signature.classes
        self.condition = condition_map(signature, 4 * width)
        self.net = UNet2DModel(
            in_channels=signature.inputs * c,
            out_channels=signature.outputs * c,
            block_out_channels=tuple(width * factor for factor in multipliers),
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            layers_per_block=layers,
            norm_num_groups=8,
            dropout=dropout,
            attention_head_dim=8,
            num_class_embeds=self.classes + 1 if self.classes else None,
            class_embed_type="identity" if self.condition is not None else None,
        )
        for parameter in self.net.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, log_snr: Tensor, features: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map ``b f c h w`` to ``b o c h w``."""
        height, breadth = features.shape[-2:]
        x = pad(features.flatten(1, 2), (0, self.margin[0], 0, self.margin[1]))
        labels = None
        if self.classes:
            labels = torch.full_like(log_snr, -1, dtype=torch.int64) if condition is None else condition
            labels = labels + 1
        elif self.condition is not None:
            labels = self.condition(log_snr, condition)
        y = self.net(x, (15.0 - log_snr) * TIME_SCALE, class_labels=labels).sample
        return y[..., :height, :breadth].unflatten(1, (self.outputs, features.shape[2]))
