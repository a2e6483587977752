"""What is no picture, damaged, or of a kind that is not read is told which."""

from __future__ import annotations

import numpy as np
import pytest

from captioning.errors import CorruptImage, TooManyPixels, UnsupportedImage
from captioning.pictures.decoder import decode_image, open_image
from tests.pictures.decoded import assert_close, decoded
from tests.sample_pictures import SAMPLES, encoded, png_chunk, quadrants

# The decoder silences Pillow's warnings; pytest's "error" would outrank that filter.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")


@pytest.mark.parametrize(("transfer", "hdr"), [(1, False), (13, False), (14, False), (16, True), (18, True)])
@pytest.mark.parametrize("form", ["PNG", "AVIF"])
def test_hdr_is_refused_by_its_transfer_function(form: str, transfer: int, hdr: bool) -> None:
    if form == "PNG":
        data = encoded(quadrants(), "PNG")
        data = data[:33] + png_chunk(b"cICP", bytes([9, transfer, 0, 1])) + data[33:]
    else:
        data = encoded(quadrants(), "AVIF", quality=100, subsampling="4:4:4", speed=10)
        at = data.index(b"nclx") + 6
        data = data[:at] + transfer.to_bytes(2) + data[at + 2 :]
    if hdr:
        with pytest.raises(UnsupportedImage, match="HDR"):
            decoded(data)
    else:
        assert_close(decoded(data), quadrants(), 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"<!doctype html><title>Not found</title>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n%",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"8BPS\0\x01" + b"\0" * 40,
        b"SIMPLE  =                    T" + b" " * 80,
        b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 40,
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40,
        b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + b"\0" * 40,
        b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 40,
        encoded(quadrants(), "ICO"),
        encoded(quadrants(), "JPEG2000"),
        encoded(quadrants(), "PPM"),
        encoded(quadrants(), "TGA"),
        encoded(quadrants(), "TIFF", compression="zstd"),
    ],
)
def test_what_is_not_on_the_list_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedImage) as caught:
        decode_image(data)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    ("code", "bits", "components"),
    [
        *((0xC3, 8, 3), (0xC5, 8, 3), (0xC7, 8, 3), (0xCB, 8, 3), (0xF7, 8, 3), (0xC1, 12, 3), (0xC3, 16, 1)),
        *((0xC0, 8, 2), (0xC2, 8, 5)),
    ],
)
def test_jpegs_of_rare_kinds_are_not_called_damaged(code: int, bits: int, components: int) -> None:
    data = bytearray(encoded(quadrants(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 1], data[frame + 4], data[frame + 9] = code, bits, components
    with pytest.raises(UnsupportedImage, match="JPEG images of this kind"):
        decode_image(bytes(data))


def test_a_jpeg_whose_height_follows_its_scan_is_not_called_damaged() -> None:
    data = bytearray(encoded(quadrants(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    height, data[frame + 5 : frame + 7] = data[frame + 5 : frame + 7], b"\0\0"
    with pytest.raises(UnsupportedImage, match="JPEG images of this kind"):
        decode_image(bytes(data[:-2]) + b"\xff\xdc\0\4" + bytes(height) + b"\xff\xd9")


def test_a_png_from_an_iphone_s_app_is_not_called_damaged() -> None:
    data = encoded(quadrants(), "PNG")
    with pytest.raises(UnsupportedImage, match="CgBI"):
        decode_image(data[:8] + png_chunk(b"CgBI", b"\x50\0\x20\2") + data[8:])


@pytest.mark.parametrize(
    "signature", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"RIFF\0\0\0\0WEBPVP8 "]
)
def test_a_signature_alone_is_corrupt(signature: bytes) -> None:
    with pytest.raises(CorruptImage):
        decode_image(signature)


def outcome(data: bytes) -> str:
    """Decode in two parts; let nothing but a picture or this package's own refusals come out."""
    try:
        picture = open_image(data, max_pixels=1_000_000, target_size=32).decode()
        width, height = picture.size
        assert picture.crop((0, 0, width, height)).mode == "RGB"
        assert picture.crop((0, 0, 1, 1)).size == (1, 1)
    except (UnsupportedImage, CorruptImage, TooManyPixels) as refusal:
        return type(refusal).__name__
    return "picture"


@pytest.mark.parametrize("name", SAMPLES)
def test_cut_files_are_corrupt(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = SAMPLES[name]
    assert outcome(data) == "picture"
    cuts = sorted({*range(16, 64), *np.linspace(64, len(data) - 1, 60).astype(int).tolist()})
    outcomes = {cut: outcome(data[:cut]) for cut in cuts if cut < len(data)}
    assert set(outcomes.values()) <= {"CorruptImage", "picture"}
    # Cut in half, nothing but the first of several frames can be whole.
    if name not in ("mpo", "apng", "gif", "webp animated"):
        assert outcomes[min(outcomes, key=lambda cut: abs(cut - len(data) // 2))] == "CorruptImage"
