"""A WebP: see `captioning.pictures.scan`.

Source: RFC 9649.
"""

from __future__ import annotations

import re
import struct

from captioning.pictures.orientation import exif_block, exif_orientation, xmp_orientation
from captioning.pictures.scan.limits import MAX_PARTS, MISSING_SHARE, without_room


def essential(data: bytes, filler: bytes) -> bytes:
    """Keep the picture or the first frame, the canvas and the orientation; say in the header what there is.

    The canvas of an animation is clear where its first frame does not cover it.
    """
    data = without_room(data)
    kept: dict[bytes, bytes] = {}
    orientations: dict[bytes, int | None] = {}
    at = 12
    for _ in range(MAX_PARTS):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        if kind in _WEBP_PIXELS:
            if kind != b"VP8X" and 0 < size - len(body) <= size // MISSING_SHARE:
                # More than is missing: what stands in for it may be read faster.
                body += filler * (size // MISSING_SHARE)
            kept.setdefault(kind, _riff_chunk(kind, body, max(size, len(body))))
        elif kind in _WEBP_ORIENTATIONS:
            orientations.setdefault(kind, _WEBP_ORIENTATIONS[kind](body))
        elif not kind:
            break
        at += 8 + size + size % 2
    if b"VP8X" in kept:
        orientation = next(filter(None, map(orientations.get, _WEBP_ORIENTATIONS)), None)
        flags = kept[b"VP8X"][8] & _ALPHA_FLAG | (_EXIF_FLAG if orientation else 0)
        picture = next((kind for kind in kept if kind in _WEBP_LAYOUTS), b"VP8 ")
        if picture == b"ANMF":
            flags |= _ANIMATION_FLAG | _ALPHA_FLAG
            kept.setdefault(b"ANIM", _riff_chunk(b"ANIM", bytes(6)))
        kept = {kind: kept[kind] for kind in (b"VP8X", *_WEBP_LAYOUTS[picture]) if kind in kept}
        kept[b"VP8X"] = kept[b"VP8X"][:8] + bytes([flags]) + kept[b"VP8X"][9:]
        if orientation:
            kept[b"EXIF"] = _riff_chunk(b"EXIF", exif_block(orientation))
    chunks = b"".join(kept.values())
    return b"".join([b"RIFF", struct.pack("<I", 4 + len(chunks)), b"WEBP", chunks])


def claimed_size(essential: bytes) -> tuple[int, int] | None:
    """Return width and height of the canvas, or none where they do not stand where they should.

    libwebp takes eight bytes a pixel of it as soon as it is given the file.
    """
    if found := _CANVAS.match(essential):
        return int.from_bytes(found[1], "little") + 1, int.from_bytes(found[2], "little") + 1
    if found := _LOSSLESS.match(essential):
        bits = int.from_bytes(found[1], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if found := _LOSSY.match(essential):
        return int.from_bytes(found[1], "little") & 0x3FFF, int.from_bytes(found[2], "little") & 0x3FFF
    return None


_CANVAS, _LOSSLESS, _LOSSY = (
    re.compile(rb"RIFF.{4}WEBP" + chunk, re.DOTALL)
    for chunk in (rb"VP8X.{8}(.{3})(.{3})", rb"VP8L.{4}\x2f(.{4})", rb"VP8 .{7}\x9d\x01\x2a(..)(..)")
)
_WEBP_PIXELS = (b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L")
_WEBP_ORIENTATIONS = {b"EXIF": exif_orientation, b"XMP ": xmp_orientation}
# The first of these makes the file what it is, and wants these chunks in this order.
_WEBP_LAYOUTS = {b"VP8 ": (b"ALPH", b"VP8 "), b"VP8L": (b"VP8L",), b"ANMF": (b"ANIM", b"ANMF")}
_ANIMATION_FLAG, _EXIF_FLAG, _ALPHA_FLAG = 0x02, 0x08, 0x10


def _riff_chunk(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    size = len(body) if size is None else size
    return b"".join([kind, struct.pack("<I", size), body, b"\0" * (size % 2)])
