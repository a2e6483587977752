"""Pictures of 40 megapixels that take next to nothing to send and as much as can be to decode.

Sources: the PNG specification (chunks, Adam7's passes); TIFF 6.0 (tags, tiles).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from benchmarks.pictures import encoded

WIDTH, HEIGHT = 8000, 5000

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG's colour type
_ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(width: int = WIDTH, height: int = HEIGHT, *, bits: int = 8, colour: int = 6, interlaced: bool = False) -> bytes:
    """Make a PNG whose samples are all zero; of colour type 3, with a palette and its transparency."""
    passes = _ADAM7 if interlaced else [(0, 0, 1, 1)]
    size = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        size += rows * (1 + -(-columns * bits * _SAMPLES[colour] // 8)) if columns else 0
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))]
    if colour == 3:
        chunks += [(b"PLTE", bytes(3 * 2**bits)), (b"tRNS", bytes(range(2**bits)))]
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(min(2**20, size - at))) for at in range(0, size, 2**20)) + packer.flush()
    chunks += [(b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def tiled_tiff(width: int = WIDTH, height: int = HEIGHT, tile: int = 512) -> bytes:
    """Make a TIFF with alpha whose tiles are all one and the same, packed by Deflate."""
    packed = zlib.compress(bytes(4 * tile * tile), 9)
    count = -(-width // tile) * -(-height // tile)
    entries = [  # tag, kind (3: 16 bits, 4: 32 bits), values
        (256, 4, [width]), (257, 4, [height]), (258, 3, [8] * 4), (259, 3, [8]), (262, 3, [2]), (277, 3, [4]),
        (284, 3, [1]), (322, 4, [tile]), (323, 4, [tile]),
        (324, 4, [8] * count), (325, 4, [len(packed)] * count), (338, 3, [2]),
    ]  # fmt: skip
    start = 8 + len(packed) + len(packed) % 2
    beyond = start + 2 + 12 * len(entries) + 4
    directory, values = struct.pack("<H", len(entries)), b""
    for tag, kind, numbers in entries:
        raw = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(raw) > 4:
            raw, values = struct.pack("<I", beyond + len(values)), values + raw
        directory += struct.pack("<HHI", tag, kind, len(numbers)) + raw.ljust(4, b"\0")
    return struct.pack("<2sHI", b"II", 42, start) + packed.ljust(start - 8, b"\0") + directory + bytes(4) + values


def distinct(picture: bytes, number: int) -> bytes:
    """Return the same picture in other bytes, so that nobody waits for the caption of another one like it.

    What follows the end is an empty box of MPEG-4 (ISO/IEC 14496-12), which AVIF allows; the other formats ignore it.
    """
    return picture + struct.pack(">I4sI", 12, b"free", number)


def worst_pngs() -> dict[str, bytes]:
    """Return a PNG of each kind that stores much, by name."""
    return {
        "PNG, RGBA": png(),
        "PNG, RGBA, Adam7": png(interlaced=True),
        "PNG, RGBA, 16 bits": png(bits=16),
        "PNG, RGBA, 16 bits, Adam7": png(bits=16, interlaced=True),
        "PNG, grey and alpha": png(colour=4),
        "PNG, grey, 16 bits": png(bits=16, colour=0),
        "PNG, palette and tRNS": png(colour=3),
    }


def worst_pictures() -> Iterator[tuple[str, bytes]]:
    """Yield names and pictures in all formats that can be that large."""
    yield from worst_pngs().items()
    flat = Image.new("RGB", (WIDTH, HEIGHT), "teal")
    yield "JPEG, progressive, 4:4:4", encoded(flat, "JPEG", progressive=True, subsampling=0)
    yield "JPEG, progressive, CMYK", encoded(flat.convert("CMYK"), "JPEG", progressive=True)
    yield "TIFF, tiles", tiled_tiff()
    yield "TIFF, one strip", encoded(flat, "TIFF", compression="tiff_adobe_deflate", tiffinfo={278: HEIGHT})
    yield "GIF", encoded(flat.quantize(8), "GIF")
    yield "BMP, 1 bit", encoded(flat.convert("1"), "BMP")
    yield "WebP", encoded(flat, "WEBP", method=0)
    yield "AVIF", encoded(flat, "AVIF", speed=10)
    smaller = flat.resize((4000, 3000))
    yield "WebP, 12 megapixels", encoded(smaller, "WEBP", method=0)
    yield "AVIF, 9 megapixels", encoded(smaller.resize((3000, 3000)), "AVIF", speed=10)
