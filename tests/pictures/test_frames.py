"""Of several frames the first counts, laced and placed as its format says."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioning.errors import CorruptImage
from captioning.pictures.decoder import decode_image, open_image
from tests.pictures.decoded import assert_close, decoded
from tests.sample_pictures import BLUE, GREEN, RED, WHITE, encoded, png, quadrants

# The decoder silences Pillow's warnings; pytest's "error" would outrank that filter.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")


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
