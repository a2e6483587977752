"""The kinds of samples that only TIFF has."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from captioning.errors import UnsupportedImage
from captioning.pictures.decoder import decode_image
from tests.pictures.decoded import assert_close, decoded
from tests.sample_pictures import RED, WHITE, encoded, tiff

# The decoder silences Pillow's warnings; pytest's "error" would outrank that filter.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")


def test_premultiplied_grey_and_colour_in_tiff() -> None:
    half_grey = tiff(1, 1, bytes([50, 128]), {258: [8, 8], 262: 1, 277: 2, 338: 1})
    assert_close(decoded(half_grey)[0, 0], (177, 177, 177), 2)
    half_red = tiff(1, 1, bytes([128, 0, 0, 128]), {258: [8, 8, 8, 8], 262: 2, 277: 4, 338: 1})
    assert_close(decoded(half_red)[0, 0], (255, 127, 127), 2)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff(order: str) -> None:
    ramp = np.linspace(0, 65_535, 256).astype(int)
    strip = ramp.astype(order + "u2").tobytes()
    assert_close(decoded(tiff(256, 1, strip, {258: 16, 262: 1}, order))[0, :, 0], ramp / 257, 1)
    three = np.repeat(ramp[:, None], 3, axis=1).astype(order + "u2").tobytes()
    colour = tiff(256, 1, three, {258: [16, 16, 16], 262: 2, 277: 3}, order)
    assert_close(decoded(colour)[0, :, 2], ramp / 257, 1)
    compressed = encoded(Image.fromarray(ramp.astype(np.uint16)[None]), "TIFF", compression="tiff_lzw")
    assert_close(decoded(compressed)[0, :, 1], ramp / 257, 1)


@pytest.mark.parametrize(("bits", "code"), [(8, "u1"), (16, "<u2")])
def test_white_is_zero_in_tiff(bits: int, code: str) -> None:
    top = 2**bits - 1
    strip = np.array([0, top // 2, top]).astype(code).tobytes()
    assert_close(decoded(tiff(3, 1, strip, {258: bits, 262: 0}))[0, :, 0], [255, 128, 0], 1)


def test_12_bit_tiff() -> None:
    # Two samples in three bytes: 0xFFF and 0x800.
    assert_close(decoded(tiff(2, 1, b"\xff\xf8\x00", {258: 12, 262: 1}))[0, :, 0], [255, 128])


@pytest.mark.parametrize(
    ("strip", "sample_format"),
    [
        (np.array([-5.0, 0.0, 5.0], "<f4").tobytes(), 3),
        (np.array([0, 50_000_000, 100_000_000], "<u4").tobytes(), 1),
        (np.array([-1000, 0, 1000], "<i4").tobytes(), 2),
    ],
)
def test_wide_grey_is_stretched(strip: bytes, sample_format: int) -> None:
    data = tiff(3, 1, strip, {258: 32, 262: 1, 339: sample_format})
    assert_close(decoded(data)[0, :, 0], [0, 128, 255], 1)


def test_wide_grey_without_contrast_or_numbers() -> None:
    flat = np.full(4, 7.0, "<f4").tobytes()
    assert_close(decoded(tiff(2, 2, flat, {258: 32, 262: 1, 339: 3}))[0, 0], (0, 0, 0))
    infinite = np.array([0, np.inf], "<f4").tobytes()
    with pytest.raises(UnsupportedImage):
        decode_image(tiff(2, 1, infinite, {258: 32, 262: 1, 339: 3}))


def test_group4_fax() -> None:
    image = Image.new("1", (20, 10), 1)
    image.paste(0, (10, 0, 20, 10))
    found = decoded(encoded(image, "TIFF", compression="group4"))
    assert_close([found[5, 5], found[5, 15]], [WHITE, (0, 0, 0)])


def test_lab_and_ycbcr_tiff() -> None:
    # L* 53, a* 80, b* 67 is sRGB red.
    lab = tiff(1, 1, bytes([136, 80, 67]), {258: [8, 8, 8], 262: 8, 277: 3})
    assert_close(decoded(lab)[0, 0], (255, 0, 0), 12)
    luma = Image.new("RGB", (1, 1), RED).convert("YCbCr").tobytes()
    ycbcr = tiff(1, 1, luma, {258: [8, 8, 8], 262: 6, 277: 3, 530: [1, 1]})
    assert_close(decoded(ycbcr)[0, 0], RED, 3)
