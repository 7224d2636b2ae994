"""Images as PNG files and as grids, with the standard library alone: samples are drawn without matplotlib too."""

__all__ = ["data_uri", "image_grid", "png_bytes"]

import base64
import math
import struct
import zlib

import numpy as np

GAP = 0.12  # of an image's side
SMALL = 48  # pixels that a side is enlarged to, by whole factors


def png_bytes(pixels: np.ndarray) -> bytes:
    """A PNG file.

    Args:
        pixels: uint8, shape ``h w`` (grey), ``h w 3`` or ``h w 4``.

    Raises:
        ValueError: for another type or shape.

    Example:
        >>> png_bytes(np.zeros((2, 2), dtype=np.uint8))[1:4]
        b'PNG'
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ValueError(f"expected uint8 pixels h w, h w 3 or h w 4; got {pixels.dtype} {pixels.shape}")
    height, width = pixels.shape[:2]
    colour = {1: 0, 3: 2, 4: 6}[channels]
    # every line starts with its filter, 0: none
    lines = np.zeros((height, 1 + width * channels), dtype=np.uint8)
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def data_uri(png: bytes) -> str:
    """The file as a ``data:`` address, for a page without other files."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def image_grid(images: np.ndarray, *, low: float, high: float, columns: int | None = None) -> np.ndarray:
    """Images side by side with transparent gaps, enlarged where they are tiny.

    Args:
        images: shape ``n c h w``; one channel is grey, three or more show the first three as colours.
        low: value that is black.
        high: value that is white.
        columns: images in a line; default a square.

    Returns:
        uint8 pixels of shape ``H W 4``.

    Example:
        >>> image_grid(np.zeros((5, 1, 8, 8)), low=0.0, high=1.0, columns=5).shape
        (48, 264, 4)
    """
    n, channels, height, width = images.shape
    across = min(n, columns or math.ceil(math.sqrt(n)))
    factor = max(1, SMALL // max(height, width))
    scaled = np.clip((images.astype(np.float64) - low) / max(high - low, 1e-12), 0.0, 1.0)
    shown = scaled[:, :3] if channels >= 3 else np.repeat(scaled[:, :1], 3, axis=1)
    pixels = np.rint(255.0 * shown).astype(np.uint8).transpose(0, 2, 3, 1)
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    high_px, wide_px = height * factor, width * factor
    gap = max(1, round(GAP * min(high_px, wide_px) + 0.5))
    rows = math.ceil(n / across)
    canvas = np.zeros((rows * (high_px + gap) - gap, across * (wide_px + gap) - gap, 4), dtype=np.uint8)
    for index, picture in enumerate(pixels):
        top, left = (index // across) * (high_px + gap), (index % across) * (wide_px + gap)
        canvas[top : top + high_px, left : left + wide_px, :3] = picture
        canvas[top : top + high_px, left : left + wide_px, 3] = 255
    return canvas


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
