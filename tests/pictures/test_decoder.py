"""The decoder on real encoded bytes: colours in every format and mode, orientation, limits, hostile input."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from captioning.errors import CaptioningError, CorruptImage, TooManyPixels, UnsupportedImage
from captioning.pictures.decoder import MAX_SIDE, decode_image, open_image
from tests.peak_memory import peak_memory
from tests.sample_pictures import BLUE, GREEN, GREY, RED, SAMPLES, WHITE, encoded, exif, png, png_chunk, quadrants, tiff

# The decoder silences Pillow's warnings; pytest's "error" would outrank that filter.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")

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


# ---- colours


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


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("levels", ["full", "limited"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("frames", [1, 2])
def test_avif_of_every_kind_is_what_was_encoded(subsampling: str, levels: str, mode: str, frames: int) -> None:
    y, x = np.mgrid[:48, :64]
    waves = [127.5 + 110 * np.sin(x / (19 + 2 * band) + y / (17 + band) + band) for band in range(4)]
    image = Image.merge("RGBA", [Image.fromarray(np.round(wave).astype(np.uint8)) for wave in waves]).convert(mode)
    options = {"quality": 100, "subsampling": subsampling, "range": levels, "speed": 10}
    later = {"save_all": True, "append_images": [image.rotate(180)]} if frames == 2 else {}
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    # Chroma of 4:2:0 costs 9 at edges; a range taken for the other, 20.
    assert_close(decoded(encoded(image, "AVIF", **options, **later)), expected, 12 if subsampling == "4:2:0" else 5)


def with_properties(avif: bytes, *boxes: bytes) -> bytes:
    """Add properties to an AVIF that has one item, whose data ends the file."""
    data = bytearray(avif)
    start, item = data.index(b"ipco"), data.index(b"mdat") + 4
    place, count = start + 4, 0
    while place < start - 4 + int.from_bytes(data[start - 4 : start]):
        place, count = place + int.from_bytes(data[place : place + 4]), count + 1
    association = data.index(b"ipma")
    end = association - 4 + int.from_bytes(data[association - 4 : association])
    data[end:end] = bytes(range(0x81 + count, 0x81 + count + len(boxes)))  # each of them essential
    data[association + 14] += len(boxes)
    added = b"".join(boxes)
    data[place:place] = added
    for kind, more in ((b"ipco", len(added)), (b"ipma", len(boxes)), (b"iprp", 0), (b"meta", 0)):
        at = data.index(kind) - 4
        size = int.from_bytes(data[at : at + 4]) + (more or len(added) + len(boxes))
        data[at : at + 4] = size.to_bytes(4)
    location = data.index(item.to_bytes(4), data.index(b"iloc"))
    data[location : location + 4] = (item + len(added) + len(boxes)).to_bytes(4)
    return bytes(data)


def clap(*numbers: int) -> bytes:
    """Encode a clean aperture: width, height, and how far its centre is off the picture's, each over a denominator."""
    return struct.pack(">I4s8i", 40, b"clap", *numbers)


_IROT = struct.pack(">I4sB", 9, b"irot", 1)


@pytest.mark.parametrize(
    ("properties", "shown"),
    [
        ([clap(32, 1, 16, 1, -8, 1, -8, 1)], (0, 0, 32, 16)),
        ([clap(21, 1, 11, 1, -5, 2, 3, 2)], (11, 12, 32, 23)),
        ([clap(62, 2, 30, 1, 7, 2, 1, 1)], (12, 2, 43, 32)),
        ([clap(30, 1, 20, 1, -1, 1, 2, 1), _IROT], (8, 8, 38, 28)),
    ],
)
def test_an_avif_shows_its_clean_aperture(properties: list[bytes], shown: tuple[int, int, int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)).resize((48, 32))
    data = encoded(image, "AVIF", quality=100, subsampling="4:4:4", speed=10)
    expected = np.asarray(decode_image(data).crop(shown))
    assert_close(decoded(with_properties(data, *properties)), np.rot90(expected, len(properties) - 1), 0)


@pytest.mark.parametrize(
    "aperture",
    [
        clap(32, 0, 16, 1, 0, 1, 0, 1),
        clap(49, 1, 16, 1, 0, 1, 0, 1),
        clap(0, 1, 16, 1, 0, 1, 0, 1),
        clap(-32, 1, 16, 1, 0, 1, 0, 1),
        clap(32, 1, 16, 1, 9, 1, 0, 1),
        clap(31, 1, 16, 1, 0, 1, 0, 1),
        clap(32, 3, 16, 1, 0, 1, 0, 1),
    ],
    ids=["over nothing", "too wide", "empty", "negative", "beside", "half a pixel off", "a third of a pixel"],
)
def test_an_aperture_that_cannot_be_fails_no_avif(aperture: bytes) -> None:
    data = encoded(quadrants(), "AVIF", speed=10)
    assert_close(decoded(with_properties(data, aperture)), decoded(data), 0)


@pytest.mark.parametrize(("transfer", "hdr"), [(1, False), (13, False), (14, False), (16, True), (18, True)])
@pytest.mark.parametrize("form", ["PNG", "AVIF"])
def test_hdr_is_refused_by_its_transfer_function(form: str, transfer: int, hdr: bool) -> None:
    if form == "PNG":
        data = encoded(quadrants(), "PNG")
        data = data[:33] + png_chunk(b"cICP", bytes([9, transfer, 0, 1])) + data[33:]
    else:
        data = encoded(quadrants(), "AVIF", quality=100, subsampling="4:4:4", speed=10)
        at = data.index(b"nclx") + 6
        data = data[:at] + transfer.to_bytes(2) + data[at + 2 :]
    if hdr:
        with pytest.raises(UnsupportedImage, match="HDR"):
            decoded(data)
    else:
        assert_close(decoded(data), quadrants(), 3)


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


def test_premultiplied_grey_and_colour_in_tiff() -> None:
    half_grey = tiff(1, 1, bytes([50, 128]), {258: [8, 8], 262: 1, 277: 2, 338: 1})
    assert_close(decoded(half_grey)[0, 0], (177, 177, 177), 2)
    half_red = tiff(1, 1, bytes([128, 0, 0, 128]), {258: [8, 8, 8, 8], 262: 2, 277: 4, 338: 1})
    assert_close(decoded(half_red)[0, 0], (255, 127, 127), 2)


def test_extra_samples_that_are_not_alpha_are_ignored() -> None:
    data = tiff(1, 1, bytes([*RED, 0]), {258: [8, 8, 8, 8], 262: 2, 277: 4, 338: 0})
    assert_close(decoded(data)[0, 0], RED)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_every_depth_with_transparency(bits: int) -> None:
    palette = bytes([*RED, *GREEN, *BLUE, *GREY])[: 3 * min(4, 2**bits)]
    indexes = np.array([[0, 1], [2, 3]]) % min(4, 2**bits)
    colours = np.array([RED, GREEN, BLUE, GREY])[indexes].astype(float)

    plain = png(indexes[..., None], bits=bits, colour=3, extra=[(b"PLTE", palette)])
    assert_close(decoded(plain), colours)

    one_clear = [(b"PLTE", palette), (b"tRNS", b"\xff\x00")]
    expected = np.where((indexes == 1)[..., None], 255, colours)
    assert_close(decoded(png(indexes[..., None], bits=bits, colour=3, extra=one_clear)), expected)

    half_clear = [(b"PLTE", palette), (b"tRNS", b"\x80")]
    expected = np.where((indexes == 0)[..., None], colours * 128 / 255 + 127, colours)
    assert_close(decoded(png(indexes[..., None], bits=bits, colour=3, extra=half_clear)), expected, 1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_of_every_depth_with_a_colour_key(bits: int) -> None:
    top = 2**bits - 1
    samples = np.array([[0, 1, top // 2, top]])
    expected = (samples * 255 / top)[0]
    assert_close(decoded(png(samples[..., None], bits=bits, colour=0))[0, :, 0], expected, 1)
    for key in (0, 1, top // 2):
        chunk = [(b"tRNS", struct.pack(">H", key))]
        found = decoded(png(samples[..., None], bits=bits, colour=0, extra=chunk))[0]
        assert_close(found[:, 0], np.where(samples[0] == key, 255, expected), 1)
    # Bits above the samples' own do not count.
    if bits < 16:
        chunk = [(b"tRNS", struct.pack(">H", 1 << bits))]
        for adam7 in (False, True):
            found = decoded(png(samples[..., None], bits=bits, colour=0, extra=chunk, adam7=adam7))[0]
            assert_close(found[:, 0], np.where(samples[0] == 0, 255, expected), 1)


@pytest.mark.parametrize("bits", [8, 16])
def test_colour_key(bits: int) -> None:
    samples = np.array([[RED, GREEN]])
    if bits == 16:
        samples = samples * 256 + 7
    key = [(b"tRNS", struct.pack(">3H", *samples[0, 0]))]
    assert_close(decoded(png(samples, bits=bits, colour=2, extra=key))[0], [WHITE, GREEN])


@pytest.mark.parametrize("adam7", [False, True])
def test_a_colour_key_of_16_bits_counts_in_all_its_bits(adam7: bool) -> None:
    key = (0x1234, 0x5678, 0x9ABC)
    near = [[sample + (step == index) for index, sample in enumerate(key)] for step in range(3)]
    rows = [[key, (0x1200, 0x5600, 0x9A00), *near, (0xFF34, 0x5678, 0x9ABC), (0x3412, 0x7856, 0xBC9A)]]
    samples = np.repeat(np.array(rows), 9, axis=0)
    expected = samples >> 8
    expected[:, 0] = 255
    data = png(samples, bits=16, colour=2, extra=[(b"tRNS", struct.pack(">3H", *key))], adam7=adam7)
    assert_close(decoded(data), expected)
    other = png(samples, bits=16, colour=2, extra=[(b"tRNS", struct.pack(">3H", 0x1235, 0x5679, 0x9ABD))], adam7=adam7)
    assert_close(decoded(other), samples >> 8)
    # Cut, it is decoded over two grounds.
    whole = np.repeat(samples, 20, axis=0)
    long = png(whole, bits=16, colour=2, extra=[(b"tRNS", struct.pack(">3H", *key))])
    assert_close(decoded(long[:-14])[:100], np.repeat(expected, 20, axis=0)[:100])


# The pixels' indexes are 0 to 3; what is said of the palette, in order, and what libpng makes of it.
PALETTE = (b"PLTE", bytes([*RED, *GREEN, *BLUE, *GREY]))
TRANSPARENCIES: dict[str, tuple[list[tuple[bytes, bytes]], list[int]]] = {
    "one for each colour": ([PALETTE, (b"tRNS", b"\xff\0\xff\0")], [1, 3]),
    "fewer than colours": ([PALETTE, (b"tRNS", b"\0")], [0]),
    "more than colours": ([PALETTE, (b"tRNS", b"\0" * 5)], []),
    "more than any palette has": ([PALETTE, (b"tRNS", b"\0" * 257)], []),
    "before its palette": ([(b"tRNS", b"\0"), PALETTE], []),
    "before and behind it": ([(b"tRNS", b"\0"), PALETTE, (b"tRNS", b"\xff\0")], [1]),
    "two": ([PALETTE, (b"tRNS", b"\0"), (b"tRNS", b"\xff\0")], [0]),
    "one too long, and one": ([PALETTE, (b"tRNS", b"\0" * 300), (b"tRNS", b"\xff\0")], [1]),
}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("what", TRANSPARENCIES)
def test_transparencies_of_palettes(what: str, bits: int) -> None:
    chunks, clear = TRANSPARENCIES[what]
    expected = np.array([WHITE if index in clear else colour for index, colour in enumerate(QUADRANTS)])
    data = png(np.arange(4)[None, :, None], bits=bits, colour=3, extra=chunks)
    assert_close(decoded(data)[0], expected)


@pytest.mark.parametrize(
    ("colour", "length"), [(0, 1), (0, 3), (0, 6), (0, 256), (2, 5), (2, 7), (2, 12), (4, 2), (6, 6)]
)
def test_a_colour_key_of_a_wrong_length_is_none(colour: int, length: int) -> None:
    samples = np.zeros((1, 2, {0: 1, 2: 3, 4: 2, 6: 4}[colour]), int)
    if colour >= 4:
        samples[..., -1] = 255
    assert_close(decoded(png(samples, bits=8, colour=colour, extra=[(b"tRNS", bytes(length))])), 0)
    # Behind a palette, which is a suggestion here, too.
    data = png(samples, bits=8, colour=colour, extra=[(b"PLTE", b"\1"), (b"tRNS", bytes(length))])
    assert_close(decoded(data), 0)


def test_colours_that_the_palette_lacks_are_black() -> None:
    data = png(np.arange(4)[None, :, None], bits=8, colour=3, extra=[(b"PLTE", bytes([*RED, *GREEN]))])
    assert_close(decoded(data)[0], [RED, GREEN, (0, 0, 0), (0, 0, 0)])


@pytest.mark.parametrize("early", [[], [(b"PLTE", b"")], [(b"PLTE", bytes(771))]])
def test_no_palette_before_the_pixels(early: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(CorruptImage, match="palette"):
        decode_image(png(np.arange(4)[None, :, None], bits=8, colour=3, extra=early, late=[PALETTE]))


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_is_scaled_and_not_clipped(colour: int, channels: int) -> None:
    ramp = np.linspace(0, 65_535, 256).astype(int)
    samples = np.repeat(ramp[None, :, None], channels, axis=2)
    if colour in (4, 6):
        samples[..., -1] = 65_535
    assert_close(decoded(png(samples, bits=16, colour=colour))[0, :, 0], ramp / 257, 1)


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


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF"])
def test_1_bit(form: str) -> None:
    image = Image.new("1", (20, 10))
    image.paste(1, (10, 0, 20, 10))
    found = decoded(encoded(image, form))
    assert_close(found[5, 5], (0, 0, 0))
    assert_close(found[5, 15], WHITE)


def test_group4_fax() -> None:
    image = Image.new("1", (20, 10), 1)
    image.paste(0, (10, 0, 20, 10))
    found = decoded(encoded(image, "TIFF", compression="group4"))
    assert_close([found[5, 5], found[5, 15]], [WHITE, (0, 0, 0)])


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


def test_lab_and_ycbcr_tiff() -> None:
    # L* 53, a* 80, b* 67 is sRGB red.
    lab = tiff(1, 1, bytes([136, 80, 67]), {258: [8, 8, 8], 262: 8, 277: 3})
    assert_close(decoded(lab)[0, 0], (255, 0, 0), 12)
    luma = Image.new("RGB", (1, 1), RED).convert("YCbCr").tobytes()
    ycbcr = tiff(1, 1, luma, {258: [8, 8, 8], 262: 6, 277: 3, 530: [1, 1]})
    assert_close(decoded(ycbcr)[0, 0], RED, 3)


def test_an_icc_profile_changes_nothing() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(quadrants(), "PNG", icc_profile=profile)
    assert_close(decoded(data), np.asarray(quadrants()))
    assert_close(decoded(encoded(quadrants(), "PNG", icc_profile=b"nonsense")), np.asarray(quadrants()))


# ---- frames


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("GIF", {}),
        ("GIF", {"disposal": 2}),
        ("GIF", {"disposal": 3, "transparency": 255}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {}),
        ("TIFF", {}),
        ("MPO", {}),
    ],
)
def test_the_first_frame_counts(form: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, BLUE, GREEN)]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert_close(decoded(data)[16, 16], RED, 8)


def test_a_gif_frame_may_be_smaller_than_its_canvas_or_leave_it() -> None:
    data = bytearray(encoded(Image.new("P", (4, 4), 1), "GIF"))
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*BLUE, *RED])
    data = bytearray(encoded(image, "GIF"))
    frame = data.index(b",\0\0\0\0\x04\0\x04\0")
    struct.pack_into("<2H", data, 6, 10, 8)
    struct.pack_into("<2H", data, frame + 1, 3, 2)
    found = decoded(bytes(data))
    assert found.shape == (8, 10, 3)
    expected = np.full((8, 10, 3), 255)
    expected[2:6, 3:7] = RED
    assert_close(found, expected)
    picture = open_image(bytes(data)).decode()
    assert_close(np.asarray(picture.crop((0, 0, 10, 2))), expected[:2])
    assert_close(np.asarray(picture.crop((4, 3, 10, 8))), expected[3:, 4:])

    struct.pack_into("<2H", data, frame + 1, 8, 6)
    found = decoded(bytes(data))
    assert found.shape == (10, 12, 3)
    assert_close(found[9, 11], RED)
    assert_close(found[9, 0], WHITE)


def test_a_gif_needs_a_palette_of_either_kind() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*BLUE, *RED])
    data = encoded(image, "GIF")
    frame = data.index(b",\0\0\0\0\x04\0\x04\0")
    colours, control = data[13 : 13 + 3 * 2 ** ((data[10] & 7) + 1)], data[13 + 3 * 2 ** ((data[10] & 7) + 1) : frame]
    head = data[:10] + bytes([data[10] & 0x7F]) + data[11:13] + control + data[frame : frame + 9]
    local = head + bytes([0x80 | data[10] & 7]) + colours + data[frame + 10 :]
    assert_close(decoded(local), RED)
    with pytest.raises(CorruptImage, match="palette"):
        decode_image(head + data[frame + 9 :])


def test_interlaced_gif() -> None:
    image = quadrants().quantize(8)
    assert_close(decoded(encoded(image, "GIF", interlace=1)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("bits", "colour"), [(1, 0), (8, 2), (16, 6)])
def test_interlaced_png(bits: int, colour: int) -> None:
    rng = np.random.default_rng(0)
    channels = {0: 1, 2: 3, 6: 4}[colour]
    samples = rng.integers(0, 2**bits, (11, 13, channels))
    plain, interlaced = (png(samples, bits=bits, colour=colour, adam7=adam7) for adam7 in (False, True))
    assert plain != interlaced
    assert_close(decoded(interlaced), decoded(plain))


# ---- orientation


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


# ---- limits


def large_headers(width: int, height: int) -> dict[str, bytes]:
    """Small files whose headers claim a large size."""
    image = quadrants()
    jpeg = bytearray(encoded(image, "JPEG"))
    struct.pack_into(">2H", jpeg, jpeg.index(b"\xff\xc0") + 5, height, width)
    gif = bytearray(encoded(image, "GIF"))
    frame = gif.index(b",\0\0\0\0\x30\0\x20\0")
    struct.pack_into("<2H", gif, 6, width, height)
    gif_frame = bytearray(gif)
    struct.pack_into("<2H", gif_frame, frame + 5, width, height)
    disposing = bytearray(encoded(image, "GIF", save_all=True, append_images=[image.rotate(180)], disposal=2))
    frame = disposing.index(b",\0\0\0\0\x30\0\x20\0")
    struct.pack_into("<2H", disposing, 6, width, height)
    struct.pack_into("<2H", disposing, frame + 5, width, height)
    bmp = bytearray(encoded(image, "BMP"))
    struct.pack_into("<2i", bmp, 18, width, height)
    webp = bytearray(encoded(image.convert("RGBA"), "WEBP", exif=exif(1), lossless=True))
    webp[24:30] = max(width - 1, 0).to_bytes(3, "little") + max(height - 1, 0).to_bytes(3, "little")
    lossless = bytearray(encoded(image, "WEBP", lossless=True))
    lossless[21:25] = (min(width - 1, 16_383) & 0x3FFF | (min(height - 1, 16_383) & 0x3FFF) << 14).to_bytes(4, "little")
    lossy = bytearray(encoded(image, "WEBP"))
    struct.pack_into("<2H", lossy, 26, min(width, 16_383), min(height, 16_383))
    avif = bytearray(encoded(image, "AVIF"))
    struct.pack_into(">2I", avif, avif.index(b"ispe") + 8, width, height)
    return {
        "JPEG": bytes(jpeg),
        "PNG": png(np.zeros((1, 1, 3)), bits=8, colour=2).replace(
            png(np.zeros((1, 1, 3)), bits=8, colour=2)[8:33],
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        ),
        "GIF": bytes(gif),
        "GIF frame": bytes(gif_frame),
        "GIF disposal": bytes(disposing),
        "BMP": bytes(bmp),
        "WEBP": bytes(webp),
        "WEBP lossless": bytes(lossless),
        "WEBP lossy": bytes(lossy),
        "TIFF": tiff(width, height, b"\0" * 64, {258: 8, 262: 1}),
        "TIFF lzw": tiff(width, height, b"\0" * 64, {258: 8, 262: 1, 259: 5}),
        "TIFF tile": tiff(8, 8, b"\0" * 64, {258: 8, 262: 1, 259: 8, 322: width, 323: height, 324: [8], 325: [64]}),
        "AVIF": bytes(avif),
    }


@pytest.mark.parametrize("side", [60_000, 12_000, 7_000])
@pytest.mark.parametrize("name", large_headers(1, 1))
def test_a_large_header_is_refused_at_once_without_memory(name: str, side: int) -> None:
    data = large_headers(side, side)[name]
    begun = time.process_time()
    with peak_memory() as grown:
        with pytest.raises(CaptioningError) as caught:
            open_image(data)
        assert grown() < 8 * 2**20
    assert time.process_time() - begun < 0.5
    # libavif finds by itself that such a header cannot be true.
    assert isinstance(caught.value, (TooManyPixels, CorruptImage) if name == "AVIF" else TooManyPixels)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO"])
def test_the_pixel_limit_is_exact(form: str) -> None:
    data = encoded(quadrants(48, 32), form)
    assert open_image(data, max_pixels=48 * 32).pixels == 48 * 32
    with pytest.raises(TooManyPixels, match="48 x 32"):
        open_image(data, max_pixels=48 * 32 - 1)


def test_sides_are_limited_too() -> None:
    line = np.zeros((1, MAX_SIDE + 1, 1), int)
    with pytest.raises(TooManyPixels, match="side"):
        open_image(png(line, bits=1, colour=0))
    assert decode_image(png(line[:, 1:], bits=1, colour=0)).size == (MAX_SIDE, 1)


@pytest.mark.parametrize("name", [name for name in large_headers(1, 1) if name not in ("WEBP", "WEBP lossless", "GIF")])
@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5), (5, 0)])
def test_a_picture_without_size_is_corrupt(name: str, width: int, height: int) -> None:
    # WebP cannot express it, and a GIF's frame widens its canvas.
    with pytest.raises(CorruptImage):
        decode_image(large_headers(width, height)[name])


def test_a_progressive_jpeg_of_too_many_scans() -> None:
    data = encoded(quadrants(), "JPEG", progressive=True)
    assert decode_image(data).size == (48, 32)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    assert decode_image(data[:-2] + last_scan * 20 + data[-2:]).size == (48, 32)
    with pytest.raises(CorruptImage, match="scans"):
        open_image(data[:-2] + last_scan * 100 + data[-2:])


def _noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    bands = {"L": 1, "P": 1, "RGB": 3, "RGBA": 4, "LA": 2, "CMYK": 4}[mode]
    smooth = rng.integers(0, 256, (height // 16, width // 16, bands), dtype=np.uint8)
    full = np.kron(smooth, np.ones((16, 16, 1), np.uint8))
    return Image.frombytes(mode, (full.shape[1], full.shape[0]), full.tobytes())


# ---- reduced scale


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


# ---- what is refused


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"<!doctype html><title>Not found</title>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n%",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"8BPS\0\x01" + b"\0" * 40,
        b"SIMPLE  =                    T" + b" " * 80,
        b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 40,
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40,
        b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + b"\0" * 40,
        b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 40,
        encoded(quadrants(), "ICO"),
        encoded(quadrants(), "JPEG2000"),
        encoded(quadrants(), "PPM"),
        encoded(quadrants(), "TGA"),
        encoded(quadrants(), "TIFF", compression="zstd"),
    ],
)
def test_what_is_not_on_the_list_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedImage) as caught:
        decode_image(data)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    ("code", "bits", "components"),
    [
        *((0xC3, 8, 3), (0xC5, 8, 3), (0xC7, 8, 3), (0xCB, 8, 3), (0xF7, 8, 3), (0xC1, 12, 3), (0xC3, 16, 1)),
        *((0xC0, 8, 2), (0xC2, 8, 5)),
    ],
)
def test_jpegs_of_rare_kinds_are_not_called_damaged(code: int, bits: int, components: int) -> None:
    data = bytearray(encoded(quadrants(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 1], data[frame + 4], data[frame + 9] = code, bits, components
    with pytest.raises(UnsupportedImage, match="JPEG images of this kind"):
        decode_image(bytes(data))


def test_a_jpeg_whose_height_follows_its_scan_is_not_called_damaged() -> None:
    data = bytearray(encoded(quadrants(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    height, data[frame + 5 : frame + 7] = data[frame + 5 : frame + 7], b"\0\0"
    with pytest.raises(UnsupportedImage, match="JPEG images of this kind"):
        decode_image(bytes(data[:-2]) + b"\xff\xdc\0\4" + bytes(height) + b"\xff\xd9")


def test_a_png_from_an_iphone_s_app_is_not_called_damaged() -> None:
    data = encoded(quadrants(), "PNG")
    with pytest.raises(UnsupportedImage, match="CgBI"):
        decode_image(data[:8] + png_chunk(b"CgBI", b"\x50\0\x20\2") + data[8:])


@pytest.mark.parametrize(
    "signature", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"RIFF\0\0\0\0WEBPVP8 "]
)
def test_a_signature_alone_is_corrupt(signature: bytes) -> None:
    with pytest.raises(CorruptImage):
        decode_image(signature)


def outcome(data: bytes) -> str:
    """Decode in two parts; let nothing but a picture or this package's own refusals come out."""
    try:
        picture = open_image(data, max_pixels=1_000_000, target_size=32).decode()
        width, height = picture.size
        assert picture.crop((0, 0, width, height)).mode == "RGB"
        assert picture.crop((0, 0, 1, 1)).size == (1, 1)
    except (UnsupportedImage, CorruptImage, TooManyPixels) as refusal:
        return type(refusal).__name__
    return "picture"


@pytest.mark.parametrize("name", SAMPLES)
def test_cut_files_are_corrupt(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = SAMPLES[name]
    assert outcome(data) == "picture"
    cuts = sorted({*range(16, 64), *np.linspace(64, len(data) - 1, 60).astype(int).tolist()})
    outcomes = {cut: outcome(data[:cut]) for cut in cuts if cut < len(data)}
    assert set(outcomes.values()) <= {"CorruptImage", "picture"}
    # Cut in half, nothing but the first of several frames can be whole.
    if name not in ("mpo", "apng", "gif", "webp animated"):
        assert outcomes[min(outcomes, key=lambda cut: abs(cut - len(data) // 2))] == "CorruptImage"


# ---- company


def test_many_threads_decode_at_once() -> None:
    expected = {name: decoded(data).tobytes() for name, data in SAMPLES.items()}
    with ThreadPoolExecutor(8) as pool:
        for name, found in pool.map(lambda name: (name, decoded(SAMPLES[name]).tobytes()), list(SAMPLES) * 8):
            assert found == expected[name]


def test_one_picture_may_be_read_by_many_threads() -> None:
    picture = open_image(SAMPLES["png palette"]).decode()
    whole = np.asarray(picture.to_rgb())
    with ThreadPoolExecutor(8) as pool:
        strips = list(pool.map(lambda top: np.asarray(picture.crop((0, top, 32, top + 1))), range(48 // 2)))
    assert_close(np.concatenate(strips), whole[: 48 // 2, :32])


def test_nothing_is_printed_about_sloppy_pictures(tmp_path: Path) -> None:
    (tmp_path / "sloppy.jpg").write_bytes(encoded(quadrants(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\x00\x05\x01\x12"))
    (tmp_path / "cut.tif").write_bytes(SAMPLES["tiff lzw"][:-20])
    fax = tiff(600, 300, np.random.default_rng(0).bytes(10_000), {258: 1, 262: 0, 259: 4})
    (tmp_path / "fax.tif").write_bytes(fax)
    (tmp_path / "samples.tif").write_bytes(tiff(4, 4, bytes(16), {258: 8, 262: 1, 277: 9}))
    script = """
import sys, pathlib
from captioning.pictures.decoder import decode_image
from captioning.errors import CaptioningError
for path in sys.argv[1:]:
    try:
        decode_image(pathlib.Path(path).read_bytes())
    except CaptioningError:
        pass
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert (ran.stdout, ran.stderr) == ("", "")
