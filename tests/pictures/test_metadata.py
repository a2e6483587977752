"""Metadata never fail a picture and cost no memory, however broken or large they are; what the pixels need is kept."""

from __future__ import annotations

import re
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from captioning.pictures.decoder import decode_image, open_image
from tests.peak_memory import peak_memory
from tests.sample_pictures import (
    RARE_SAMPLES,
    RED,
    SAMPLES,
    WHITE,
    encoded,
    exif,
    png,
    png_chunk,
    quadrants,
)

UPRIGHT = np.asarray(quadrants())
ROWS = np.asarray(quadrants(), dtype=int)
BOMB = zlib.compress(bytes(60_000_000), 9)
BODIES = {
    "empty": b"",
    "one byte": b"\xff",
    "zeros": bytes(40),
    "text": b"key\0\0" + b"never ends",
    "a megabyte": bytes(range(256)) * 4096,
    "a bomb": b"key\0\0" + BOMB,
    "an international bomb": b"key\0\1\0\0\0" + BOMB,
    "a profile that is a bomb": b"ICC\0\0" + BOMB,
    "hostile EXIF": b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x05\0\xff\xff\xff\xff\xf0\xff\xff\xff" * 100,
}


def assert_same(data: bytes, expected: Any = UPRIGHT) -> None:
    assert np.array_equal(np.asarray(decode_image(data)), np.asarray(expected))


# ---- PNG

ANCILLARY = (
    *("tEXt", "zTXt", "iTXt", "iCCP", "gAMA", "pHYs", "eXIf", "cHRM", "sBIT", "bKGD", "hIST", "sPLT", "tIME", "sRGB"),
    *("cICP", "mDCV", "cLLI", "acTL", "fcTL", "fdAT", "oFFs", "sCAL", "pCAL", "sTER", "dSIG", "gIFg", "vpAg", "orNT"),
)


def png_with(chunk: bytes) -> bytes:
    data = png(ROWS, bits=8, colour=2)
    pixels = data.index(b"IDAT") - 4
    return data[:pixels] + chunk + data[pixels:-12] + chunk + data[-12:]


@pytest.mark.parametrize("kind", ANCILLARY)
def test_no_ancillary_chunk_fails_a_png(kind: str) -> None:
    for body in BODIES.values():
        chunk = png_chunk(kind.encode(), body)
        assert_same(png_with(chunk))
        assert_same(png_with(chunk[:-4] + b"\1\2\3\4"))


def test_chunks_are_not_kept_in_memory() -> None:
    for kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf"):
        for body in BODIES.values():
            data = png_with(png_chunk(kind, body))
            with peak_memory() as grown:
                open_image(data)
                assert grown() < 8 * 2**20


def test_transparency_and_orientation_are_kept_beside_broken_chunks() -> None:
    broken = [(b"iCCP", b"x"), (b"tEXt", b"Raw profile type exif\0zz"), (b"zTXt", b"Raw profile type exif\0\0zz")]
    stored = np.rot90(ROWS)
    key = (b"tRNS", struct.pack(">3H", *RED))
    for early, late in ([(b"eXIf", exif(6)[6:])], []), ([], [(b"eXIf", exif(6)[6:])]):
        data = png(stored, bits=8, colour=2, extra=[*broken, key, *early], late=[*broken, *late])
        expected = np.where((UPRIGHT == RED).all(axis=2, keepdims=True), 255, UPRIGHT)
        assert_same(data, expected)


@pytest.mark.parametrize(("colour", "body"), [(0, b"\0"), (2, b"\0\0\0"), (3, b""), (6, b"\0" * 6), (4, b"\0\1")])
def test_a_transparency_that_is_none(colour: int, body: bytes) -> None:
    samples = np.full((4, 4, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]), 255)
    palette = [(b"PLTE", bytes(WHITE) * 256)]
    assert_same(png(samples, bits=8, colour=colour, extra=[*palette, (b"tRNS", body)]), np.full((4, 4, 3), 255))


def test_a_transparency_with_a_wrong_checksum_is_left_out() -> None:
    data = png(ROWS, bits=8, colour=2, extra=[(b"tRNS", struct.pack(">3H", *RED))])
    end = data.index(b"tRNS") + 4 + 6
    assert_same(data[:end] + bytes(4) + data[end + 4 :])


def test_orientation_in_a_png_text() -> None:
    stored = Image.fromarray(np.rot90(UPRIGHT))
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=True)
    assert_same(encoded(stored, "PNG", pnginfo=texts))
    block = exif(6)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    assert_same(encoded(stored, "PNG", pnginfo=texts))


def test_checksum_of_the_pixels_does_not_count_and_that_of_the_header_does() -> None:
    data = SAMPLES["png 16"]
    for kind, is_fine in ((b"IDAT", True), (b"IEND", True), (b"IHDR", False)):
        at = data.index(kind)
        end = at + 4 + int.from_bytes(data[at - 4 : at])
        changed = data[:end] + bytes(4) + data[end + 4 :]
        if is_fine:
            assert_same(changed, decode_image(data))
        else:
            with pytest.raises(Exception, match="damaged"):
                decode_image(changed)


# ---- JPEG


def jpeg_segment(code: int, body: bytes) -> bytes:
    return b"".join(
        struct.pack(">BBH", 0xFF, code, 2 + len(part)) + part
        for part in (body[at : at + 65_533] for at in range(0, max(len(body), 1), 65_533))
    )


JPEG_PREFIXES = {
    0xE0: (b"", b"JFXX\0", b"AVI1"),
    0xE1: (b"", b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"),
    0xE2: (b"", b"ICC_PROFILE\0\1\2", b"ICC_PROFILE\0", b"MPF\0", b"FPXR\0"),
    0xED: (b"", b"Photoshop 3.0\x008BIM\x03\xed", b"Photoshop 3.0\x008BIM"),
    0xEE: (b"", b"Adob"),
    **dict.fromkeys((*range(227, 237), 239, 240, 253, 254), (b"",)),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("code", JPEG_PREFIXES, ids=hex)
def test_no_segment_fails_a_jpeg(code: int, body: bytes) -> None:
    for prefix in JPEG_PREFIXES[code]:
        for name in ("jpeg", "progressive", "cmyk"):
            data = SAMPLES[name]
            segment = jpeg_segment(code, prefix + body)
            # Behind the sound EXIF, which is the first.
            tables = data.index(b"\xff\xdb")
            scan = data.index(b"\xff\xda")
            assert_same(data[:tables] + segment + data[tables:], decode_image(data))
            assert_same(data[:scan] + segment + data[scan:], decode_image(data))


@pytest.mark.parametrize(("code", "name", "size"), [(0xE0, b"JFIF\0", 14), (0xEE, b"Adobe", 12)])
@pytest.mark.parametrize("sample", ["jpeg", "progressive", "cmyk"])
def test_a_segment_about_colours_that_is_too_short_is_none(code: int, name: bytes, size: int, sample: str) -> None:
    data = SAMPLES[sample]
    tables = data.index(b"\xff\xdb")
    for length in range(len(name), size):
        segment = jpeg_segment(code, name.ljust(length, b"\0"))
        assert_same(data[:tables] + segment + data[tables:], decode_image(data))


def test_a_broken_exif_does_not_hide_the_orientation_of_xmp() -> None:
    stored = encoded(Image.fromarray(np.rot90(UPRIGHT)), "JPEG", quality=100, subsampling=0)
    xmp = jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6' tiff:Orientation=\"6\"/>")
    for broken in (b"", jpeg_segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")):
        assert decode_image(stored[:2] + broken + xmp + stored[2:]).size == (48, 32)


def test_adobes_marker_counts_wherever_it_stands() -> None:
    data = SAMPLES["cmyk"]
    adobe = re.search(rb"\xff\xee\0\x0eAdobe.{7}", data, re.DOTALL)
    assert adobe is not None
    without = data.replace(adobe[0], b"")
    scan = without.index(b"\xff\xda")
    assert_same(without[:scan] + adobe[0] + without[scan:], decode_image(data))
    # Three components that Adobe's marker calls RGB: red would else be read as a luminance.
    rgb = encoded(Image.merge("RGB", quadrants().split()), "JPEG", quality=100, keep_rgb=True)
    assert b"Adobe" in rgb
    difference = np.asarray(decode_image(rgb), dtype=int) - UPRIGHT
    assert np.abs(difference).max() < 8


# ---- WebP


def riff(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(kind + struct.pack("<I", len(part)) + part + bytes(len(part) % 2) for kind, part in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def riff_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 12
    while at < len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        chunks.append((kind, data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return chunks


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("kind", [b"EXIF", b"XMP ", b"ICCP", b"abcd", b"\0\0\0\1"])
def test_no_chunk_fails_a_webp(kind: bytes, body: bytes) -> None:
    for name in ("webp", "webp alpha", "webp animated", "webp lossless"):
        data = {**SAMPLES, **RARE_SAMPLES}[name]
        chunks = riff_chunks(data)
        assert_same(riff([*chunks, (kind, body)]), decode_image(data))
        if chunks[0][0] == b"VP8X":
            assert_same(riff([*chunks[:1], *[(b"abcd", body), (b"ICCP", body)], *chunks[1:]]), decode_image(data))


# ---- GIF


def blocks(body: bytes, size: int = 255) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("label", [0xFE, 0xFF, 0x01, 0xF9, 0x00, 0x80])
def test_no_extension_fails_a_gif(label: int, body: bytes) -> None:
    body = body[:20_000]
    if label == 0xF9:
        body = body[:3]  # a control extension that is too short
    for name in ("gif", "gif interlaced"):
        data = {**SAMPLES, **RARE_SAMPLES}[name]
        start = 13 + 3 * 2 ** ((data[10] & 7) + 1)
        extension = bytes([0x21, label]) + blocks(body)
        assert_same(data[:start] + extension + data[start:], decode_image(data))
        frame = data.index(b",\0\0\0\0")
        assert_same(data[:frame] + extension + data[frame:], decode_image(data))


# ---- TIFF


def with_tags(data: bytes, tags: dict[int, tuple[int, int, bytes]]) -> bytes:
    """Add tags, as (type, count, value or offset), to the first directory of a little-endian TIFF."""
    at = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, at)[0]
    entries = {
        struct.unpack_from("<H", data, start)[0]: data[start : start + 12]
        for start in range(at + 2, at + 2 + 12 * count, 12)
    }
    entries |= {tag: struct.pack("<HHI4s", tag, *value) for tag, value in tags.items()}
    data += bytes(len(data) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


@pytest.mark.parametrize("name", ["tiff", "tiff lzw", "tiff group4"])
@pytest.mark.parametrize(
    "tag", [254, 269, 270, 282, 296, 301, 305, 306, 318, 330, 333, 700, 33432, 33723, 34377, 34665, 34675, 34853, 65000]
)
def test_no_odd_tag_fails_a_tiff(name: str, tag: int) -> None:
    data = SAMPLES[name]
    sound = np.asarray(decode_image(data))
    for kind in (0, 2, 3, 5, 13, 99):
        for count, value in ((0, bytes(4)), (2**31, b"\x08\0\0\0"), (1000, b"\xf0\xff\xff\xff")):
            assert_same(with_tags(data, {tag: (kind, count, value)}), sound)


# ---- AVIF


@pytest.mark.parametrize("name", ["avif", "avif alpha", "avif 4:4:4"])
def test_no_item_or_box_of_metadata_fails_an_avif(name: str) -> None:
    image = quadrants()
    if name == "avif alpha":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    options: dict[str, Any] = {"speed": 10, "subsampling": "4:4:4" if name == "avif 4:4:4" else "4:2:0"}
    plain = decode_image(encoded(image, "AVIF", **options))
    metadata = Image.Exif()
    metadata[0x0131] = "software"
    block = metadata.tobytes()
    xmp = b"<x tiff:Orientation='9'/>" * 10
    data = encoded(image, "AVIF", exif=block, xmp=xmp, icc_profile=b"i" * 200, **options)
    assert_same(data, plain)
    tiff_block = block.removeprefix(b"Exif\0\0")
    assert data.count(tiff_block) == 1
    for broken in (bytes(len(tiff_block)), b"\xff" * len(tiff_block), tiff_block[:4] + b"\xff" * (len(tiff_block) - 4)):
        assert_same(data.replace(tiff_block, broken), plain)
    for box in (b"\0\0\0\x08free", b"\0\0\0\x18uuid" + bytes(16)):
        assert_same(data + box, plain)


# ---- BMP


def test_a_profile_behind_a_bmp() -> None:
    rows = np.asarray(quadrants())[::-1, :, ::-1].tobytes()
    for profile in (b"", b"x" * 100_000):
        header = struct.pack("<IiiHHIIiiII", 124, 48, 32, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
        colours = struct.pack("<4I4s36x12xIIII", 0, 0, 0, 0, b"DEBM", 4, 138 - 14 + len(rows), len(profile) + 500, 0)
        data = b"BM" + struct.pack("<IHHI", 138 + len(rows), 0, 0, 138) + header + colours + rows + profile
        assert len(header + colours) == 124
        assert_same(data)


def _vp8x(flags: int, width: int = 48, height: int = 32) -> tuple[bytes, bytes]:
    return b"VP8X", struct.pack("<I", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def _frame(left: int, top: int, picture: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    places = b"".join(number.to_bytes(3, "little") for number in (left // 2, top // 2, 47, 31, 100))
    return b"ANMF", places + b"\0" + riff([picture])[12:]


ANIM = (b"ANIM", struct.pack("<IH", 0xFF0000FF, 0))


@pytest.mark.parametrize("name", ["webp", "webp lossless"])
def test_flags_of_a_webp_that_disagree_with_what_is_there(name: str) -> None:
    # Told by the kind of chunk, whatever the header says.
    picture = next(chunk for chunk in riff_chunks(SAMPLES[name]) if chunk[0] in (b"VP8 ", b"VP8L"))
    expected = decode_image(riff([picture]))
    for flags in range(0, 64, 2):
        assert_same(riff([_vp8x(flags), picture]), expected)
        assert_same(riff([_vp8x(flags), ANIM, _frame(0, 0, picture)]), expected)
        assert_same(riff([_vp8x(flags), _frame(0, 0, picture)]), expected)
        assert_same(riff([_vp8x(flags), picture, ANIM, _frame(0, 0, picture)]), expected)
    assert_same(riff([picture, _vp8x(0x02)]), expected)


@pytest.mark.parametrize("flags", [0x02, 0x12, 0])
def test_around_a_small_first_frame_of_a_webp_is_white(flags: int) -> None:
    picture = next(chunk for chunk in riff_chunks(SAMPLES["webp lossless"]) if chunk[0] == b"VP8L")
    expected = np.full((60, 80, 3), 255)
    expected[8:40, 10:58] = UPRIGHT
    assert_same(riff([_vp8x(flags, 80, 60), ANIM, _frame(10, 8, picture)]), expected)
