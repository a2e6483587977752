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
from tests.sample_pictures import RARE_SAMPLES, SAMPLES, encoded, exif

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
    """Return a JPEG in YCbCr whose components have these ids, with JFIF's marker or Adobe's or both or none."""
    data = bytearray(encoded(_NOISY, "JPEG", quality=95, subsampling=0))
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    data[frame + 10 : frame + 19 : 3] = ids
    data[scan + 5 : scan + 11 : 2] = ids
    adobe = b"" if transform is None else b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
    start = 2 if jfif else 4 + struct.unpack_from(">H", data, 4)[0]
    return bytes(data[:2]) + adobe + bytes(data[start:])


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
            (b"\1\2\3", b"RGB", b"\0\1\2", b"rgb"), (None, 0, 1, 2), (False, True)
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
