"""Files that are small to send and were dear to read: each took hundreds of megabytes, or seconds to minutes of a CPU.

Sources: ISO/IEC 23008-12 (AVIF's ispe), TIFF 6.0, ITU T.81 (JPEG's segments), GIF89a, the PNG specification, BMP's RLE.
"""

from __future__ import annotations

import struct
import zlib

from PIL import Image

from benchmarks.pictures import encoded

_SMALL = Image.new("RGB", (64, 64), "teal")


def avif_larger_than_told(side: int = 14_000) -> bytes:
    """Make an AVIF that says it is 64 x 64, around a stream of AV1 that is not."""
    data = bytearray(encoded(Image.new("L", (side, side)).convert("RGB"), "AVIF", speed=10))
    struct.pack_into(">II", data, data.index(b"ispe") + 8, 64, 64)
    return bytes(data)


def tiff_of_many_strips(count: int, kind: int = 1) -> bytes:
    """Make a TIFF that lists so many strips, as BYTE (1), SHORT (3) or LONG (4)."""
    size = {1: 1, 3: 2, 4: 4}[kind]
    values = 8 + 2 + 9 * 12 + 4
    tags = [(256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, kind, count, values), (277, 3, 1, 1), (278, 3, 1, 1), (279, kind, count, values)]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + directory + bytes(4 + size * count)


def jpeg_of_many_segments(segment: bytes, count: int) -> bytes:
    """Make a JPEG with one segment again and again before its tables."""
    data = encoded(_SMALL, "JPEG")
    return data[:2] + segment * count + data[2:]


def gif_with(extension: bytes) -> bytes:
    """Make a GIF with an extension before its picture."""
    data = encoded(Image.new("P", (64, 64)), "GIF")
    frame = data.index(b",\0\0\0\0")
    return data[:frame] + extension + data[frame:]


def png_of_many_chunks(count: int) -> bytes:
    """Make a PNG with so many empty chunks before its picture."""
    data = encoded(_SMALL, "PNG")
    chunk = struct.pack(">I4sI", 0, b"abCd", zlib.crc32(b"abCd"))
    return data[:33] + chunk * count + data[33:]


def bmp_of_runs(bits: int = 8, side: int = 6320) -> bytes:
    """Make a BMP whose runs, RLE8's or RLE4's, fill its rows with next to nothing."""
    row = b"\xff\x01" * (side // 255) + bytes([side % 255, 1]) + b"\0\0"
    body, colours = row * side + b"\0\1", bytes(4 << bits)
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, bits, {8: 1, 4: 2}[bits], len(body), 0, 0, 1 << bits, 0)
    offset = 14 + len(head) + len(colours)
    return struct.pack("<2sIII", b"BM", offset + len(body), 0, offset) + head + colours + body


def hostile_pictures(scale: int = 1) -> dict[str, bytes]:
    """Return one of each by name; those that are large to send are so by ``scale``, 10 MB at 10."""
    return {
        "AVIF larger than told": avif_larger_than_told(),
        "TIFF of many strips, BYTE": tiff_of_many_strips(1_000_000 * scale),
        "TIFF of many strips, SHORT": tiff_of_many_strips(500_000 * scale, 3),
        "TIFF of many strips, LONG": tiff_of_many_strips(250_000 * scale, 4),
        "JPEG of Exif of one byte": jpeg_of_many_segments(b"\xff\xe1\0\x09Exif\0\0a", 90_000 * scale),
        "JPEG of empty APP5": jpeg_of_many_segments(b"\xff\xe5\0\2", 250_000 * scale),
        "JPEG of empty COM": jpeg_of_many_segments(b"\xff\xfe\0\2", 250_000 * scale),
        "GIF comment of one-byte blocks": gif_with(b"!\xfe" + b"\1a" * 500_000 * scale + b"\0"),
        "GIF of many extensions": gif_with(b"!\xfe\1a\0" * 200_000 * scale),
        "PNG of many empty chunks": png_of_many_chunks(80_000 * scale),
        "BMP of runs, RLE8": bmp_of_runs(),
        "BMP of runs, RLE4": bmp_of_runs(4),
    }
