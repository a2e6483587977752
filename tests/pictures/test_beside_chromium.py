"""What Chromium shows of the same files, on a white page: it has readers of its own, though some codecs are the same.

TIFF, which it does not read, has tests of its own.
"""

from __future__ import annotations

import base64
import itertools
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from captioning.pictures.decoder import decode_image
from captioning.pictures.formats import format_of
from tests.conftest import required_program
from tests.sample_pictures import RARE_SAMPLES, SAMPLES, encoded, exif, png

_PIXELS = """async ([type, data]) => {
    const image = new Image();
    image.src = `data:${type};base64,${data}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    return [canvas.height, canvas.width, Array.from(pixels, (sample) => String.fromCharCode(sample)).join("")];
}"""
_NOISY = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)).resize(
    (37, 21), Image.Resampling.BICUBIC
)


def with_markers(ids: bytes, transform: int | None, *, jfif: bool) -> bytes:
    """Return a JPEG in YCbCr or CMYK whose components have these ids, with JFIF's marker, Adobe's, both or none."""
    image = _NOISY if len(ids) == 3 else Image.merge("CMYK", [*_NOISY.split(), _NOISY.convert("L")])
    data = bytearray(encoded(image, "JPEG", quality=95, subsampling=0))
    tables, frame, scan = (data.index(marker) for marker in (b"\xff\xdb", b"\xff\xc0", b"\xff\xda"))
    data[frame + 10 : frame + 10 + 3 * len(ids) : 3] = ids
    data[scan + 5 : scan + 5 + 2 * len(ids) : 2] = ids
    adobe = b"" if transform is None else b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
    return b"\xff\xd8" + b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0" * jfif + adobe + bytes(data[tables:])


def gif(
    frame: tuple[int, int, int, int],
    *,
    clear: int | None = None,
    disposal: int = 0,
    colours: str = "global",
    interlaced: bool = False,
) -> bytes:
    """Encode one frame, given as (left, top, width, height), of noise in 8 colours on a screen of 20 x 16."""
    rng = np.random.default_rng(0)
    tables = {name: rng.integers(0, 256, 24, np.uint8).tobytes() for name in ("global", "local") if name in colours}
    rows = rng.integers(0, 8, frame[:1:-1])
    if interlaced:
        rows = np.concatenate([rows[0::8], rows[4::8], rows[2::4], rows[1::2]])
    # Codes of 4 bits, the table cleared before these grow.
    codes = [code for at in range(0, rows.size, 6) for code in (8, *rows.ravel()[at : at + 6])] + [9]
    codes += [9] * (len(codes) % 2)
    data = bytes(low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True))
    blocks = b"".join(bytes([len(part)]) + part for part in (data[at : at + 255] for at in range(0, len(data), 255)))
    screen = struct.pack("<2H3B", 20, 16, 0xF2 if "global" in tables else 0x70, 2, 0) + tables.get("global", b"")
    control = b"!\xf9\4" + struct.pack("<BHBB", disposal << 2 | (clear is not None), 9, clear or 0, 0)
    flags = (0x82 if "local" in tables else 0) | 0x40 * interlaced
    picture = b"," + struct.pack("<4HB", *frame, flags) + tables.get("local", b"") + b"\3" + blocks + b"\0"
    return b"GIF89a" + screen + control + picture + b";"


def keyed_png(bits: int, colour: int, adam7: bool) -> bytes:
    """Encode noise whose first colour is clear, told by a key, or one of a palette, which is half clear too."""
    rng = np.random.default_rng(bits)
    samples = rng.integers(0, 2**bits, (11, 13, 3 if colour == 2 else 1))
    if colour == 3:
        table = rng.integers(0, 256, 3 * 2**bits, np.uint8).tobytes()
        extra = [(b"PLTE", table), (b"tRNS", bytes([0, 128, 255, 77])[: 2**bits])]
    else:
        extra = [(b"tRNS", struct.pack(f">{samples.shape[2]}H", *samples[0, 0]))]
    return png(samples, bits=bits, colour=colour, extra=extra, adam7=adam7)


def off_its_corner(webp: bytes) -> bytes:
    """Put the frames of an animation somewhere on a larger canvas."""
    data, at = bytearray(webp), 0
    data[24:30] = (79).to_bytes(3, "little") + (59).to_bytes(3, "little")
    while (at := data.find(b"ANMF", at + 1)) >= 0:
        data[at + 8 : at + 14] = (5).to_bytes(3, "little") + (4).to_bytes(3, "little")
    return bytes(data)


DECIDED_OTHERWISE = {
    # EXIF in WebP and XMP turn a picture here, as in image libraries; not in browsers.
    *("webp", "webp alpha", "jpeg with comment, profile and xmp"),
    # What run-length codes leave out has colour 0, as in Windows; browsers leave it clear.
    *("bmp rle8", "bmp rle4"),
}
BOUNDS = {"avif alpha": 21, "avif animated": 21}
"""Levels of 255. Of these, Chromium takes alpha or colour for limited range, though the AV1 stream says full.
avifdec and ffmpeg take it for full, as libavif does here."""

FILES: dict[str, bytes] = {
    **{
        name: data
        for name, data in {**SAMPLES, **RARE_SAMPLES}.items()
        if not name.startswith("tiff") and name not in DECIDED_OTHERWISE
    },
    **{
        f"jpeg {ids!r}, Adobe {transform}, JFIF {jfif}": with_markers(ids, transform, jfif=jfif)
        for ids, transform, jfif in itertools.product(
            (b"\1\2\3", b"RGB", b"\0\1\2", b"rgb", b"\1\2\3\4", b"CMYK"), (None, 0, 1, 2), (False, True)
        )
    },
    **{
        f"jpeg {sampling}, {'progressive' if progressive else 'baseline'}, {size}": encoded(
            _NOISY.resize(size), "JPEG", quality=95, subsampling=sampling, progressive=progressive
        )
        for sampling, progressive, size in itertools.product(
            ("4:4:4", "4:2:2", "4:2:0", "4:1:1"), (False, True), ((37, 21), (7, 3), (1, 1), (16, 33))
        )
    },
    **{
        f"gif {place}, {colours}, clear {clear}, disposal {disposal}": gif(
            frame, clear=clear, disposal=disposal, colours=colours
        )
        for (place, frame), colours, (clear, disposal) in itertools.product(
            {
                "whole": (0, 0, 20, 16),
                "inside": (5, 4, 11, 9),
                "beyond": (14, 10, 11, 9),
                "larger": (0, 0, 30, 24),
            }.items(),
            ("global", "local", "global and local"),
            ((None, 0), (3, 0), (0, 1), (2, 2), (9, 3)),
        )
    },
    **{
        f"gif interlaced, {frame}": gif(frame, interlaced=True)
        for frame in ((0, 0, 20, 16), (3, 2, 9, 13), (0, 0, 1, 2))
    },
    **{
        f"png of {bits} bits, colour type {colour}, keyed{', interlaced' * adam7}": keyed_png(bits, colour, adam7)
        for colour, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8)}.items()
        for bits in depths
        for adam7 in (False, True)
    },
    **{
        f"{name}, off its corner": off_its_corner({**SAMPLES, **RARE_SAMPLES}[name])
        for name in ("webp animated", "webp animated, lossless")
    },
    **{
        f"{form} turned by {turn}": encoded(_NOISY, form, exif=exif(turn))
        for form, turn in itertools.product(("JPEG", "PNG"), range(10))
    },
    **{
        f"avif {sampling}, {levels}": encoded(_NOISY, "AVIF", quality=95, speed=10, subsampling=sampling, range=levels)
        for sampling, levels in itertools.product(("4:4:4", "4:2:2", "4:2:0", "4:0:0"), ("full", "limited"))
    },
}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    path = required_program("chromium")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--force-color-profile=srgb"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser.new_page()
        browser.close()


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_that_chromium_shows(page: Page, name: str) -> None:
    data = FILES[name]
    row = format_of(data)
    assert row is not None
    height, width, samples = page.evaluate(_PIXELS, [row.media_type, base64.b64encode(data).decode()])
    shown = np.frombuffer(samples.encode("latin-1"), np.uint8).reshape(height, width, 4)[..., :3].astype(int)
    found = np.asarray(decode_image(data), int)
    assert found.shape == shown.shape
    assert abs(found - shown).max() <= BOUNDS.get(name, 1)
