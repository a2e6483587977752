"""A BMP: see `captioning.pictures.scan`.

Source: Microsoft's BITMAPINFOHEADER.
"""

from __future__ import annotations

import struct

from captioning.pictures.scan.limits import MISSING_SHARE


def essential(data: bytes, filler: bytes) -> bytes:
    """Make up the last rows of an uncompressed picture where few bytes of them are missing."""
    if len(data) < 54 or int.from_bytes(data[14:18], "little") < 40:
        return data
    offset, width, height = struct.unpack_from("<I4xii", data, 10)
    bits, compression = struct.unpack_from("<HI", data, 28)
    size = (width * bits + 31) // 32 * 4 * abs(height)
    missing = offset + size - len(data)
    return data + bytes(missing) if compression in (0, 3) and 0 < missing <= size // MISSING_SHARE else data
