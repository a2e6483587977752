"""Which way up a picture is: the one thing that is wanted of its metadata.

Sources: EXIF 2.32, tag 0x0112; TIFF 6.0, section 2 (image file directories); XMP part 2, namespace tiff.
"""

from __future__ import annotations

import re
import struct

_TAG = 0x0112
# TIFF's BYTE, SHORT and LONG -> struct's codes.
_CODES = {1: "B", 3: "H", 4: "I"}
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def exif_orientation(block: bytes) -> int | None:
    """Return what an EXIF block says, with or without its "Exif" prefix: 1 to 8, or None."""
    block = re.sub(rb"^(Exif\0\0){1,2}", b"", block[:65_536])
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 10:
        return None
    start = struct.unpack_from(order + "I", block, 4)[0]
    count = struct.unpack(order + "H", block[start : start + 2].ljust(2, b"\0"))[0]
    entries = block[start + 2 : start + 2 + 12 * count]
    for tag, kind, _, value in struct.iter_unpack(order + "HHI4s", entries[: len(entries) // 12 * 12]):
        if tag == _TAG and kind in _CODES:
            orientation = struct.unpack_from(order + _CODES[kind], value)[0]
            return orientation if 1 <= orientation <= 8 else None
    return None


def xmp_orientation(packet: bytes) -> int | None:
    """Return what an XMP packet says: 1 to 8, or None."""
    found = _XMP.search(packet)
    return int(found[1]) if found else None


def exif_block(orientation: int) -> bytes:
    """Return the smallest EXIF block, without a prefix, that says this."""
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, _TAG, 3, 1, orientation, 0, 0)
