"""An AVIF: see `captioning.pictures.scan`.

Source: ISO/IEC 14496-12 and 23008-12.
"""

from __future__ import annotations

import re
import struct

from captioning.pictures.scan.limits import MAX_PARTS, without_room

_BOX = struct.Struct(">I4s")
_METADATA_ITEM = re.compile(rb"(infe(?:\x02.{3}.{2}|\x03.{3}.{4}).{2})(?:Exif|mime)", re.DOTALL)


def essential(data: bytes, filler: bytes) -> bytes:
    """Give items of metadata a type that no reader knows, and make up a little of the last box."""
    data = without_room(data)
    parts: list[bytes] = []
    at = 0
    for _ in range(MAX_PARTS):
        if at + _BOX.size > len(data):
            break
        size, kind = _BOX.unpack_from(data, at)
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16])
        end = at + size if size >= _BOX.size else len(data)
        box = data[at:end]
        parts.append(_METADATA_ITEM.sub(rb"\1skip", box) if kind == b"meta" else box)
        at = end
    # Of an animation much may be missing that the first frame does not need.
    parts.append(filler * (at - len(data)) if at <= 2 * len(data) else b"")
    parts.append(data[at:])
    return b"".join(parts)
