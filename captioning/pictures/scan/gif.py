"""A GIF: see `captioning.pictures.scan`.

Source: GIF89a.
"""

from __future__ import annotations

import re

from captioning.errors import CorruptImage
from captioning.pictures.scan.limits import MAX_PARTS


def essential(data: bytes, filler: bytes) -> bytes:
    """Keep the screen, the first picture and the control extension before it.

    Raises CorruptImage where there is no picture, or no palette for it.
    """
    screen = 13 + _colours_bytes(data[10:11])
    control = b""
    at, in_extension = screen, False
    for _ in range(MAX_PARTS):
        if in_extension:
            size = data[at] if at < len(data) else 0
            at, in_extension = at + 1 + size, size > 0
            continue
        found = _GIF_BLOCK.search(data, at)
        if found is None or found[0] == b";":
            break
        at = found.start()
        if found[0] == b",":
            if screen == 13 and not _colours_bytes(data[at + 9 : at + 10]):
                raise CorruptImage(detail="a GIF without a palette")
            return b"".join([data[:screen], control, data[at:]])
        label, length, flags = data[at + 1 : at + 2], data[at + 2 : at + 3], data[at + 3 : at + 7]
        if label == b"\xf9" and length >= b"\4" and len(flags) == 4:
            # Without a disposal: for that, Pillow would fill a picture of the frame's size while it opens the file.
            control = b"!\xf9\4" + bytes([flags[0] & 0xE3]) + flags[1:] + b"\0"
        at, in_extension = at + 2, True
    raise CorruptImage(detail="a GIF without a picture")


_GIF_BLOCK = re.compile(rb"[!,;]")


def _colours_bytes(flags: bytes) -> int:
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0
