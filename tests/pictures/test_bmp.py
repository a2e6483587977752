"""BMP of every kind that programs write, from its samples: run-length codes, alpha that is none, depths."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from captioning.errors import CorruptImage
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


@pytest.mark.parametrize(("masks", "greens"), [((0xF800, 0x7E0, 0x1F), 63), ((0x7C00, 0x3E0, 0x1F), 31)])
def test_16_bits(masks: tuple[int, int, int], greens: int) -> None:
    red, green, blue = np.moveaxis(UPRIGHT.astype(float) / 255, 2, 0)
    words = np.round(red * 31).astype(int) << (11 if greens == 63 else 10)
    words |= np.round(green * greens).astype(int) << 5 | np.round(blue * 31).astype(int)
    data = bmp(48, 32, 16, 3, words[::-1].astype("<u2").tobytes(), after=struct.pack("<3I", *masks))
    expected = np.dstack([np.round(red * 31) / 31, np.round(green * greens) / greens, np.round(blue * 31) / 31]) * 255
    assert np.abs(np.asarray(decode_image(data)) - expected).max() <= 1
