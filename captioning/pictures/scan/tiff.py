"""A TIFF: see `captioning.pictures.scan`.

Source: TIFF 6.0; BigTIFF.
"""

from __future__ import annotations

import struct

from captioning.errors import CorruptImage, UnsupportedImage
from captioning.pictures.scan.limits import MAX_PARTS, MISSING_SHARE

# struct's codes of the types of numbers, and each type's bytes.
_TIFF_CODES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8}
_TIFF_STRIPS, _TIFF_TILES = (273, 279), (324, 325)
_TIFF_NEEDED = {258, 259, 262, 273, 277, 284, 317, 324, 338, 339}
_TIFF_PIXELS = {
    *(256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320),
    *(322, 323, 324, 325, 332, 338, 339, 347, 529, 530, 531, 532),
}  # fmt: skip
"""Size, depth, coding, colours, strips, tiles, orientation."""
# None, fax, LZW, JPEG, deflate, PackBits. libtiff's other codecs (old-style JPEG, SGI, ThunderScan, LZMA, ZSTD, WebP,
# LERC) are rare, and either fragile or free to take memory that the header does not tell.
_TIFF_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}


def essential(data: bytes, filler: bytes) -> bytes:
    """Keep the first directory's tags about pixels, by a directory of these alone behind the data.

    A BigTIFF becomes a TIFF, since Pillow reads only those of little-endian order.

    Raises CorruptImage where a tag has more than MAX_PARTS values, as a list of strips may; and where tags or their
    values are missing, without which a picture looks like one of another kind. Raises UnsupportedImage for rare
    compressions.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    counted, entry, offset = ("Q", order + "HHQ8s", "Q") if big else ("H", order + "HHI4s", "I")
    place = 8 if big else 4
    if len(data) < 16:
        return data
    at = struct.unpack_from(order + offset, data, place)[0]
    start = at + struct.calcsize(counted)
    count = struct.unpack(order + counted, data[at:start])[0] if start <= len(data) else 0
    step = struct.calcsize(entry)
    listed = data[start : start + step * min(count, MAX_PARTS)]
    entries = {
        tag: (kind, number, value)
        for tag, kind, number, value in struct.iter_unpack(entry, listed[: len(listed) // step * step])
        if tag in _TIFF_PIXELS and kind in _TIFF_BYTES
    }
    if any(number > MAX_PARTS for _, number, _ in entries.values()):
        raise CorruptImage(detail=f"a TIFF with more than {MAX_PARTS} values in a tag")

    if len(listed) < step * count:
        raise CorruptImage(detail="a TIFF without all its tags")

    def values(tag: int) -> bytes:
        kind, number, value = entries.get(tag, (3, 0, b""))
        size = number * _TIFF_BYTES[kind]
        if size > len(value):
            begin = struct.unpack(order + offset, value)[0]
            value = data[begin : begin + size]
        return value[:size] if len(value) >= size else b""

    def numbers(tag: int) -> tuple[int, ...]:
        code, found = _TIFF_CODES.get(entries[tag][0]) if tag in entries else None, values(tag)
        return struct.unpack(f"{order}{len(found) // struct.calcsize(order + code)}{code}", found) if code else ()

    if not all(numbers(tag) for tag in _TIFF_NEEDED & entries.keys()):
        raise CorruptImage(detail="a TIFF without its tags' values")
    if (compression := (*numbers(259), 1)[0]) not in _TIFF_COMPRESSIONS:
        raise UnsupportedImage(
            "TIFF images with this compression are not supported; save it as PNG.", detail=f"compression {compression}"
        )
    ends = [sum(piece) for tags in (_TIFF_STRIPS, _TIFF_TILES) for piece in zip(*map(numbers, tags), strict=False)]
    missing = max(ends, default=0) - len(data)
    # The directory's own place is even.
    end = bytes(missing if 0 < missing <= len(data) // MISSING_SHARE else 0)
    end += bytes((len(data) + len(end)) % 2)
    fields = {tag: (entries[tag][0], values(tag)) for tag in sorted(entries) if values(tag)}
    for tag, (kind, _) in fields.items():
        if kind == 16:
            longs = [min(number, 2**32 - 1) for number in numbers(tag)]
            fields[tag] = (4, struct.pack(f"{order}{len(longs)}I", *longs))
    place = len(data) + len(end)
    head = (data[:2] + struct.pack(order + "H", 42) if big else data[:4]) + struct.pack(order + "I", place)
    return b"".join([head, data[8:], end, _directory(fields, order, place)])


def _directory(fields: dict[int, tuple[int, bytes]], order: str, place: int) -> bytes:
    """Encode tags, each with its type and values, for this place in a file."""
    entries = struct.pack(order + "H", len(fields))
    outside = bytearray()
    start = place + 2 + 12 * len(fields) + 4
    for tag, (kind, found) in fields.items():
        value = found
        if len(found) > 4:
            value = struct.pack(order + "I", start + len(outside))
            outside += found + bytes(len(found) % 2)
        entries += struct.pack(order + "HHI4s", tag, kind, len(found) // _TIFF_BYTES[kind], value)
    return entries + bytes(4) + outside
