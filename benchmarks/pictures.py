"""Pictures for the benchmarks, with as much in them as photographs have."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def picture(width: int, height: int, seed: int = 1) -> Image.Image:
    """Draw what neither compresses to nothing nor resists compression."""
    coarse = np.random.default_rng(seed).integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the bytes of a file in Pillow's format ``kind``."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int, height: int, seed: int = 1) -> bytes:
    """Make a JPEG as a camera does."""
    return encoded(picture(width, height, seed), "JPEG", quality=90)


def numbered(jpeg: bytes, number: int) -> bytes:
    """Return the same picture in other bytes: with a number in a comment (JPEG's COM segment, ITU T.81)."""
    return jpeg[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8) + jpeg[2:]
