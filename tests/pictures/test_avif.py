"""AVIF: samplings, ranges, clean apertures."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from captioning.pictures.decoder import decode_image
from tests.pictures.decoded import assert_close, decoded
from tests.sample_pictures import encoded, quadrants

# The decoder silences Pillow's warnings; pytest's "error" would outrank that filter.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")


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
