"""BMP of every kind that programs write, from its samples: run-length codes, alpha that is none, depths."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from captioning.errors import CorruptImage, UnsupportedImage
from captioning.pictures.decoder import decode_image
from tests.sample_pictures import RLE4, bmp, palette, quadrants, rle_bmp

UPRIGHT = np.asarray(quadrants())


def indexes(data: bytes) -> Any:
    """Return the indexes of a picture with this palette: its blue is the index."""
    return np.asarray(decode_image(data))[..., 2].astype(int)


def test_run_length_codes_of_every_kind() -> None:
    codes = (
        b"\x03\x07\x02\x09\0\0"  # runs
        b"\0\x03\x01\x02\x03\0\0\x02\0\0\x02\x05\0\0"  # absolute, padded; a step that goes nowhere; a run
        b"\0\0"  # an empty row
        b"\0\x02\x02\x00\x02\x04\0\0"  # a step to the right
        b"\x09\x06\0\0"  # more than the row has room for
        b"\x01\x08\0\x01"  # the end, of a row that is not full
    )
    expected = [[8, 0, 0, 0, 0], [6] * 5, [0, 0, 4, 4, 0], [0] * 5, [1, 2, 3, 5, 5], [7, 7, 7, 9, 9]]
    assert indexes(rle_bmp(5, 6, codes)).tolist() == expected


def test_run_length_codes_of_four_bits() -> None:
    codes = b"\x03\x7a\x02\x90\0\0\0\x05\x12\x34\x50\0\0\0\0\x03\x12\x30\x02\x55\0\x01"
    expected = [[1, 2, 3, 5, 5], [1, 2, 3, 4, 5], [7, 10, 7, 9, 0]]
    assert indexes(rle_bmp(5, 3, codes, RLE4)).tolist() == expected


def test_run_length_codes_that_are_cut() -> None:
    row = b"\x30\x05\0\0"
    whole = indexes(rle_bmp(48, 32, row * 32 + b"\0\x01"))
    for codes in (row * 32 + b"\0", row * 32, row * 31 + b"\x30\x05"):
        assert np.array_equal(indexes(rle_bmp(48, 32, codes)), whole)
    assert (indexes(rle_bmp(48, 32, row * 30)) == whole).mean() > 0.9
    with pytest.raises(CorruptImage):
        decode_image(rle_bmp(48, 32, row * 16))


MASKS = {
    "bgra": (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    "rgba": (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
    "abgr": (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
}


def with_masks(masks: tuple[int, ...], alpha: Any, size: int) -> bytes:
    channels = dict(zip(masks, [*np.moveaxis(UPRIGHT, 2, 0), np.broadcast_to(alpha, UPRIGHT.shape[:2])], strict=True))
    rows = np.stack([channels[0xFF << shift] for shift in (0, 8, 16, 24)], axis=2)[::-1].astype(np.uint8).tobytes()
    after = struct.pack("<4I", *masks).ljust(size - 40, b"\0")
    return bmp(48, 32, 32, 3, rows, after=after, size=size)


@pytest.mark.parametrize("size", [56, 108, 124])
@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_alpha_that_is_0_everywhere_is_none(masks: tuple[int, ...], size: int) -> None:
    assert np.array_equal(np.asarray(decode_image(with_masks(masks, 0, size))), UPRIGHT)
    assert np.array_equal(np.asarray(decode_image(with_masks(masks, 255, size))), UPRIGHT)
    half = np.zeros((32, 48), int)
    half[:, 24:] = 255
    found = np.asarray(decode_image(with_masks(masks, half, size)))
    assert (found[:, :24] == 255).all()
    assert np.array_equal(found[:, 24:], UPRIGHT[:, 24:])


@pytest.mark.parametrize("size", [40, 108, 124])
def test_32_bits_without_masks_have_no_alpha(size: int) -> None:
    for spare in (0, 255, 7):
        rows = np.dstack([UPRIGHT[::-1, :, ::-1], np.full((32, 48), spare, np.uint8)]).tobytes()
        data = bmp(48, 32, 32, 0, rows, after=bytes(size - 40), size=size)
        assert np.array_equal(np.asarray(decode_image(data)), UPRIGHT)


@pytest.mark.parametrize(("bits", "colours"), [(1, 2), (4, 16), (8, 256)])
def test_palettes_of_every_depth(bits: int, colours: int) -> None:
    wanted = np.arange(7 * 9).reshape(7, 9) % colours
    digits = wanted[::-1, :, None] >> np.arange(bits)[::-1] & 1
    rows = b"".join(
        np.packbits(line.astype(np.uint8).ravel()).tobytes().ljust(-(-9 * bits // 32) * 4, b"\0") for line in digits
    )
    assert np.array_equal(indexes(bmp(9, 7, bits, 0, rows, after=palette(colours))), wanted)


def packed(values: Any, bits: int) -> bytes:
    """Return rows of words, or of smaller samples, each row from a multiple of four bytes on."""
    digits = values[..., None] >> np.arange(bits)[::-1] & 1
    lines = [np.packbits(line.astype(np.uint8).ravel()).tobytes() for line in digits]
    if bits in (16, 32):
        lines = [line.astype(f"<u{bits // 8}").tobytes() for line in values]
    return b"".join(line.ljust(-(-len(line) // 4) * 4, b"\0") for line in lines)


def whole_header(size: int, width: int, height: int, bits: int, compression: int, masks: bytes = b"") -> bytes:
    """Return a header of any size that there is; a short one lacks what is 0."""
    if size == 12:
        return struct.pack("<IHHHH", 12, width, height, 1, bits)
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return (header + masks).ljust(size, b"\0")[:size]


def with_header(header: bytes, rows: bytes) -> bytes:
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows


SIZES = (12, 16, 20, 36, 40, 42, 46, 48, 52, 56, 60, 64, 108, 124)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 24, 32])
def test_headers_of_every_size_and_depth(bits: int, size: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (7, 9))
    for height in (7, -7) if size > 12 else (7,):
        head = whole_header(size, 9, height, bits, 0)
        stored = values[:: -1 if height > 0 else 1]
        if bits <= 8:
            colours = [palette(2**bits)[at : at + 4][: 3 if size == 12 else 4] for at in range(0, 4 * 2**bits, 4)]
            assert np.array_equal(indexes(with_header(head + b"".join(colours), packed(stored, bits))), values)
            continue
        found = np.asarray(decode_image(with_header(head, packed(stored, bits))), dtype=int)
        depth = min(bits // 3, 8)
        shares = [(values >> depth * place & 2**depth - 1) * 255 / (2**depth - 1) for place in (2, 1, 0)]
        if bits == 24:  # bytes, not words
            shares = [values & 255, values >> 8 & 255, values >> 16 & 255]
        assert np.abs(found - np.dstack(shares)).max() <= 1


# Red, green, blue, alpha.
BIT_FIELDS = {
    16: {
        "4-4-4": (0xF00, 0xF0, 0xF, 0),
        "4-4-4-4": (0xF00, 0xF0, 0xF, 0xF000),
        "1-5-5-5": (0x7C00, 0x3E0, 0x1F, 0x8000),
        "5-5-5-1": (0xF800, 0x7C0, 0x3E, 1),
        "5-6-5, blue first": (0x1F, 0x7E0, 0xF800, 0),
        "3-3-2": (0xE0, 0x1C, 3, 0),
        "8-8, no blue": (0xFF00, 0xFF, 0, 0),
        "1-1-1": (1, 2, 4, 0),
        "grey": (0xFF, 0xFF, 0xFF, 0),
    },
    32: {
        "10-10-10": (0x3FF00000, 0xFFC00, 0x3FF, 0),
        "2-10-10-10": (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000),
        "blue first": (0x3FF, 0xFFC00, 0x3FF00000, 0xC0000000),
        "11-11-10": (0xFFE00000, 0x1FFC00, 0x3FF, 0),
        "odd places": (0xFF << 1, 0xFF << 9, 0xFF << 17, 0),
        "8-8-8-4": (0xFF0000, 0xFF00, 0xFF, 0xF0000000),
        "16-8-8": (0xFFFF0000, 0xFF00, 0xFF, 0),
        "5-6-5": (0xF800, 0x7E0, 0x1F, 0),
        "red only": (0xFFFFFFFF, 0, 0, 0),
    },
}


def seen(words: Any, masks: tuple[int, ...]) -> Any:
    """Return what words look like on a white page, in levels of 255."""

    def share(mask: int) -> Any:
        return (words & mask) / mask if mask else np.zeros(words.shape)

    colours = np.stack([share(mask) for mask in masks[:3]], axis=2)
    alpha = share(masks[3])[..., None] if masks[3] else 1
    return 255 * (colours * alpha + 1 - alpha)


@pytest.mark.parametrize(("size", "compression"), [(40, 3), (40, 6), (52, 3), (56, 3), (108, 3), (124, 3)])
@pytest.mark.parametrize(("bits", "name"), [(bits, name) for bits, names in BIT_FIELDS.items() for name in names])
def test_bit_fields_of_every_kind(bits: int, name: str, size: int, compression: int) -> None:
    masks = BIT_FIELDS[bits][name]
    words = np.random.default_rng(bits).integers(0, 2**bits, (7, 9))
    three = size == 52 or (size, compression) == (40, 3)
    packed_masks = struct.pack("<4I", *masks)[: 12 if three else 16]
    head = whole_header(size, 9, 7, bits, compression, packed_masks)
    if size == 40:
        head += packed_masks
    found = np.asarray(decode_image(with_header(head, packed(words[::-1], bits))))
    assert np.abs(found - seen(words, (*masks[:3], 0) if three else masks)).max() <= 1.5


def test_alpha_without_bit_fields_is_in_the_later_headers_only() -> None:
    words = np.random.default_rng(0).integers(0, 2**32, (7, 9))
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    for size, counts in ((56, False), (108, True), (124, True)):
        data = with_header(whole_header(size, 9, 7, 32, 0, struct.pack("<4I", *masks)), packed(words[::-1], 32))
        expected = seen(words, masks if counts else (*masks[:3], 0))
        assert np.abs(np.asarray(decode_image(data)) - expected).max() <= 1


@pytest.mark.parametrize(
    ("size", "bits", "compression", "masks"),
    [
        (64, 32, 3, (0xFF0000, 0xFF00, 0xFF, 0)),  # OS/2's, of which 3 is another compression
        (64, 1, 3, (0, 0, 0, 0)),
        (64, 24, 4, (0, 0, 0, 0)),
        (40, 24, 3, (0xFF0000, 0xFF00, 0xFF, 0)),
        (40, 16, 3, (0x5, 0xF0, 0xF00, 0)),
        (40, 8, 2, (0, 0, 0, 0)),
        (40, 4, 1, (0, 0, 0, 0)),
        (40, 0, 4, (0, 0, 0, 0)),
        (40, 0, 5, (0, 0, 0, 0)),
        (40, 5, 0, (0, 0, 0, 0)),
        (40, 48, 0, (0, 0, 0, 0)),
        (80, 24, 0, (0, 0, 0, 0)),
        (128, 24, 0, (0, 0, 0, 0)),
    ],
)
def test_rare_kinds_are_refused_by_name(size: int, bits: int, compression: int, masks: tuple[int, ...]) -> None:
    head = whole_header(size, 9, 7, bits, compression, struct.pack("<4I", *masks)) + struct.pack("<4I", *masks)
    with pytest.raises(UnsupportedImage, match="BMP images of this kind are not supported"):
        decode_image(with_header(head, bytes(2000)))


def test_tables_of_colours_that_are_too_short_too_long_or_cut() -> None:
    values = np.arange(63).reshape(7, 9)
    for told in (0, 64, 256, 300, 2**31):
        head = bytearray(whole_header(40, 9, 7, 8, 0))
        struct.pack_into("<I", head, 32, told)
        data = with_header(bytes(head) + palette(256)[: 4 * (told if told == 64 else 256)], packed(values[::-1], 8))
        assert np.array_equal(indexes(data), values)
    struct.pack_into("<I", head, 32, 5)
    found = np.asarray(decode_image(with_header(bytes(head) + palette(5), packed(values[::-1], 8))))
    assert (found[values >= 5] == 0).all()
    assert np.array_equal(found[..., 2][values < 5], values[values < 5])


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_rows_that_are_missing(bits: int) -> None:
    head = whole_header(40, 9, 40, bits, 0) + (palette(256) if bits == 8 else b"")
    rows = packed(np.full((40, 9), 2**bits - 1), bits)
    whole = np.asarray(decode_image(with_header(head, rows)))
    found = np.asarray(decode_image(with_header(head, rows[: -len(rows) // 20])))
    assert np.array_equal(found[2:], whole[2:])
    with pytest.raises(CorruptImage):
        decode_image(with_header(head, rows[: len(rows) // 2]))


@pytest.mark.parametrize(("masks", "greens"), [((0xF800, 0x7E0, 0x1F), 63), ((0x7C00, 0x3E0, 0x1F), 31)])
def test_16_bits(masks: tuple[int, int, int], greens: int) -> None:
    red, green, blue = np.moveaxis(UPRIGHT.astype(float) / 255, 2, 0)
    words = np.round(red * 31).astype(int) << (11 if greens == 63 else 10)
    words |= np.round(green * greens).astype(int) << 5 | np.round(blue * 31).astype(int)
    data = bmp(48, 32, 16, 3, words[::-1].astype("<u2").tobytes(), after=struct.pack("<3I", *masks))
    expected = np.dstack([np.round(red * 31) / 31, np.round(green * greens) / greens, np.round(blue * 31) / 31]) * 255
    assert np.abs(np.asarray(decode_image(data)) - expected).max() <= 1
