"""A PNG: see `captioning.pictures.scan`.

Source: PNG, third edition.
"""

from __future__ import annotations

import struct
import zlib

from captioning.errors import CorruptImage, UnsupportedImage
from captioning.pictures.orientation import exif_block, exif_orientation, xmp_orientation
from captioning.pictures.scan.hdr import refuse_hdr
from captioning.pictures.scan.limits import MAX_PARTS, without_room

_MAX_TEXT_BYTES = 2**20


def essential(data: bytes, filler: bytes) -> bytes:
    """Keep IHDR, a palette, its or another sound transparency, IDAT and the orientation.

    The checksum of IDAT does not count, nor do those of chunks that are left out. A tRNS of another length than it
    should have, before its palette, or whose checksum is wrong is left out as well, as libpng does; Pillow refuses
    IHDR. Colours that the palette lacks are black.

    Raises CorruptImage where there is no sound palette before the pixels that need one, and UnsupportedImage for CgBI,
    Apple's PNG of other compression and order of colours, and for PQ and HLG.
    """
    data = without_room(data)
    has_palette = data[25:26] == b"\3"
    kept: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    orientations: dict[bytes, int | None] = {}
    trns_lengths = _TRNS_LENGTHS.get(data[25:26], range(0))
    at = 8
    for _ in range(MAX_PARTS):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        start, end = at + 8, at + 8 + length
        if kind == b"IDAT":
            pixels.append(data[start:end])
        elif kind == b"CgBI" and not kept:
            raise UnsupportedImage(
                "PNG images of Apple's own kind (CgBI) are not supported; save it as an ordinary PNG."
            )
        elif kind == b"cICP" and length == 4 and not pixels and _is_intact(data, at, end):
            refuse_hdr(data[start + 1])
        elif kind == b"IHDR":
            kept.setdefault(kind, data[at : end + 4])
        elif kind == b"PLTE" and has_palette and not pixels and 0 < length <= 768 and _is_intact(data, at, end):
            kept.setdefault(kind, _png_chunk(kind, data[start:end].ljust(768, b"\0")))
            trns_lengths = trns_lengths or range(1, min(length // 3, 2 ** data[24]) + 1)
        elif kind == b"tRNS" and not (pixels or kind in kept) and length in trns_lengths and _is_intact(data, at, end):
            body = data[start:end]
            kept[kind] = _png_chunk(kind, body if has_palette else _colour_key(body, data[24]))
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
        if has_palette and b"PLTE" not in kept:
            raise CorruptImage(detail="a PNG without its palette")
        kept[b"IDAT"] = _png_chunk(b"IDAT", b"".join(pixels))
    return b"".join([data[:8], *kept.values(), _png_chunk(b"IEND", b"")])


# What programs wrote before eXIf was a chunk, the most binding first.
_PNG_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
# By colour type: grey, colour. A palette has as many as it has colours, or fewer.
_TRNS_LENGTHS = {b"\0": range(2, 3), b"\2": range(6, 7)}


def _colour_key(body: bytes, bits: int) -> bytes:
    """Clear what its samples have above a picture's own bits, which the standard wants of decoders."""
    samples = struct.unpack(f">{len(body) // 2}H", body)
    return struct.pack(f">{len(samples)}H", *(sample & 2**bits - 1 for sample in samples))


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
