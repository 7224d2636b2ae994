"""Lossless codecs of pictures that everybody knows, on the same held-out images: bits per dimension of a sheet."""

__all__ = ["CODECS", "compressed"]

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

LARGEST = 16_000  # pixels of a sheet's side, which WebP limits to 16,383
GREY = [value for level in range(256) for value in (level, level, level)]
#: codec -> options of pillow's writer. WebP's method 6 takes minutes for ten thousand small images, many times what 4
#: does, for files that are a few hundredths smaller at most.
CODECS: dict[str, Mapping[str, Any]] = {
    "png": {"format": "PNG", "optimize": True},
    "webp": {"format": "WEBP", "lossless": True, "quality": 100, "method": 4},
}


def compressed(levels: Tensor) -> dict[str, float]:
    """Bits per dimension of images of bytes, shape ``n c h w`` with one or three channels, by the codecs at hand.

    All images are on one sheet, so that a file's header does not count; a codec may learn from one image for the next,
    and of a colour image writes colours together. Nothing for other images.

    Example:
        >>> found = compressed(torch.zeros(16, 1, 8, 8, dtype=torch.int64))
        >>> found["png"] < 1.0
        True
    """
    n, channels, height, breadth = levels.shape
    across = max(1, min(math.ceil(math.sqrt(n * height / breadth)), LARGEST // breadth))
    down = math.ceil(n / across)
    bytes_ = bool((levels >= 0).all()) and bool((levels <= 255).all())
    if channels not in (1, 3) or not bytes_ or down * height > LARGEST or not n:
        return {}
    empty = levels.new_zeros(across * down - n, channels, height, breadth)  # costs a file next to nothing
    filled = torch.cat([levels, empty]).to(torch.uint8).unflatten(0, (down, across))
    sheet = filled.permute(0, 3, 1, 4, 2).reshape(down * height, across * breadth, channels)
    picture = Image.fromarray(np.ascontiguousarray(sheet.numpy() if channels == 3 else sheet[..., 0].numpy()))
    found = {name: _size(picture, options) for name, options in CODECS.items() if _at_hand(name)}
    if channels == 1:  # without PNG's filters, and of few levels in fewer bits: of drawings the smaller file
        unfiltered = picture.copy()
        unfiltered.putpalette(GREY[: 3 * (int(filled.max()) + 1)])
        found["png"] = min(found["png"], _size(unfiltered, CODECS["png"]))
    return {name: 8.0 * size / levels.numel() for name, size in found.items()}


def _size(picture: Image.Image, options: Mapping[str, Any]) -> int:
    """Bytes of the file."""
    written = io.BytesIO()
    picture.save(written, **options)
    return len(written.getvalue())


def _at_hand(name: str) -> bool:
    return name != "webp" or bool(features.check("webp"))
