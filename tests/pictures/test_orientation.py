"""Pictures come out upright, whoever says which way that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioning.pictures.decoder import decode_image, open_image
from tests.pictures.decoded import QUADRANTS, assert_close, corners, reoriented
from tests.sample_pictures import encoded, exif, png, quadrants

# The decoder silences Pillow's warnings; pytest's "error" would outrank that filter.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF lzw", "AVIF"])
def test_orientation(form: str, orientation: int) -> None:
    stored = reoriented(quadrants(), orientation)
    form, _, compression = form.partition(" ")
    options: dict[str, Any] = {"exif": exif(orientation)}
    if form == "TIFF":
        options = {"tiffinfo": {274: orientation}, "compression": f"tiff_{compression}" if compression else None}
    elif form in ("JPEG", "WEBP", "AVIF"):
        options["quality"] = 95
    image = decode_image(encoded(stored, form, **options))
    assert image.size == (48, 32)
    assert_close(corners(image), QUADRANTS, 10)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_parts_of_a_turned_picture_are_parts_of_the_upright_one(orientation: int) -> None:
    rng = np.random.default_rng(orientation)
    upright = Image.fromarray(rng.integers(0, 256, (23, 17, 3), dtype=np.uint8))
    picture = open_image(encoded(reoriented(upright, orientation), "PNG", exif=exif(orientation))).decode()
    assert picture.size == (17, 23)
    assert_close(np.asarray(picture.to_rgb()), np.asarray(upright))
    for box in [(0, 0, 17, 1), (3, 5, 11, 20), (16, 22, 17, 23)]:
        assert_close(np.asarray(picture.crop(box)), np.asarray(upright.crop(box)))


def test_a_tiff_is_turned_once_though_xmp_says_it_too() -> None:
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    stored = reoriented(quadrants(), 6)
    image = decode_image(encoded(stored, "TIFF", tiffinfo={274: 6, 700: xmp}))
    assert image.size == (48, 32)
    assert_close(corners(image), QUADRANTS)


def test_png_orientation_may_stand_behind_the_pixels() -> None:
    block = exif(3).removeprefix(b"Exif\0\0")
    samples = np.asarray(reoriented(quadrants(), 3))
    assert_close(corners(decode_image(png(samples, bits=8, colour=2, late=[(b"eXIf", block)]))), QUADRANTS)


def test_avif_boxes_outrank_exif() -> None:
    data = bytearray(encoded(quadrants(), "AVIF", quality=95, exif=exif(6)))
    assert decode_image(bytes(data)).size == (32, 48)
    # A rotation by 0: EXIF, which still says 6, must not turn the picture a second time or alone.
    data[data.index(b"irot") + 4] = 0
    image = decode_image(bytes(data))
    assert image.size == (48, 32)
    assert_close(corners(image), QUADRANTS, 10)


@pytest.mark.parametrize(
    "block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_broken_exif_is_no_reason_to_refuse(block: bytes) -> None:
    for form in ("JPEG", "PNG", "WEBP"):
        assert decode_image(encoded(quadrants(), form, exif=block)).size == (48, 32)
