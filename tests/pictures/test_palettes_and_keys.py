"""Palettes and colour keys of every depth, with what is said of their transparency."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from captioning.errors import CorruptImage
from captioning.pictures.decoder import decode_image
from tests.pictures.decoded import QUADRANTS, assert_close, decoded
from tests.sample_pictures import BLUE, GREEN, GREY, RED, WHITE, png

# The decoder silences Pillow's warnings; pytest's "error" would outrank that filter.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")


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
