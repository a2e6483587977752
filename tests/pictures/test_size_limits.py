"""A header that claims too much is refused at once, without memory."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest

from captioning.errors import CaptioningError, CorruptImage, TooManyPixels
from captioning.pictures.decoder import MAX_SIDE, decode_image, open_image
from tests.peak_memory import peak_memory
from tests.sample_pictures import encoded, exif, png, png_chunk, quadrants, tiff

# The decoder silences Pillow's warnings; pytest's "error" would outrank that filter.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")


def large_headers(width: int, height: int) -> dict[str, bytes]:
    """Small files whose headers claim a large size."""
    image = quadrants()
    jpeg = bytearray(encoded(image, "JPEG"))
    struct.pack_into(">2H", jpeg, jpeg.index(b"\xff\xc0") + 5, height, width)
    gif = bytearray(encoded(image, "GIF"))
    frame = gif.index(b",\0\0\0\0\x30\0\x20\0")
    struct.pack_into("<2H", gif, 6, width, height)
    gif_frame = bytearray(gif)
    struct.pack_into("<2H", gif_frame, frame + 5, width, height)
    disposing = bytearray(encoded(image, "GIF", save_all=True, append_images=[image.rotate(180)], disposal=2))
    frame = disposing.index(b",\0\0\0\0\x30\0\x20\0")
    struct.pack_into("<2H", disposing, 6, width, height)
    struct.pack_into("<2H", disposing, frame + 5, width, height)
    bmp = bytearray(encoded(image, "BMP"))
    struct.pack_into("<2i", bmp, 18, width, height)
    webp = bytearray(encoded(image.convert("RGBA"), "WEBP", exif=exif(1), lossless=True))
    webp[24:30] = max(width - 1, 0).to_bytes(3, "little") + max(height - 1, 0).to_bytes(3, "little")
    lossless = bytearray(encoded(image, "WEBP", lossless=True))
    lossless[21:25] = (min(width - 1, 16_383) & 0x3FFF | (min(height - 1, 16_383) & 0x3FFF) << 14).to_bytes(4, "little")
    lossy = bytearray(encoded(image, "WEBP"))
    struct.pack_into("<2H", lossy, 26, min(width, 16_383), min(height, 16_383))
    avif = bytearray(encoded(image, "AVIF"))
    struct.pack_into(">2I", avif, avif.index(b"ispe") + 8, width, height)
    return {
        "JPEG": bytes(jpeg),
        "PNG": png(np.zeros((1, 1, 3)), bits=8, colour=2).replace(
            png(np.zeros((1, 1, 3)), bits=8, colour=2)[8:33],
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        ),
        "GIF": bytes(gif),
        "GIF frame": bytes(gif_frame),
        "GIF disposal": bytes(disposing),
        "BMP": bytes(bmp),
        "WEBP": bytes(webp),
        "WEBP lossless": bytes(lossless),
        "WEBP lossy": bytes(lossy),
        "TIFF": tiff(width, height, b"\0" * 64, {258: 8, 262: 1}),
        "TIFF lzw": tiff(width, height, b"\0" * 64, {258: 8, 262: 1, 259: 5}),
        "TIFF tile": tiff(8, 8, b"\0" * 64, {258: 8, 262: 1, 259: 8, 322: width, 323: height, 324: [8], 325: [64]}),
        "AVIF": bytes(avif),
    }


@pytest.mark.parametrize("side", [60_000, 12_000, 7_000])
@pytest.mark.parametrize("name", large_headers(1, 1))
def test_a_large_header_is_refused_at_once_without_memory(name: str, side: int) -> None:
    data = large_headers(side, side)[name]
    begun = time.process_time()
    with peak_memory() as grown:
        with pytest.raises(CaptioningError) as caught:
            open_image(data)
        assert grown() < 8 * 2**20
    assert time.process_time() - begun < 0.5
    # libavif finds by itself that such a header cannot be true.
    assert isinstance(caught.value, (TooManyPixels, CorruptImage) if name == "AVIF" else TooManyPixels)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO"])
def test_the_pixel_limit_is_exact(form: str) -> None:
    data = encoded(quadrants(48, 32), form)
    assert open_image(data, max_pixels=48 * 32).pixels == 48 * 32
    with pytest.raises(TooManyPixels, match="48 x 32"):
        open_image(data, max_pixels=48 * 32 - 1)


def test_sides_are_limited_too() -> None:
    line = np.zeros((1, MAX_SIDE + 1, 1), int)
    with pytest.raises(TooManyPixels, match="side"):
        open_image(png(line, bits=1, colour=0))
    assert decode_image(png(line[:, 1:], bits=1, colour=0)).size == (MAX_SIDE, 1)


@pytest.mark.parametrize("name", [name for name in large_headers(1, 1) if name not in ("WEBP", "WEBP lossless", "GIF")])
@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5), (5, 0)])
def test_a_picture_without_size_is_corrupt(name: str, width: int, height: int) -> None:
    # WebP cannot express it, and a GIF's frame widens its canvas.
    with pytest.raises(CorruptImage):
        decode_image(large_headers(width, height)[name])


def test_a_progressive_jpeg_of_too_many_scans() -> None:
    data = encoded(quadrants(), "JPEG", progressive=True)
    assert decode_image(data).size == (48, 32)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    assert decode_image(data[:-2] + last_scan * 20 + data[-2:]).size == (48, 32)
    with pytest.raises(CorruptImage, match="scans"):
        open_image(data[:-2] + last_scan * 100 + data[-2:])
