"""Images as PNG files and as grids."""

__all__ = ["image_grid", "image_uri", "png_bytes"]

import base64
import io
import math

import numpy as np
from PIL import Image
from torch import Tensor

GAP = 0.12  # of an image's side
SMALL = 48  # pixels that a side is enlarged to, by whole factors


def png_bytes(image: Image.Image) -> bytes:
    """An image as a PNG file.

    Example:
        >>> png_bytes(Image.new("L", (2, 2)))[1:4]
        b'PNG'
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def image_uri(images: Tensor, like: Tensor, columns: int | None = None) -> str:
    """The grid of some images as a ``data:`` address, for a page without other files; see :func:`image_grid`.

    Black and white are the ends of the range of ``like``.
    """
    low, high = float(like.min()), float(like.max())
    grid = image_grid(images.detach().double().cpu().numpy(), low=low, high=high, columns=columns)
    return f"data:image/png;base64,{base64.b64encode(png_bytes(grid)).decode()}"


def image_grid(images: np.ndarray, *, low: float, high: float, columns: int | None = None) -> Image.Image:
    """Images side by side with transparent gaps, enlarged where they are tiny.

    Args:
        images: shape ``n c h w``; one channel is grey, three or more show the first three as colours.
        low: value that is black.
        high: value that is white.
        columns: images in a line; default a square.

    Example:
        >>> image_grid(np.zeros((5, 1, 8, 8)), low=0.0, high=1.0, columns=5).size
        (264, 48)
    """
    n, channels, height, width = images.shape
    across = min(n, columns or math.ceil(math.sqrt(n)))
    factor = max(1, SMALL // max(height, width))
    scaled = np.clip((images.astype(np.float64) - low) / max(high - low, 1e-12), 0.0, 1.0)
    shown = scaled[:, :3] if channels >= 3 else np.repeat(scaled[:, :1], 3, axis=1)
    pixels = np.rint(255.0 * shown).astype(np.uint8).transpose(0, 2, 3, 1)
    wide, high_px = width * factor, height * factor
    gap = max(1, round(GAP * min(wide, high_px) + 0.5))
    grid = Image.new("RGBA", (across * (wide + gap) - gap, math.ceil(n / across) * (high_px + gap) - gap))
    for index, picture in enumerate(pixels):
        row, column = divmod(index, across)
        tile = Image.fromarray(picture).resize((wide, high_px), Image.Resampling.NEAREST)
        grid.paste(tile, (column * (wide + gap), row * (high_px + gap)))
    return grid
