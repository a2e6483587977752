"""An AVIF: see `captioning.pictures.scan`.

Source: ISO/IEC 14496-12 and 23008-12.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from fractions import Fraction

from captioning.pictures.scan.hdr import refuse_hdr
from captioning.pictures.scan.limits import MAX_PARTS, without_room

_BOX = struct.Struct(">I4s")
_METADATA_ITEM = re.compile(rb"(infe(?:\x02.{3}.{2}|\x03.{3}.{4}).{2})(?:Exif|mime)", re.DOTALL)


def essential(data: bytes, filler: bytes) -> bytes:
    """Give items of metadata a type that no reader knows, and make up a little of the last box.

    Raises UnsupportedImage where the primary item is in PQ or HLG.
    """
    data = without_room(data)
    colour = _primary_property(data, b"colr")
    if data[colour : colour + 4] == b"nclx":
        refuse_hdr(int.from_bytes(data[colour + 6 : colour + 8]))
    parts: list[bytes] = []
    at = 0
    for kind, _, end in _boxes(data, 0, len(data)):
        box = data[at:end]
        parts.append(_METADATA_ITEM.sub(rb"\1skip", box) if kind == b"meta" else box)
        at = end
    # Of an animation much may be missing that the first frame does not need.
    parts.append(filler * (at - len(data)) if at <= 2 * len(data) else b"")
    parts.append(data[at:])
    return b"".join(parts)


def clean_aperture(data: bytes, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Return what is shown of an image of this (width, height): left, top, right, bottom.

    None where its primary item has no such property, or one that does not lie inside on whole pixels.
    """
    begin = _primary_property(data, b"clap")
    try:
        width, height, x, y = (Fraction(*pair) for pair in struct.iter_unpack(">iI", data[begin : begin + 32]))
    except (ZeroDivisionError, ValueError, struct.error):
        return None
    left, top = x + (size[0] - width) / 2, y + (size[1] - height) / 2
    edges = (left, top, left + width, top + height)
    is_inside = 0 <= left < edges[2] <= size[0] and 0 <= top < edges[3] <= size[1]
    if not is_inside or any(edge.denominator > 1 for edge in edges):
        return None
    return int(edges[0]), int(edges[1]), int(edges[2]), int(edges[3])


def _primary_property(data: bytes, kind: bytes) -> int:
    """Return where the body of such a property of the primary item begins; the end of the data if it has none."""
    try:
        meta = _children(data, 0, len(data))[b"meta"]
        items = _children(data, meta[0] + 4, meta[1])
        properties = _children(data, *items[b"iprp"])
        start = items[b"pitm"][0]
        primary = int.from_bytes(data[start + 4 : start + (8 if data[start] else 6)])
        boxes = [(known, begin) for known, begin, _ in _boxes(data, *properties[b"ipco"])]
        found = [boxes[number - 1] for number in _property_numbers(data, properties[b"ipma"][0], primary) if number]
        return next(begin for known, begin in found if known == kind)
    except (KeyError, IndexError, StopIteration):
        return len(data)


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield each box' kind, where its body begins and where it ends, which may be beyond the data."""
    for _ in range(MAX_PARTS):
        if at + _BOX.size > min(end, len(data)):
            break
        size, kind = _BOX.unpack_from(data, at)
        body = at + _BOX.size
        if size == 1:
            size, body = int.from_bytes(data[body : body + 8]), body + 8
        at = at + size if size >= _BOX.size else end
        yield kind, body, at


def _children(data: bytes, at: int, end: int) -> dict[bytes, tuple[int, int]]:
    return {kind: (begin, stop) for kind, begin, stop in reversed([*_boxes(data, at, end)])}


def _property_numbers(data: bytes, at: int, item: int) -> list[int]:
    """Return which properties an ItemPropertyAssociationBox gives to an item, counted from 1; 0 is none."""
    id_bytes, number_bytes = 4 if data[at] else 2, 1 + (data[at + 3] & 1)
    essential_mark = 0x80 << 8 * (number_bytes - 1)
    count, at = int.from_bytes(data[at + 4 : at + 8]), at + 8
    for _ in range(min(count, MAX_PARTS)):
        named, several = int.from_bytes(data[at : at + id_bytes]), data[at + id_bytes]
        at += id_bytes + 1
        end = at + number_bytes * several
        if named == item:
            numbers = (data[place : place + number_bytes] for place in range(at, end, number_bytes))
            return [int.from_bytes(number) & ~essential_mark for number in numbers]
        at = end
    return []
