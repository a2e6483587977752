"""Large JPEGs are read at a reduced scale, where that costs no caption."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from captioning.pictures.decoder import decode_image, open_image
from tests.pictures.decoded import QUADRANTS, assert_close, corners, decoded, reoriented
from tests.sample_pictures import RED, encoded, exif, quadrants

# The decoder silences Pillow's warnings; pytest's "error" would outrank that filter.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")


def _noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    bands = {"L": 1, "P": 1, "RGB": 3, "RGBA": 4, "LA": 2, "CMYK": 4}[mode]
    smooth = rng.integers(0, 256, (height // 16, width // 16, bands), dtype=np.uint8)
    full = np.kron(smooth, np.ones((16, 16, 1), np.uint8))
    return Image.frombytes(mode, (full.shape[1], full.shape[0]), full.tobytes())


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [
        ((1000, 900), 100, (500, 450)),
        ((2400, 2400), 100, (300, 300)),
        ((5000, 650), 100, (2500, 325)),
        ((599, 4000), 100, (599, 4000)),
        ((4000, 4000), None, (4000, 4000)),
    ],
)
def test_jpegs_are_reduced_while_both_sides_stay_three_times_the_target(
    size: tuple[int, int], target: int | None, expected: tuple[int, int]
) -> None:
    opened = open_image(encoded(Image.new("RGB", size, RED), "JPEG"), target_size=target)
    assert opened.pixels == expected[0] * expected[1]
    picture = opened.decode()
    assert picture.size == expected
    assert_close(np.asarray(picture.crop((0, 0, 1, 1)))[0, 0], RED, 3)


@pytest.mark.parametrize("orientation", [3, 6])
def test_reduced_pictures_are_turned(orientation: int) -> None:
    stored = reoriented(quadrants(1200, 800), orientation)
    image = decode_image(encoded(stored, "JPEG", exif=exif(orientation)), target_size=100)
    assert image.size == (600, 400)
    assert_close(corners(image), QUADRANTS, 5)


def test_below_the_threshold_not_a_bit_changes() -> None:
    data = encoded(_noise(599, 599 * 2), "JPEG")
    assert_close(decoded(data, target_size=100), decoded(data))
    for form in ("PNG", "WEBP"):
        data = encoded(_noise(1600, 1600), form)
        assert_close(decoded(data, target_size=100), decoded(data))
