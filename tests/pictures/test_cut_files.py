"""Files that end too early: captioned where nearly all rows of the first picture are there, and refused where not."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioning.errors import CorruptImage
from captioning.pictures.decoder import ROWS_NEEDED, decode_image
from tests.sample_pictures import encoded, png_chunk, tiff

SIZE = 384


def scene() -> Image.Image:
    """Smooth noise, of which every part of the file holds about as much as every other."""
    small = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def tiff_with_its_directory_in_front() -> bytes:
    """Encode RGB as one strip behind the directory, as programs do that write without going back."""
    rows = scene().tobytes()
    data = tiff(SIZE, SIZE, b"", {258: [8, 8, 8], 262: 2, 277: 3, 279: len(rows), 273: 500})
    return data.ljust(500, b"\0") + rows


SCENE = scene()
FRAMES = {"save_all": True, "append_images": [SCENE.rotate(180)]}
STILL: dict[str, bytes] = {
    "jpeg": encoded(SCENE, "JPEG"),
    "jpeg, progressive": encoded(SCENE, "JPEG", progressive=True),
    "jpeg, 4:4:4": encoded(SCENE, "JPEG", subsampling=0, quality=95),
    "jpeg, restart markers": encoded(SCENE, "JPEG", restart_marker_rows=1),
    "jpeg, grey, progressive": encoded(SCENE.convert("L"), "JPEG", progressive=True),
    "jpeg, cmyk": encoded(SCENE.convert("CMYK"), "JPEG"),
    "png": encoded(SCENE, "PNG"),
    "png, alpha": encoded(with_alpha(SCENE), "PNG"),
    "png, palette": encoded(SCENE.quantize(16), "PNG"),
    "gif": encoded(SCENE, "GIF"),
    "gif, interlaced": encoded(SCENE.quantize(16), "GIF", interlace=1),
    "bmp": encoded(SCENE, "BMP"),
    "bmp, palette": encoded(SCENE.quantize(256), "BMP"),
    "webp": encoded(SCENE, "WEBP"),
    "webp, alpha": encoded(with_alpha(SCENE), "WEBP"),
    "webp, lossless": encoded(SCENE, "WEBP", lossless=True),
    "avif": encoded(SCENE, "AVIF", speed=10),
    "tiff": tiff_with_its_directory_in_front(),
}
ANIMATED: dict[str, bytes] = {
    "jpeg, mpo": encoded(SCENE, "MPO", **FRAMES),
    "apng": encoded(SCENE, "PNG", **FRAMES),
    "gif": encoded(SCENE, "GIF", **FRAMES),
    "gif, disposing": encoded(SCENE, "GIF", **FRAMES, disposal=2),
    "webp": encoded(SCENE, "WEBP", **FRAMES),
    "webp, lossless": encoded(SCENE, "WEBP", lossless=True, **FRAMES),
    "avif": encoded(SCENE, "AVIF", speed=10, **FRAMES),
}


def pixels(data: bytes) -> Any:
    return np.asarray(decode_image(data)).astype(int)


def share_that_differs(data: bytes, whole: bytes) -> float:
    """Return the share of pixels that are visibly others than the whole file's."""
    return float((np.abs(pixels(data) - pixels(whole)).max(axis=2) > 8).mean())


@pytest.mark.parametrize("missing", [1, 2, 3, 10])
@pytest.mark.parametrize("name", STILL)
def test_a_few_bytes_that_are_missing_cost_a_few_pixels(name: str, missing: int) -> None:
    data = STILL[name]
    assert share_that_differs(data[:-missing], data) < 0.02


@pytest.mark.parametrize("name", [name for name in STILL if "jpeg" in name])
def test_an_end_marker_costs_nothing(name: str) -> None:
    data = STILL[name]
    assert data.endswith(b"\xff\xd9")
    for end in (b"", b"\xff", bytes(512), bytes(1), b"\xff\xd9" + bytes(512), b"\xff\xd9junk\xff\xda\xff\xd8"):
        assert np.array_equal(pixels(data[:-2] + end), pixels(data))


@pytest.mark.parametrize("name", ["png", "png, alpha", "png, palette"])
def test_a_png_without_its_end_or_with_more_behind_it(name: str) -> None:
    data = STILL[name]
    iend = png_chunk(b"IEND", b"")
    assert data.endswith(iend)
    pixel_end = len(data) - len(iend)
    for end in (b"", iend[:5], iend + b"junk" * 100, iend + data, b"junk that is no chunk"):
        assert np.array_equal(pixels(data[:pixel_end] + end), pixels(data))


@pytest.mark.parametrize("name", STILL)
def test_what_costs_many_rows_is_corrupt(name: str) -> None:
    data = STILL[name]
    for kept in (0.3, 0.5, 0.75):
        with pytest.raises(CorruptImage):
            decode_image(data[: int(kept * len(data))])


@pytest.mark.parametrize("name", [name for name in STILL if name[:3] not in ("bmp", "tif")])
def test_zeros_are_no_picture(name: str) -> None:
    # A download whose room was made in advance.
    data = STILL[name]
    half = data[: len(data) // 2]
    fills = (b"\0", b"\xff") if "jpeg" in name else (b"\0",)
    for size in (max(1024, len(data) - len(half)), 10 * len(data)):
        for fill in fills:
            with pytest.raises(CorruptImage):
                decode_image(half + fill * size)


@pytest.mark.parametrize("name", [name for name in STILL if "jpeg" in name])
def test_an_end_marker_makes_no_half_a_picture_whole(name: str) -> None:
    data = STILL[name]
    for kept in (0.1, 0.3, 0.5, 0.75):
        cut = data[: int(kept * len(data))] + b"\xff\xd9"
        if "progressive" in name and kept > 0.1:  # the first scan has come whole: all of it is there, less sharp
            assert np.abs(pixels(cut) - pixels(data)).mean() < 32
        else:
            with pytest.raises(CorruptImage):
                decode_image(cut)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
def test_a_flat_end_is_a_picture_like_any_other(options: dict[str, Any]) -> None:
    flat = SCENE.copy()
    flat.paste("white", (0, flat.height // 2, flat.width, flat.height))
    data = encoded(flat, "JPEG", **options)
    with Image.open(io.BytesIO(data)) as plain:
        assert np.array_equal(pixels(data), np.asarray(plain.convert("RGB")))


def test_a_progressive_jpeg_without_its_last_scans() -> None:
    data = STILL["jpeg, progressive"]
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for scan in scans[2:]:
        with pytest.raises(CorruptImage):
            decode_image(data[:scan])


@pytest.mark.parametrize("name", ANIMATED)
def test_an_animation_that_is_cut_in_a_later_frame(name: str) -> None:
    data = ANIMATED[name]
    for missing in (1, 10, len(data) // 20, len(data) // 4):
        assert np.array_equal(pixels(data[:-missing]), pixels(data))


@pytest.mark.parametrize("name", ANIMATED)
def test_an_animation_that_is_cut_in_its_first_frame(name: str) -> None:
    data = ANIMATED[name]
    with pytest.raises(CorruptImage):
        decode_image(data[: len(data) // 5])


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "bmp", "webp"])
def test_the_rule_is_the_share_of_rows(name: str) -> None:
    """Whatever is accepted has that many rows of the whole picture's; what has clearly fewer is refused."""
    data = STILL[name]
    whole = pixels(data)
    accepted = []
    for kept in np.linspace(0.8, 1, 21):
        cut = data[: int(kept * len(data))]
        try:
            found = pixels(cut)
        except CorruptImage:
            continue
        rows = (np.abs(found - whole).max(axis=(1, 2)) <= 8).mean()
        assert rows >= ROWS_NEEDED - 0.02
        accepted.append(kept)
    assert 0.86 < min(accepted) < 0.97


def test_damage_near_the_end_is_judged_alike() -> None:
    data = bytearray(STILL["png"])
    data[-300:-200] = bytes(100)
    assert share_that_differs(bytes(data), STILL["png"]) < 0.02
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    with pytest.raises(CorruptImage):
        decode_image(bytes(data))
