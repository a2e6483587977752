"""What tests of the decoder see of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioning.pictures.decoder import decode_image
from tests.sample_pictures import BLUE, GREEN, GREY, RED

QUADRANTS = (RED, GREEN, BLUE, GREY)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours at the middle of the four quadrants, in reading order."""
    width, height = image.size
    points = [(x, y) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [tuple(np.asarray(image)[y, x].tolist()) for x, y in points]


def assert_close(found: Any, expected: Any, tolerance: int = 0) -> None:
    difference = np.abs(np.asarray(found, dtype=int) - np.asarray(expected, dtype=int)).max()
    assert difference <= tolerance, f"{found!r} is not {expected!r}"


def decoded(data: bytes, **options: Any) -> NDArray[np.uint8]:
    image = decode_image(data, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def reoriented(image: Image.Image, orientation: int) -> Image.Image:
    """Store a picture so that ``orientation`` makes it upright again, worked out on arrays."""
    a = np.asarray(image)
    stored = {
        1: a,
        2: a[:, ::-1],
        3: a[::-1, ::-1],
        4: a[::-1],
        5: a.swapaxes(0, 1),
        6: np.rot90(a, 1),
        7: np.rot90(a, 2).swapaxes(0, 1),
        8: np.rot90(a, -1),
    }[orientation]
    return Image.fromarray(np.ascontiguousarray(stored))
