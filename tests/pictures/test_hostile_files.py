"""Files that are made of very many parts: skipped or refused before Pillow sees them, in little time and memory."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import numpy as np
import pytest

from captioning.errors import CaptioningError, CorruptImage
from captioning.pictures.decoder import decode_image, open_image
from captioning.pictures.scan.limits import MAX_PARTS
from tests.peak_memory import peak_memory
from tests.sample_pictures import SAMPLES, encoded, exif, png, png_chunk, quadrants, rle_bmp, tiff

PIXELS = np.asarray(quadrants(), dtype=int)
MANY = 870_000


def _in_png(chunk: bytes, *, behind: bool) -> bytes:
    data = png(PIXELS, bits=8, colour=2)
    at = len(data) - 12 if behind else 33
    return data[:at] + chunk + data[at:]


def _in_jpeg(segments: bytes) -> bytes:
    data = SAMPLES["jpeg"]
    return data[:2] + segments + data[2:]


def _in_gif(extension: bytes) -> bytes:
    data = SAMPLES["gif"]
    start = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    return data[:start] + extension + data[start:]


def _in_webp(chunks: bytes) -> bytes:
    data = SAMPLES["webp"] + chunks
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def _strips(kind: int, size: int) -> bytes:
    """List ten million strips, of numbers of this type of TIFF's."""
    count = 10_000_000 // size
    strips = struct.pack("<HHII", 273, kind, count, 200) + struct.pack("<HHII", 279, kind, count, 200)
    entries = [struct.pack("<HHII", tag, 3, 1, value) for tag, value in ((256, 48), (257, 32), (258, 8), (262, 1))]
    directory = b"".join([*entries, strips, struct.pack("<HHII", 278, 3, 1, 1)])
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", 7) + directory + bytes(4)
    return head.ljust(200, b"\0") + bytes(count * size)


# What comes of a file: a picture where all that is too much can be left out.
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "png, empty chunks behind the pixels": (lambda: _in_png(png_chunk(b"tEXt", b"") * MANY, behind=True), "picture"),
    "png, empty chunks before the pixels": (
        lambda: _in_png(png_chunk(b"tEXt", b"") * MANY, behind=False),
        "CorruptImage",
    ),
    "png, as many chunks as are looked at": (
        lambda: _in_png(png_chunk(b"tEXt", b"") * 99_000, behind=False),
        "picture",
    ),
    "png, empty chunks of pixels": (lambda: _in_png(png_chunk(b"IDAT", b"") * MANY, behind=False), "CorruptImage"),
    "png, transparencies": (lambda: _in_png(png_chunk(b"tRNS", bytes(6)) * 400_000, behind=False), "CorruptImage"),
    "png, exif": (lambda: _in_png(png_chunk(b"eXIf", exif(1)[6:]) * 90_000, behind=False), "picture"),
    "png, ten megabytes of text": (lambda: _in_png(png_chunk(b"tEXt", bytes(10_000_000)), behind=False), "picture"),
    "jpeg, exif of one byte": (lambda: _in_jpeg(b"\xff\xe1\0\x09Exif\0\0x" * 950_000), "CorruptImage"),
    "jpeg, as many segments as are looked at": (lambda: _in_jpeg(b"\xff\xe1\0\x09Exif\0\0x" * 99_000), "picture"),
    "jpeg, empty application segments": (lambda: _in_jpeg(b"\xff\xe5\0\x02" * 2_500_000), "CorruptImage"),
    "jpeg, empty comments": (lambda: _in_jpeg(b"\xff\xfe\0\x02" * 90_000), "picture"),
    "jpeg, profiles": (lambda: _in_jpeg(b"\xff\xe2\0\x10ICC_PROFILE\0\1\xff" * 90_000), "picture"),
    "jpeg, fill bytes": (lambda: _in_jpeg(b"\xff" * 10_000_000), "picture"),
    "jpeg, junk": (lambda: _in_jpeg(b"\xff\0" * 5_000_000), "picture"),
    "gif, comment of one-byte blocks": (lambda: _in_gif(b"!\xfe" + b"\1x" * 5_000_000 + b"\0"), "CorruptImage"),
    "gif, as many blocks as are looked at": (lambda: _in_gif(b"!\xfe" + b"\1x" * 99_000 + b"\0"), "picture"),
    "gif, empty extensions": (lambda: _in_gif(b"!\xfe\0" * 3_000_000), "CorruptImage"),
    "gif, control extensions": (lambda: _in_gif(b"!\xf9\4\0\0\0\0\0" * 33_000), "picture"),
    "gif, zeros": (lambda: _in_gif(bytes(10_000_000)), "picture"),
    "webp, empty chunks": (lambda: _in_webp(b"abcd\0\0\0\0" * 1_200_000), "picture"),
    "webp, exif": (lambda: _in_webp(b"EXIF\0\0\0\0" * 1_200_000), "picture"),
    "avif, empty boxes": (lambda: SAMPLES["avif"] + b"\0\0\0\x08free" * 1_200_000, "picture"),
    "tiff, strips of BYTE": (lambda: _strips(1, 1), "CorruptImage"),
    "tiff, strips of SHORT": (lambda: _strips(3, 2), "CorruptImage"),
    "tiff, strips of LONG": (lambda: _strips(4, 4), "CorruptImage"),
    "tiff, strips of LONG8": (lambda: _strips(16, 8), "CorruptImage"),
    "tiff, tags": (
        lambda: b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 270, 2, 10_000_000, 8) * 65_535 + bytes(9_000_000),
        "CorruptImage",
    ),
    "bmp, lines that end": (lambda: rle_bmp(6320, 6320, b"\0\0" * 15_000), "picture"),
    "bmp, steps to nowhere": (lambda: rle_bmp(2000, 2000, b"\0\2\0\0" * 200_000), "CorruptImage"),
}


def outcome(data: bytes) -> str:
    try:
        decode_image(data)
    except CaptioningError as error:
        return type(error).__name__
    return "picture"


@pytest.mark.parametrize("name", FILES)
def test_very_many_parts_cost_little(name: str) -> None:
    made, expected = FILES[name]
    data = made()
    begun = time.process_time()
    for at in range(MAX_PARTS):
        data[at : at + 4] + data[at + 4 : at + 8]
    unit = time.process_time() - begun
    with peak_memory() as grown:
        begun = time.process_time()
        assert outcome(data) == expected
        taken = time.process_time() - begun
        pixels = 6 * 6320**2 if "bmp" in name else 0
        assert grown() < 4 * len(data) + pixels + 16 * 2**20
    # Some passes over the parts, and over the bytes: Pillow's own way took from 50 to several thousand units.
    assert taken < 40 * unit


def test_a_sound_file_is_scanned_in_no_time() -> None:
    data = encoded(quadrants(2000, 1500), "PNG")
    begun = time.process_time()
    opened = open_image(data)
    header = time.process_time() - begun
    begun = time.process_time()
    opened.decode()
    assert header < time.process_time() - begun


def test_a_refusal_says_what_is_too_much() -> None:
    with pytest.raises(CorruptImage) as caught:
        open_image(_strips(4, 4))
    assert str(MAX_PARTS) in str(caught.value.detail)
    assert open_image(tiff(4, 4, bytes(16), {258: 8, 262: 1})).pixels == 16
