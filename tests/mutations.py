"""Strategies that damage what was sound: pictures, HTTP messages, JSON, URLs.

    mutated([jpeg, png])                     # a few edits of one of them, some taken from the other
    mutated([b"GET / HTTP/1.1"], ODD_TEXTS)  # with whole tokens replaced too

Random bytes alone rarely get past a signature or a checksum, so the edits know where a format keeps its numbers
(lengths, counts, offsets, sizes) and where its segments (chunks, markers, boxes, lines) begin and end, and the
checksums of a PNG are usually mended behind them.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from hypothesis import strategies as st

Edit = Callable[[st.DrawFn, bytes, bytes], bytes]


class Field(NamedTuple):
    """Where a file keeps a whole number: ``order`` is struct's "<" or ">"."""

    offset: int
    size: int
    order: str


ODD_NUMBERS = sorted(
    {0, 1, 2, 3, 5, 7, 8, 9, 16, 32, 48, 64, 100, 255, 256, 1000, 1999, 2001, 4096, 20_000, 65_500}
    | {2**bits + step for bits in (15, 16, 20, 24, 28, 31, 32, 63, 64) for step in (-1, 0, 1)}
)
ODD_TEXTS = [
    *(b"", b" ", b"\0", b"\r\n", b"\n", b"\r", b"\t", b"\xff", b"\xc3\x28", b"\xef\xbb\xbf", b"\xe2\x80\xa8"),
    *(b"-1", b"0", b"00", b"+1", b"1_0", b"1e999", b"0x7fffffff", b"9" * 20, b"9" * 5000, b"NaN", b"-Infinity"),
    *(b"null", b"true", b"[]", b"{}", b'"', b"'", b"\\", b"\\u0000", b"\\ud800", b"[" * 500, b'{"":' * 300),
    *(b"%", b"%00", b"%0d%0a", b"%ff", b"%2e%2e%2f", b"../", b"//", b"?", b"#", b"@", b":", b";", b"=", b"&", b","),
    *(b"chunked", b"gzip", b"deflate", b"br", b"identity", b"close", b"keep-alive", b"100-continue", b"a" * 9000),
    *(b"multipart/form-data; boundary=", b"image/png", b"application/json; charset=utf-7", b"--x--"),
]
_TOKEN = re.compile(rb"[A-Za-z0-9_.+-]+")
_AFTER_DELIMITER = re.compile(rb"(?<=[\n,;&{}\[\]])")


@st.composite
def mutated(draw: st.DrawFn, sources: Sequence[bytes], texts: Sequence[bytes] = (), max_edits: int = 4) -> bytes:
    """Make up to ``max_edits`` edits of one source; ``texts`` are for sources that are text."""
    data = draw(st.sampled_from(sources))
    edits = [*_ANY_EDITS, _replace_token(texts), _replace_token(texts)] if texts else [*_ANY_EDITS, *_BINARY_EDITS]
    for edit in draw(st.lists(st.sampled_from(edits), max_size=max_edits)):
        data = edit(draw, data, draw(st.sampled_from(sources)))
    # A file whose checksums are wrong is refused at once: seldom of interest.
    return data if draw(st.integers(0, 9)) == 9 else mended(data)


# ---- edits: of any bytes


def _overwrite(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    at = draw(_position(data))
    patch = draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80"]) | st.binary(min_size=1, max_size=8))
    return data[:at] + patch + data[at + len(patch) :]


def _flip_bit(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    at = draw(_position(data))
    return data[:at] + bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[at : at + 1]) + data[at + 1 :]


def _cut(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    return data[: draw(_position(data))]


def _leave_out(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    at = draw(_position(data))
    return data[:at] + data[at + draw(st.integers(1, 64)) :]


def _insert(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    at = draw(_position(data))
    return data[:at] + draw(st.binary(min_size=1, max_size=16)) * draw(st.sampled_from([1, 2, 300])) + data[at:]


def _repeat(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    at = draw(_position(data))
    end = at + draw(st.integers(1, 64))
    return data[:end] + data[at:end] * draw(st.sampled_from([1, 2, 50])) + data[end:]


def _cross(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    """Go on with another file's end, which is often of another format."""
    return data[: draw(_position(data))] + other[draw(_position(other)) :]


# ---- edits: of segments


def _drop_segment(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    parts = segments(data)
    del parts[draw(_segment(parts))]
    return b"".join(parts)


def _repeat_segment(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    parts = segments(data)
    at = draw(_segment(parts))
    parts[at] *= draw(st.sampled_from([2, 3, 30, 200]))
    return b"".join(parts)


def _flood_with_segments(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    """Repeat a part, or the start of one, until the file has half a megabyte: counts are as cheap to send as bytes."""
    parts = segments(data)
    at = draw(_segment(parts))
    part = parts[at][: draw(st.sampled_from([2, 4, 8, 12, 20, 10_000]))]
    parts.insert(at, part * (500_000 // max(1, len(part))))
    return b"".join(parts)


def _move_segment(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    parts = segments(data)
    part = parts.pop(draw(_segment(parts)))
    parts.insert(draw(_segment([*parts, part])), part)
    return b"".join(parts)


def _transplant_segment(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    parts = segments(data)
    parts.insert(draw(_segment([*parts, b""])), draw(st.sampled_from(segments(other))))
    return b"".join(parts)


def _add_hostile_exif(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    parts = segments(data)
    for start, packed in _PACKED_EXIF.items():
        if data.startswith(start):
            parts.insert(draw(_segment([*parts, b""])), packed(draw(st.sampled_from(HOSTILE_EXIF))))
    return b"".join(parts)


# ---- edits: of numbers and tokens


def _set_number(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    fields = list(number_fields(data))
    if not fields:
        return data
    field = draw(st.sampled_from(fields))
    return _with_number(data, field, draw(st.sampled_from(ODD_NUMBERS) | st.integers(0, 300)))


def _contradict_size(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    """Change one of the places where a picture's size stands, of which the others go on telling the old one."""
    fields = list(size_fields(data))
    if not fields:
        return data
    field = draw(st.sampled_from(fields))
    number = draw(st.sampled_from([1, 2, 3, 16, 64, 1000, 1999, 16_000, 65_535]))
    return _with_number(data, field, number)


def _with_number(data: bytes, field: Field, number: int) -> bytes:
    packed = (number % (1 << 8 * field.size)).to_bytes(field.size, "little" if field.order == "<" else "big")
    return data[: field.offset] + packed + data[field.offset + field.size :]


def _replace_token(texts: Sequence[bytes]) -> Edit:
    def edit(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
        tokens = list(_TOKEN.finditer(data))
        if not tokens:
            return data
        token = tokens[draw(st.integers(0, len(tokens) - 1))]
        return data[: token.start()] + draw(st.sampled_from(texts)) + data[token.end() :]

    return edit


_ANY_EDITS: tuple[Edit, ...] = (
    *(_overwrite, _flip_bit, _cut, _leave_out, _insert, _repeat, _cross),
    *(_drop_segment, _repeat_segment, _move_segment, _transplant_segment),
)
# Numbers twice: they reach deepest.
_BINARY_EDITS: tuple[Edit, ...] = (
    *(_set_number, _set_number, _set_number, _contradict_size),
    *(_flood_with_segments, _add_hostile_exif),
)


def _position(data: bytes) -> st.SearchStrategy[int]:
    """Choose a place; headers, where most of the logic is, come as often as all the rest.

    Signatures do not: whoever damages one is refused at once.
    """
    return st.integers(min(len(data), 4), min(len(data), 256)) | st.integers(min(len(data), 12), len(data))


def _segment(parts: Sequence[bytes]) -> st.SearchStrategy[int]:
    """Choose a segment behind the first, which holds the signature, if there is another."""
    return st.integers(min(1, len(parts) - 1), len(parts) - 1)


# ---- where formats keep their segments and numbers


def segments(data: bytes) -> list[bytes]:
    """Cut a file where its own parts begin; joined again they are the file."""
    starts = {0, *(start for start in _segment_starts(data) if 0 < start < len(data))}
    ends = [*sorted(starts)[1:], len(data)]
    return [data[start:end] for start, end in zip(sorted(starts), ends, strict=True)]


def number_fields(data: bytes) -> Iterator[Field]:
    """Yield the places of lengths, counts, offsets, sizes and types that decide how a picture is read."""
    if data.startswith(b"\x89PNG"):
        for start in _png_chunks(data):
            yield Field(start, 4, ">")
            if data[start + 4 : start + 8] in (b"IHDR", b"acTL", b"fcTL", b"pHYs"):
                yield from (Field(at, 4, ">") for at in range(start + 8, start + 16, 4))
                yield from (Field(at, 1, ">") for at in range(start + 16, start + 21))
    elif data.startswith(b"\xff\xd8"):
        for start in _jpeg_markers(data):
            yield from (Field(start + 1, 1, ">"), Field(start + 2, 2, ">"))
            # Sizes, factors and table numbers of a frame, a scan, a table, a restart interval.
            yield from (Field(at, 2, ">") for at in range(start + 5, start + 9, 2))
            yield from (Field(at, 1, ">") for at in range(start + 4, start + 20))
    elif data.startswith(b"RIFF"):
        yield Field(4, 4, "<")
        for start in _riff_chunks(data):
            yield Field(start + 4, 4, "<")
            yield from (Field(at, 1, "<") for at in range(start + 8, start + 12))
            yield from (Field(at, 3, "<") for at in range(start + 12, start + 24, 3))
    elif data[4:8] == b"ftyp":
        for start in _boxes(data, 0, len(data)):
            yield Field(start, 4, ">")
            yield from (Field(at, 1, ">") for at in range(start + 8, start + 16))
            yield from (Field(at, 4, ">") for at in range(start + 12, start + 24, 4))
    elif data[:2] in (b"II", b"MM"):
        order = "<" if data[:2] == b"II" else ">"
        size = 8 if _is_big_tiff(data) else 4
        yield Field(size, size, order)
        for start in _tiff_entries(data):
            yield from (Field(start, 2, order), Field(start + 2, 2, order), Field(start + 4, size, order))
            yield from (Field(start + 4 + size, size, order), Field(start + 4 + size, 2, order))
    elif data.startswith(b"GIF8"):
        yield from (Field(6, 2, "<"), Field(8, 2, "<"), Field(10, 1, "<"), Field(11, 1, "<"))
        for start in _gif_blocks(data):
            yield from (Field(at, 2, "<") for at in range(start + 1, start + 9, 2))
            yield from (Field(at, 1, "<") for at in range(start + 1, start + 12))
    elif data.startswith(b"BM"):
        yield from (Field(at, 4, "<") for at in (2, 10, 14, 18, 22, 30, 34, 38, 42, 46, 50))
        yield from (Field(26, 2, "<"), Field(28, 2, "<"))


def size_fields(data: bytes) -> Iterator[Field]:
    """Yield the places where a picture says how wide and high it, its canvas, its frame or its pieces are."""
    if data.startswith(b"\x89PNG"):
        yield from (Field(16, 4, ">"), Field(20, 4, ">"))
    elif data.startswith(b"\xff\xd8"):
        for start in _jpeg_markers(data):
            if data[start + 1] in (0xC0, 0xC1, 0xC2):
                yield from (Field(start + 5, 2, ">"), Field(start + 7, 2, ">"))
    elif data.startswith(b"RIFF"):
        for start in _riff_chunks(data):
            kind = data[start : start + 4]
            if kind in (b"VP8X", b"ANMF"):
                first = start + (12 if kind == b"VP8X" else 14)
                yield from (Field(first, 3, "<"), Field(first + 3, 3, "<"))
            elif kind == b"VP8 ":
                yield from (Field(start + 14, 2, "<"), Field(start + 16, 2, "<"))
            elif kind == b"VP8L":
                yield Field(start + 9, 4, "<")
    elif data[4:8] == b"ftyp":
        for start in _boxes(data, 0, len(data)):
            if data[start + 4 : start + 8] == b"ispe":
                yield from (Field(start + 12, 4, ">"), Field(start + 16, 4, ">"))
            elif data[start + 4 : start + 8] == b"mdat":
                # The sequence header of AV1, whose sizes start somewhere in a byte.
                yield from (Field(at, 2, ">") for at in range(start + 8, start + 20))
    elif data[:2] in (b"II", b"MM"):
        order, size = "<" if data[:2] == b"II" else ">", 8 if _is_big_tiff(data) else 4
        for start in _tiff_entries(data):
            tag = int.from_bytes(data[start : start + 2], "little" if order == "<" else "big")
            if tag in (256, 257, 278, 322, 323):
                yield Field(start + 4 + size, 2, order)
    elif data.startswith(b"GIF8"):
        yield from (Field(6, 2, "<"), Field(8, 2, "<"))
        for start in _gif_blocks(data):
            if data[start : start + 1] == b",":
                yield from (Field(at, 2, "<") for at in range(start + 1, start + 9, 2))
    elif data.startswith(b"BM"):
        yield from (Field(18, 4, "<"), Field(22, 4, "<"))


def mended(data: bytes) -> bytes:
    """Give a PNG's chunks their checksums and a RIFF file its size, as someone who attacks would."""
    if data.startswith(b"RIFF"):
        return data[:4] + (max(len(data) - 8, 0) & 0xFFFF_FFFF).to_bytes(4, "little") + data[8:]
    if not data.startswith(b"\x89PNG"):
        return data
    mended_data = bytearray(data)
    for start in _png_chunks(data):
        end = start + 8 + int.from_bytes(data[start : start + 4])
        if end + 4 <= len(data):
            struct.pack_into(">I", mended_data, end, zlib.crc32(data[start + 4 : end]))
    return bytes(mended_data)


def _segment_starts(data: bytes) -> Iterator[int]:
    if data.startswith(b"\x89PNG"):
        return _png_chunks(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg_markers(data)
    if data.startswith(b"RIFF"):
        return _riff_chunks(data)
    if data[4:8] == b"ftyp":
        return _boxes(data, 0, len(data))
    if data[:2] in (b"II", b"MM"):
        return _tiff_entries(data)
    if data.startswith(b"GIF8"):
        return _gif_blocks(data)
    if data.startswith(b"BM"):
        return iter((14, 18, 54, 118))
    return (match.start() for match in _AFTER_DELIMITER.finditer(data))


def _png_chunks(data: bytes) -> Iterator[int]:
    at = 8
    while at + 8 <= len(data):
        yield at
        at += 12 + int.from_bytes(data[at : at + 4])


def _jpeg_markers(data: bytes) -> Iterator[int]:
    at = 2
    while 0 <= at < len(data) - 4:
        yield at
        # Behind a scan's header come its samples, up to the next marker.
        at = data.find(b"\xff", at + 2 + int.from_bytes(data[at + 2 : at + 4]))
        while 0 <= at < len(data) - 1 and data[at + 1] in (0, *range(0xD0, 0xD8)):
            at = data.find(b"\xff", at + 2)


def _riff_chunks(data: bytes) -> Iterator[int]:
    at = 12
    while at + 8 <= len(data):
        yield at
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        # Frames of an animation hold chunks of their own.
        at += 24 if data[at : at + 4] == b"ANMF" else 8 + size + size % 2


_BOXES_OF_BOXES = {b"meta": 12, b"iprp": 8, b"ipco": 8, b"iinf": 14, b"moov": 8, b"trak": 8, b"mdia": 8, b"minf": 8}


def _boxes(data: bytes, start: int, end: int) -> Iterator[int]:
    while start + 8 <= end:
        yield start
        size = int.from_bytes(data[start : start + 4])
        if inner := _BOXES_OF_BOXES.get(data[start + 4 : start + 8]):
            yield from _boxes(data, start + inner, min(start + size, end))
        start += max(size, 8)


def _tiff_entries(data: bytes) -> Iterator[int]:
    """Yield the places of the first directory's entries."""
    number = struct.Struct(("<" if data[:2] == b"II" else ">") + ("Q" if _is_big_tiff(data) else "I"))
    counted, entry = (8, 20) if _is_big_tiff(data) else (2, 12)
    if len(data) < 16:
        return
    first = number.unpack_from(data, number.size)[0] + counted
    while first + entry <= len(data) and any(data[first : first + 2]):
        yield first
        first += entry


def _is_big_tiff(data: bytes) -> bool:
    return b"+" in data[2:4]


def _gif_blocks(data: bytes) -> Iterator[int]:
    at = 13 + (3 * 2 ** ((data[10] & 7) + 1) if len(data) > 10 and data[10] & 0x80 else 0)
    while at + 10 < len(data) and data[at] in b"!,":
        yield at
        if data[at : at + 1] == b",":
            at += 11 + (3 * 2 ** ((data[at + 9] & 7) + 1) if data[at + 9] & 0x80 else 0)
        else:
            at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1


# ---- metadata that nobody should believe


def _exif(entries: Sequence[tuple[int, int, int, bytes]], order: str = "<") -> bytes:
    """Return EXIF of one directory of (tag, type, count, value or offset)."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    packed = (struct.pack(order + "HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return magic + struct.pack(order + "IH", 8, len(entries)) + b"".join(packed) + bytes(4)


_SIX, _FAR = b"\6\0\0\0", b"\xf0\xff\xff\xff"
HOSTILE_EXIF = [
    b"",
    b"II*\0",
    b"II*\0\xff\xff\xff\xff",
    b"MM\0*\0\0\0\x08\xff\xff" + bytes(100),
    *(_exif([(0x0112, kind, count, _SIX)]) for kind in (0, 1, 2, 3, 5, 7, 9, 12, 13, 99) for count in (0, 1, 2, 2**31)),
    *(_exif([(0x0112, 3, 1, value)]) for value in (bytes(4), b"\x09\0\0\0", b"\xff" * 4)),
    _exif([(0x0112, 5, 1, _FAR)]),
    _exif([(0x0112, 3, 1, b"\0\6\0\0")], ">"),
    _exif([(0x8769, 4, 1, b"\x08\0\0\0"), (0x0112, 3, 1, _SIX)]),  # a sub-directory that is the directory
    _exif([(0x0112, 3, 1, _SIX)] * 300),
    b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + b"\xff" * 8,
]
"""The first bytes of EXIF, less its "Exif" prefix: orientations of every type and count, offsets to nowhere."""


def _png_segment(exif: bytes) -> bytes:
    return struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))


def _jpeg_segment(exif: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif


def _riff_segment(exif: bytes) -> bytes:
    return b"EXIF" + struct.pack("<I", len(exif)) + exif + bytes(len(exif) % 2)


_PACKED_EXIF = {b"\x89PNG": _png_segment, b"\xff\xd8": _jpeg_segment, b"RIFF": _riff_segment}
