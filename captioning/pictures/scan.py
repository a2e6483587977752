"""A file as it came -> what of it the pixels depend on, before any codec sees it.

Each function takes a file of its format and returns a file of the same format with the same pixels, the same way up,
and nothing else: no comments, profiles, thumbnails, further frames, unknown parts. So metadata can neither fail a
picture nor cost memory, however broken or large they are.

Where the end of the file is missing, ``filler`` stands in for it: two different fillers give two files whose pixels
agree where they do not depend on what is missing (see `captioning.pictures.decoder`). An empty one adds nothing.

All work is linear and done in slices and regular expressions; no loop goes over more than MAX_PARTS parts of a file.
What lies behind those is not there.

Sources: PNG, third edition; ITU T.81 (JPEG), annex B; RFC 9649 (WebP); GIF89a; Microsoft's BITMAPV5HEADER;
TIFF 6.0; ISO/IEC 14496-12 and 23008-12 (AVIF's boxes).
"""

from __future__ import annotations

import re
import struct
import zlib

from captioning.errors import CorruptImage
from captioning.pictures.orientation import exif_block, exif_orientation, xmp_orientation

MAX_PARTS = 100_000
"""Chunks, segments, sub-blocks, strips. A PNG of 10 MB in IDAT chunks of 8 kB has 1,300."""
MAX_SCANS = 100
"""Of a JPEG: each is a pass over the whole picture, for as little as 100 bytes; encoders make 3 to 20."""
MISSING_SHARE = 10
"""At most a tenth of samples that are stored plainly is made up where they are missing."""
_MAX_TEXT_BYTES = 2**20


# ---- PNG


def png(data: bytes, filler: bytes) -> bytes:
    """Keep IHDR, PLTE, tRNS, IDAT and the orientation.

    The checksum of IDAT does not count, nor do those of chunks that are left out. A tRNS whose own is wrong is left out
    as well, as libpng does; Pillow refuses IHDR and PLTE.
    """
    kept: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    orientations: dict[bytes, int | None] = {}
    at = 8
    for _ in range(MAX_PARTS):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        start, end = at + 8, at + 8 + length
        if kind == b"IDAT":
            pixels.append(data[start:end])
        elif kind in (b"IHDR", b"PLTE") or (
            kind == b"tRNS" and not pixels and length >= _TRNS_BYTES.get(data[25:26], 1) and _is_intact(data, at, end)
        ):
            kept.setdefault(kind, data[at : end + 4])
        elif kind == b"eXIf" and kind not in orientations and _is_intact(data, at, end):
            orientations[kind] = exif_orientation(data[start:end])
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword = data[start : min(end, start + 80)].partition(b"\0")[0]
            if keyword in _PNG_TEXTS and keyword not in orientations and _is_intact(data, at, end):
                orientations[keyword] = _text_orientation(kind, data[start + len(keyword) + 1 : end])
        elif kind in (b"", b"IEND"):
            break
        at = end + 4
    if orientation := next(filter(None, map(orientations.get, (b"eXIf", *_PNG_TEXTS))), None):
        kept[b"eXIf"] = _png_chunk(b"eXIf", exif_block(orientation))
    if pixels:
        kept[b"IDAT"] = _png_chunk(b"IDAT", b"".join(pixels))
    return b"".join([data[:8], *kept.values(), _png_chunk(b"IEND", b"")])


# What programs wrote before eXIf was a chunk, the most binding first.
_PNG_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
# By colour type: grey, colour.
_TRNS_BYTES = {b"\0": 2, b"\2": 6}


def _is_intact(data: bytes, at: int, end: int) -> bool:
    return data[end : end + 4] == zlib.crc32(data[at + 4 : end]).to_bytes(4)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return b"".join([struct.pack(">I4s", len(body), kind), body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))])


def _text_orientation(kind: bytes, text: bytes) -> int | None:
    """Return what a chunk of text says, which starts behind its keyword."""
    packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    text = {b"tEXt": text, b"zTXt": text[1:], b"iTXt": text[2:].split(b"\0", 2)[-1]}[kind]
    try:
        text = zlib.decompressobj().decompress(text, _MAX_TEXT_BYTES) if packed else text
        # ImageMagick's form: a name, a length, and the block in hexadecimal.
        return xmp_orientation(text) or exif_orientation(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode()))
    except (zlib.error, ValueError):
        return None


# ---- JPEG


# Fill bytes, stuffed samples, restart markers and TEM are no segments.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
# Frames, tables, restart interval, arithmetic conditioning.
_JPEG_PIXELS = {*range(0xC0, 0xD0), 0xDB, 0xDD} - {0xC8}
# What says how colours are coded: JFIF and Adobe.
_JPEG_COLOURS = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}


def jpeg(data: bytes, filler: bytes) -> bytes:
    """Keep the first picture's tables and scans, JFIF, Adobe's colour transform and the orientation.

    Raises CorruptImage for more than MAX_SCANS scans.
    """
    colours: dict[int, bytes] = {}
    orientations: dict[bytes, int | None] = {}
    kept: list[bytes] = []
    scans: list[bytes] = []
    at, code = 2, 0
    for _ in range(MAX_PARTS):
        marker = _JPEG_MARKER.search(data, at)
        if marker is None:
            break
        start, code = marker.start(), data[marker.end() - 1]
        if code == _EOI:
            break
        body = start + 4
        at = start + 2 + int.from_bytes(data[start + 2 : body])
        if code == _SOS:
            scans.append(data[body:at])
            following = _JPEG_MARKER.search(data, at)
            at = following.start() if following else len(data)
        if code == _SOS or code in _JPEG_PIXELS:
            kept.append(data[start:at])
        elif code in _JPEG_COLOURS and data.startswith(_JPEG_COLOURS[code], body):
            colours[code] = data[start:at]
        elif code == _APP1:
            for prefix, read in _JPEG_ORIENTATIONS.items():
                if prefix not in orientations and data.startswith(prefix, body):
                    orientations[prefix] = read(data[body + len(prefix) : at])
    if len(scans) > MAX_SCANS:
        raise CorruptImage(detail=f"a JPEG of more than {MAX_SCANS} scans")
    if orientation := next(filter(None, map(orientations.get, _JPEG_ORIENTATIONS)), None):
        block = b"Exif\0\0" + exif_block(orientation)
        kept.insert(0, struct.pack(">BBH", 0xFF, _APP1, 2 + len(block)) + block)
    if code != _EOI and kept:
        # Zeros are what is left of a download whose room was made in advance.
        kept[-1] = kept[-1].rstrip(b"\0")
    if code == _EOI:
        kept.append(b"\xff\xd9")
    elif filler and _has_all_scans(scans):
        # libjpeg takes the rest for grey; or it is made of what is no sensible samples.
        kept.append((_NOISE if filler != b"\0" else b"") + b"\xff\xd9")
    return b"".join([b"\xff\xd8", *colours.values(), *kept])


_JPEG_ORIENTATIONS = {b"Exif\0\0": exif_orientation, b"http://ns.adobe.com/xap/1.0/\0": xmp_orientation}
_NOISE = bytes(range(1, 255)) * 4


def _has_all_scans(scans: list[bytes]) -> bool:
    """Tell whether each component has all 64 coefficients to their last bit in one of the scans, or in the last one."""
    exact: set[tuple[int, int]] = set()
    components: set[int] = set()
    for scan in scans:
        count = scan[0] if scan else 0
        named, parameters = scan[1 : 1 + 2 * count : 2], scan[1 + 2 * count : 4 + 2 * count]
        components |= set(named)
        if len(parameters) == 3 and parameters[2] & 15 == 0:
            exact |= {(name, index) for name in named for index in range(parameters[0], parameters[1] % 64 + 1)}
    return 0 < 64 * len(components) == len(exact)


# ---- WebP


def webp(data: bytes, filler: bytes) -> bytes:
    """Keep the picture or the first frame, the canvas and the orientation."""
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
        flags = kept[b"VP8X"][8] & _WEBP_FLAGS | (_EXIF_FLAG if orientation else 0)
        kept[b"VP8X"] = kept[b"VP8X"][:8] + bytes([flags]) + kept[b"VP8X"][9:]
        if orientation:
            kept[b"EXIF"] = _riff_chunk(b"EXIF", exif_block(orientation))
    chunks = b"".join(kept.values())
    return b"".join([b"RIFF", struct.pack("<I", 4 + len(chunks)), b"WEBP", chunks])


_WEBP_PIXELS = (b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L")
_WEBP_ORIENTATIONS = {b"EXIF": exif_orientation, b"XMP ": xmp_orientation}
# Animation and alpha.
_WEBP_FLAGS, _EXIF_FLAG = 0x12, 0x08


def _riff_chunk(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    size = len(body) if size is None else size
    return b"".join([kind, struct.pack("<I", size), body, b"\0" * (size % 2)])


# ---- GIF


def gif(data: bytes, filler: bytes) -> bytes:
    """Keep the screen, the first picture and the control extension before it."""
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


# ---- BMP


def bmp(data: bytes, filler: bytes) -> bytes:
    """Make up the last rows of an uncompressed picture where few bytes of them are missing."""
    if len(data) < 54 or int.from_bytes(data[14:18], "little") < 40:
        return data
    offset, width, height = struct.unpack_from("<I4xii", data, 10)
    bits, compression = struct.unpack_from("<HI", data, 28)
    size = (width * bits + 31) // 32 * 4 * abs(height)
    missing = offset + size - len(data)
    return data + bytes(missing) if compression in (0, 3) and 0 < missing <= size // MISSING_SHARE else data


# ---- TIFF


# struct's codes of the types of numbers, and each type's bytes.
_TIFF_CODES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8}
_TIFF_STRIPS, _TIFF_TILES = (273, 279), (324, 325)
_TIFF_PIXELS = {
    *(256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320),
    *(322, 323, 324, 325, 332, 338, 339, 347, 529, 530, 531, 532),
}  # fmt: skip
"""Size, depth, coding, colours, strips, tiles, orientation."""


def tiff(data: bytes, filler: bytes) -> bytes:
    """Keep the first directory's tags about pixels, by a directory of these alone behind the data.

    Raises CorruptImage where a tag has more than MAX_PARTS values, as a list of strips may.
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

    def numbers(tag: int) -> tuple[int, ...]:
        kind, number, value = entries.get(tag, (3, 0, b""))
        size = number * _TIFF_BYTES[kind]
        if size > len(value):
            begin = struct.unpack(order + offset, value)[0]
            value = data[begin : begin + size]
        code = _TIFF_CODES.get(kind)
        return struct.unpack(f"{order}{number}{code}", value[:size]) if code and len(value) >= size else ()

    ends = [sum(piece) for tags in (_TIFF_STRIPS, _TIFF_TILES) for piece in zip(*map(numbers, tags), strict=False)]
    missing = max(ends, default=0) - len(data)
    # The directory's own place is even.
    end = bytes(missing if 0 < missing <= len(data) // MISSING_SHARE else 0)
    end += bytes((len(data) + len(end)) % 2)
    directory = [struct.pack(order + counted, len(entries))]
    directory += [struct.pack(entry, tag, *entries[tag]) for tag in sorted(entries)]
    pointer = struct.pack(order + offset, len(data) + len(end))
    head = data[:place] + pointer
    return b"".join([head, data[len(head) :], end, *directory, bytes(8)])


# ---- AVIF


_BOX = struct.Struct(">I4s")
_METADATA_ITEM = re.compile(rb"(infe(?:\x02.{3}.{2}|\x03.{3}.{4}).{2})(?:Exif|mime)", re.DOTALL)


def avif(data: bytes, filler: bytes) -> bytes:
    """Give items of metadata a type that no reader knows, and make up a little of the last box."""
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
