"""Small sound pictures of every format, kind and compression that is accepted, and what they are built from."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

RED, GREEN, BLUE, WHITE, GREY = (220, 30, 20), (20, 180, 40), (30, 40, 200), (255, 255, 255), (128, 128, 128)


def quadrants(width: int = 48, height: int = 32) -> Image.Image:
    """Red, green; blue, grey: no two orientations look alike."""
    image = Image.new("RGB", (width, height), RED)
    draw = ImageDraw.Draw(image)
    draw.rectangle((width // 2, 0, width, height // 2 - 1), GREEN)
    draw.rectangle((0, height // 2, width // 2 - 1, height), BLUE)
    draw.rectangle((width // 2, height // 2, width, height), GREY)
    return image


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(
    samples: NDArray[Any],
    *,
    bits: int,
    colour: int,
    extra: list[tuple[bytes, bytes]] | None = None,
    late: list[tuple[bytes, bytes]] | None = None,
    adam7: bool = False,
) -> bytes:
    """Encode [height, width, channels] samples; ``extra`` chunks go before the data, ``late`` ones behind."""
    height, width = samples.shape[:2]
    passes = [samples]
    if adam7:
        starts = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        passes = [samples[y::down, x::across] for x, y, across, down in starts]
    lines = [png_line(line.ravel(), bits) for part in passes if part.size for line in part]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(adam7))
    data = zlib.compress(b"".join(b"\0" + line for line in lines))
    chunks = [(b"IHDR", header), *(extra or []), (b"IDAT", data), *(late or []), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_line(samples: NDArray[Any], bits: int) -> bytes:
    if bits >= 8:
        return samples.astype(">u2" if bits == 16 else "u1").tobytes()
    digits = "".join(f"{value:0{bits}b}" for value in samples.tolist())
    size = -(-len(digits) // 8)
    return int(digits.ljust(8 * size, "0"), 2).to_bytes(size)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tiff(width: int, height: int, strip: bytes, tags: dict[int, Any], order: str = "<") -> bytes:
    """Encode one strip with baseline tags; values are lists of LONGs, or SHORTs where all are below 65,536."""
    fields: dict[int, list[int]] = {256: [width], 257: [height], 259: [1], 278: [height], 279: [len(strip)]}
    fields |= {tag: value if isinstance(value, list) else [value] for tag, value in tags.items()}
    offset = 8 + len(strip) + len(strip) % 2
    ifd_size = 2 + 12 * (len(fields) + (273 not in fields)) + 4
    fields.setdefault(273, [8])
    entries, outside = b"", b""
    for tag in sorted(fields):
        values = fields[tag]
        kind, code = (3, "H") if max(values) < 65_536 else (4, "I")
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(packed) > 4:
            outside, packed = outside + packed, struct.pack(order + "I", offset + ifd_size + len(outside))
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    body = strip + b"\0" * (len(strip) % 2)
    count = struct.pack(order + "H", len(fields))
    return magic + struct.pack(order + "I", offset) + body + count + entries + b"\0" * 4 + outside


def bmp(
    width: int, height: int, bits: int, compression: int, rows: bytes, *, after: bytes = b"", size: int = 40
) -> bytes:
    """Encode BMP rows behind a header of ``size`` bytes; ``after`` is what it holds beyond 40, and the palette."""
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, len(rows), 0, 0, 0, 0) + after
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows


def palette(colours: int) -> bytes:
    """Return a BMP's colours, of which the blue is the index."""
    return b"".join(bytes((index, 255 - index, index // 2, 0)) for index in range(colours))


RLE8, RLE4 = 1, 2


def rle_bmp(width: int, height: int, codes: bytes, compression: int = RLE8) -> bytes:
    """Encode run-length codes with that palette."""
    bits = 8 if compression == RLE8 else 4
    return bmp(width, height, bits, compression, codes, after=palette(2**bits))


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


SAMPLES: dict[str, bytes] = {
    "jpeg": encoded(quadrants(), "JPEG", exif=exif(6)),
    "progressive": encoded(quadrants(), "JPEG", progressive=True),
    "cmyk": encoded(quadrants().convert("CMYK"), "JPEG"),
    "mpo": encoded(quadrants(), "MPO", save_all=True, append_images=[quadrants()]),
    "png": encoded(quadrants(), "PNG", exif=exif(6)),
    "png palette": encoded(quadrants().quantize(4), "PNG", transparency=b"\x80"),
    "png 16": png(np.asarray(quadrants().convert("L"), dtype=int)[..., None] * 257, bits=16, colour=0),
    "apng": encoded(quadrants(), "PNG", save_all=True, append_images=[quadrants().rotate(180)]),
    "gif": encoded(quadrants(), "GIF", save_all=True, append_images=[quadrants().rotate(180)]),
    "bmp": encoded(quadrants(), "BMP"),
    "bmp palette": encoded(quadrants().quantize(4), "BMP"),
    "webp": encoded(quadrants(), "WEBP", exif=exif(6)),
    "webp lossless": encoded(quadrants().convert("RGBA"), "WEBP", lossless=True),
    "webp animated": encoded(quadrants(), "WEBP", save_all=True, append_images=[quadrants().rotate(180)]),
    "avif": encoded(quadrants(), "AVIF", exif=exif(6)),
    "tiff": encoded(quadrants(), "TIFF"),
    "tiff lzw": encoded(quadrants(), "TIFF", compression="tiff_lzw"),
    "tiff deflate": encoded(quadrants(), "TIFF", compression="tiff_adobe_deflate"),
    "tiff jpeg": encoded(quadrants(), "TIFF", compression="jpeg"),
    "tiff group4": encoded(quadrants().convert("1"), "TIFF", compression="group4"),
    "tiff float": tiff(4, 4, np.arange(16, dtype="<f4").tobytes(), {258: 32, 262: 1, 339: 3}),
    "tiff lab": tiff(4, 4, bytes(range(48)), {258: [8, 8, 8], 262: 8, 277: 3}),
}


def _with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def _rare_png(bits: int, colour: int, adam7: bool) -> bytes:
    """Encode noise in one of PNG's combinations of depth and colour."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    samples = np.random.default_rng(bits).integers(0, 2**bits, (11, 13, channels))
    palette = [(b"PLTE", bytes(range(3 * 2**bits)) if bits < 8 else bytes(768))] if colour == 3 else []
    return png(samples, bits=bits, colour=colour, extra=palette, adam7=adam7)


def _tiled_tiff() -> bytes:
    """Encode a picture of 20 x 20 in four tiles of 16 x 16, each deflated."""
    tile = zlib.compress(bytes(range(256)))
    places = [8 + number * len(tile) for number in range(4)]
    tags = {258: 8, 262: 1, 259: 8, 322: 16, 323: 16, 324: places, 325: [len(tile)] * 4}
    return tiff(20, 20, tile * 4, tags)


_SECOND = quadrants().rotate(180)
_ALPHA = _with_alpha(quadrants())
_GREY = quadrants().convert("L")

RARE_SAMPLES: dict[str, bytes] = {
    **{
        f"png of {bits} bits, colour type {colour}{', interlaced' * adam7}": _rare_png(bits, colour, adam7)
        for colour, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 4, 8), 4: (8, 16), 6: (8, 16)}.items()
        for bits in depths
        for adam7 in (False, True)
    },
    "png with a colour key": png(np.zeros((4, 4, 3)), bits=8, colour=2, extra=[(b"tRNS", bytes(6))]),
    "png with a colour key of 16 bits": png(
        np.eye(4)[..., None].repeat(3, 2), bits=16, colour=2, extra=[(b"tRNS", bytes(6))]
    ),
    "jpeg grey": encoded(_GREY, "JPEG"),
    "jpeg 4:4:4, restart markers": encoded(quadrants(), "JPEG", subsampling=0, restart_marker_rows=1),
    "jpeg cmyk, progressive": encoded(quadrants().convert("CMYK"), "JPEG", progressive=True),
    "jpeg with comment, profile and xmp": encoded(
        quadrants(), "JPEG", comment=b"a", icc_profile=bytes(300), xmp=b'<x tiff:Orientation="6"/>'
    ),
    "gif interlaced": encoded(quadrants().quantize(8), "GIF", interlace=1, transparency=0),
    "gif disposing": encoded(quadrants(), "GIF", save_all=True, append_images=[_SECOND], disposal=2),
    "bmp 1 bit": encoded(quadrants().convert("1"), "BMP"),
    "bmp alpha": encoded(_ALPHA, "BMP"),
    "bmp of 16 bits": bmp(9, 7, 16, 0, bytes(range(140))),
    "bmp bit fields": bmp(9, 7, 16, 3, bytes(range(140)), after=struct.pack("<4I", 0xF00, 0xF0, 0xF, 0xF000), size=56),
    "bmp of 10 bits": bmp(9, 7, 32, 3, bytes(252), after=struct.pack("<3I", 0x3FF00000, 0xFFC00, 0x3FF)),
    "bmp rle8": rle_bmp(48, 32, b"\x20\x05\0\x03\1\2\3\0\0\0" * 32 + b"\0\1"),
    "bmp rle4": rle_bmp(48, 32, b"\x20\x5a\0\2\3\0\0\0" * 32 + b"\0\1", RLE4),
    "webp alpha": encoded(_ALPHA, "WEBP", exif=exif(8), xmp=b"<x/>", icc_profile=bytes(300)),
    "webp lossless, palette": encoded(quadrants().quantize(4), "WEBP", lossless=True),
    "webp animated, lossless": encoded(_ALPHA, "WEBP", lossless=True, save_all=True, append_images=[_SECOND]),
    "avif alpha": encoded(_ALPHA, "AVIF", speed=10),
    "avif 4:4:4": encoded(quadrants(), "AVIF", subsampling="4:4:4", speed=10, exif=exif(3)),
    "avif grey": encoded(_GREY, "AVIF", subsampling="4:0:0", speed=10),
    "avif animated": encoded(quadrants(), "AVIF", speed=10, save_all=True, append_images=[_SECOND]),
    "tiff packbits": encoded(quadrants(), "TIFF", compression="packbits"),
    "tiff group3": encoded(quadrants().convert("1"), "TIFF", compression="group3"),
    "tiff ccitt": encoded(quadrants().convert("1"), "TIFF", compression="tiff_ccitt"),
    "tiff of pages": encoded(quadrants(), "TIFF", save_all=True, append_images=[_SECOND], compression="tiff_lzw"),
    "tiff large": encoded(quadrants(), "TIFF", big_tiff=True, compression="tiff_adobe_deflate"),
    "tiff turned": encoded(quadrants(), "TIFF", compression="tiff_lzw", tiffinfo={274: 6, 278: 5}),
    "tiff alpha": encoded(_ALPHA, "TIFF", compression="tiff_lzw"),
    "tiff palette": encoded(quadrants().quantize(8), "TIFF", compression="tiff_lzw"),
    "tiff cmyk": encoded(quadrants().convert("CMYK"), "TIFF", compression="tiff_adobe_deflate"),
    "tiff of big-endian 16 bits": tiff(4, 4, np.arange(16, dtype=">u2").tobytes(), {258: 16, 262: 1}, ">"),
    "tiff in planes of 16 bits": tiff(
        4, 4, bytes(range(96)), {258: [16] * 3, 262: 2, 277: 3, 284: 2, 278: 4, 273: [8, 40, 72], 279: [32] * 3}
    ),
    "tiff in tiles": _tiled_tiff(),
}

_WIDE = quadrants(1200, 900)
_WIDE_ALPHA = _with_alpha(_WIDE)

LARGE_SAMPLES: dict[str, bytes] = {
    "large jpeg": encoded(_WIDE, "JPEG", progressive=True, subsampling=0, exif=exif(6)),
    "large png": encoded(_WIDE_ALPHA, "PNG", exif=exif(6)),
    "large gif": encoded(_WIDE, "GIF"),
    "large bmp": encoded(_WIDE.convert("1"), "BMP"),
    "large webp": encoded(_WIDE_ALPHA, "WEBP", method=1, quality=30),
    "large webp, lossless": encoded(_WIDE_ALPHA, "WEBP", method=0, quality=0, lossless=True),
    "large avif": encoded(_WIDE_ALPHA, "AVIF", speed=10, subsampling="4:4:4"),
    "large tiff": encoded(_WIDE, "TIFF", compression="tiff_lzw", tiffinfo={274: 6, 278: 900}),
}
"""Files of a few kB that take megabytes to decode."""
