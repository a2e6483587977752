"""Pixels of every format and mode come out as the colours that were stored."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioning.pictures.decoder import decode_image
from tests.pictures.decoded import QUADRANTS, assert_close, corners, decoded
from tests.sample_pictures import RED, WHITE, encoded, png, quadrants, tiff

# The decoder silences Pillow's warnings; pytest's "error" would outrank that filter.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")


LOSSLESS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("PNG", {"compress_level": 0}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("GIF", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", {"compression": "packbits"}),
    ("TIFF", {"big_tiff": True}),
]
LOSSY: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {"quality": 95}),
    ("JPEG", {"quality": 95, "progressive": True}),
    ("MPO", {"quality": 95}),
    ("WEBP", {"quality": 95}),
    ("AVIF", {"quality": 95}),
    ("TIFF", {"compression": "jpeg", "quality": 95}),
]


@pytest.mark.parametrize(("form", "options"), LOSSLESS)
def test_lossless_formats_keep_every_pixel(form: str, options: dict[str, Any]) -> None:
    assert_close(decoded(encoded(quadrants(), form, **options)), np.asarray(quadrants()))


@pytest.mark.parametrize(("form", "options"), LOSSY)
def test_lossy_formats_keep_the_colours(form: str, options: dict[str, Any]) -> None:
    image = decode_image(encoded(quadrants(), form, **options))
    assert image.size == (48, 32)
    assert_close(corners(image), QUADRANTS, 8)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_alpha_lies_over_white(form: str) -> None:
    alpha = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (32, 1))
    image = quadrants()
    image.putalpha(Image.fromarray(alpha))
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    colours = np.asarray(quadrants()).astype(float)
    expected = colours * alpha[..., None] / 255 + 255 - alpha[..., None].astype(float)
    found = decoded(encoded(image, form, **options)).astype(float)
    # AVIF is lossy, and more so at the edges between quadrants.
    assert np.percentile(np.abs(found - expected), 90) <= (6 if form == "AVIF" else 1)


def test_alpha_is_blended_as_pillow_blends_it() -> None:
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (64, 64, 4), dtype=np.uint8))
    white = Image.new("RGBA", rgba.size, "white")
    expected = Image.alpha_composite(white, rgba).convert("RGB")
    assert_close(decoded(encoded(rgba, "PNG")), np.asarray(expected))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_with_alpha(form: str) -> None:
    image = Image.merge("LA", (Image.new("L", (8, 8), 100), Image.linear_gradient("L").resize((8, 8))))
    grey, alpha = (np.asarray(band).astype(float) for band in image.split())
    expected = grey * alpha / 255 + 255 - alpha
    assert_close(decoded(encoded(image, form))[..., 0], expected, 1)


def test_extra_samples_that_are_not_alpha_are_ignored() -> None:
    data = tiff(1, 1, bytes([*RED, 0]), {258: [8, 8, 8, 8], 262: 2, 277: 4, 338: 0})
    assert_close(decoded(data)[0, 0], RED)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_is_scaled_and_not_clipped(colour: int, channels: int) -> None:
    ramp = np.linspace(0, 65_535, 256).astype(int)
    samples = np.repeat(ramp[None, :, None], channels, axis=2)
    if colour in (4, 6):
        samples[..., -1] = 65_535
    assert_close(decoded(png(samples, bits=16, colour=colour))[0, :, 0], ramp / 257, 1)


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF"])
def test_1_bit(form: str) -> None:
    image = Image.new("1", (20, 10))
    image.paste(1, (10, 0, 20, 10))
    found = decoded(encoded(image, form))
    assert_close(found[5, 5], (0, 0, 0))
    assert_close(found[5, 15], WHITE)


CMYK_INKS = {"cyan": (255, 0, 0, 0), "red": (0, 255, 255, 0), "black": (0, 0, 0, 255), "paper": (0, 0, 0, 0)}
CMYK_SEEN = {"cyan": (0, 255, 255), "red": (255, 0, 0), "black": (0, 0, 0), "paper": WHITE}


@pytest.mark.parametrize("ink", CMYK_INKS)
@pytest.mark.parametrize(("form", "options"), [("JPEG", {"quality": 100}), ("TIFF", {})])
def test_cmyk(form: str, options: dict[str, Any], ink: str) -> None:
    data = encoded(Image.new("CMYK", (16, 16), CMYK_INKS[ink]), form, **options)
    if form == "JPEG":
        assert b"Adobe" in data
    assert_close(decoded(data)[8, 8], CMYK_SEEN[ink], 2)


@pytest.mark.parametrize("ink", CMYK_INKS)
def test_ycck_jpeg(ink: str) -> None:
    *inks, black = CMYK_INKS[ink]
    luma = np.asarray(Image.new("RGB", (16, 16), tuple(inks)).convert("YCbCr"))
    stored = np.dstack([luma, np.full((16, 16), 255 - black, np.uint8)])
    # Pillow writes the inverse of what it is given; the marker's last byte says YCCK.
    data = bytearray(encoded(Image.frombytes("CMYK", (16, 16), (255 - stored).tobytes()), "JPEG", quality=100))
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data[transform] = 2
    assert_close(decoded(bytes(data))[8, 8], CMYK_SEEN[ink], 4)


# 16 x 16 of np.random.default_rng(0).integers(0, 256), by cjpeg -arithmetic -grayscale -quality 60.
ARITHMETIC_JPEG = base64.b64decode(
    "/9j/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYVpQYEpRUk//yQAL"
    "CAAQABABAREA/8wABgAQEAX/2gAIAQEAAD8A0KdQ/MNnIEEVboxCmAzN8Vy+Qe7wqb14RWMnxK/eOuiFz3slqee+SMXGVgVXSZ+/"
    "vxVYWftOFbDisZSKihpmVGRZH/Fqf+WP7ywp/wAafwubAjydNehSDQ3T4fXbfhYCpVy1o36i1mtzxonBCRCFF5SPzzuxkdJ4ww+x"
    "cp8ug25uwHKgupwch96A/9k="
)


# 128 x 128, white but for grey lines at the top, in the same way: its codes end before their last zeros.
FLAT_ARITHMETIC_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5a"
    "YVpQYEpRUk//yQALCACAAIABAREA/8wABgAQEAX/2gAIAQEAAD8A0NW3vzODKfmswTX5EOdcF43jpFdSDqQP8s2/lPP6/VG/L9hlcTlJza2S"
    "kuJT9JeEedPuNtQm2zG5Sd3dq9piOD+VlnaSyPZnPLq4OTGgDn5lC6SX39pxitxUBKwq5MqnkYtwAXcDmfEnvHeDO7FJs9gvjWleaOjJHXm2"
    "6dqmAwPRdQGQr1OlnVeO0zOLdLnYmzkruZzmWHD/2Q=="
)


def test_arithmetic_codes_without_their_last_zeros() -> None:
    found = decoded(FLAT_ARITHMETIC_JPEG)
    assert found.shape == (128, 128, 3)
    assert_close(found[32:], (255, 255, 255))


def test_arithmetic_coding() -> None:
    found = decoded(ARITHMETIC_JPEG)
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    assert np.corrcoef(found[..., 0].ravel(), noise.ravel())[0, 1] > 0.9
    # Pillow reads 64 KiB at a time; the samples begin before the first of these end.
    tables, scan = ARITHMETIC_JPEG[2:71], ARITHMETIC_JPEG.index(b"\xff\xda")
    for place in (65_436, 65_536 - 40):
        times = (place - scan) // len(tables)
        assert_close(decoded(ARITHMETIC_JPEG[:2] + tables * times + ARITHMETIC_JPEG[2:]), found)


def test_an_icc_profile_changes_nothing() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(quadrants(), "PNG", icc_profile=profile)
    assert_close(decoded(data), np.asarray(quadrants()))
    assert_close(decoded(encoded(quadrants(), "PNG", icc_profile=b"nonsense")), np.asarray(quadrants()))
