"""How much memory a picture takes to decode, told from its header and its markers.

Pillow stores 1, 2 or 4 bytes a pixel. Some formats' decoders hold several times that beside it while they
work, and a JPEG's reduced scale does not spare a progressive one its coefficients. The numbers here bound
what benchmarks/decoder_memory.py measures, so that a budget in bytes holds.
"""

from __future__ import annotations

import io
import math

from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    ROWSPERSTRIP,
    SAMPLESPERPIXEL,
    TILELENGTH,
    TILEWIDTH,
    TiffImageFile,
)

# Pillow stores every other mode in 4 bytes a pixel.
_STORED_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
# WebP: the canvas, the one before and a copy as bytes; 13 measured. AVIF: a copy as bytes, the RGB it was
# made from, planes and film grain; 8 measured for 8 bits with alpha, and planes of 12 bits take double.
_CODEC_BYTES = {"WEBP": 13, "AVIF": 20}

# Picture, mask, white ground, blend and result of the part in conversion, 4 bytes a pixel each.
_PART_BYTES = 20
_PART_PIXELS = 2**18
# Tables of the codecs, buffers of rows, the model's input.
_FIXED_BYTES = 4 * 2**20


def stored_bytes(image: ImageFile) -> int:
    """Return the size of the decoded pixels, in bytes; of a JPEG, at the scale that was asked for."""
    return image.width * image.height * _STORED_BYTES.get(image.mode, 4)


def reading_bytes(image: ImageFile, target_size: int | None) -> int:
    """Bound what turning decoded pixels into the model's input takes, in parts of up to 2**18 pixels."""
    # Resizing goes through a picture with one side of the target's, the other its own.
    resized = 0 if target_size is None else 4 * target_size * (max(image.size) + 4 * target_size)
    return resized + _PART_BYTES * min(image.width * image.height, _PART_PIXELS) + _FIXED_BYTES


def codec_bytes(image: ImageFile) -> int:
    """Bound what the format's decoder allocates beside the stored pixels. Ask before ``image.draft``."""
    data = image.fp.getvalue() if isinstance(image.fp, io.BytesIO) else b""
    pixels = image.width * image.height
    if isinstance(image, JpegImageFile):
        return _jpeg_coefficient_bytes(image, data)
    if isinstance(image, TiffImageFile):
        width, height = tiff_piece_size(image)
        samples = image.tag_v2.get(SAMPLESPERPIXEL, 1)
        bits = max(image.tag_v2.get(BITSPERSAMPLE, (1,)))
        # libtiff unpacks YCbCr to 4 bytes a pixel, and keeps that while Pillow copies the picture upright.
        turned = stored_bytes(image) if image.tag_v2.get(Base.Orientation, 1) != 1 else 0
        return int(width * height * max(4, samples * math.ceil(bits / 8))) + turned
    codec = _CODEC_BYTES.get(image.format or "")
    # Both keep copies of the file, Pillow's and the library's.
    return 0 if codec is None else pixels * codec + 2 * len(data)


def tiff_piece_size(image: TiffImageFile) -> tuple[int, int]:
    """Return (width, height) in pixels of the strip or tile that libtiff unpacks at once."""
    tags = image.tag_v2
    if TILEWIDTH in tags or TILELENGTH in tags:
        return int(tags[TILEWIDTH]), int(tags[TILELENGTH])
    return image.width, min(image.height, int(tags.get(ROWSPERSTRIP, image.height)))


def _jpeg_coefficient_bytes(image: JpegImageFile, data: bytes) -> int:
    """Return the size of what libjpeg keeps of a JPEG in several scans: all coefficients, 2 bytes each."""
    assert image.fp is not None
    first_scan = image.fp.tell()
    components_in_scan = data[data.rfind(b"\xff\xda", 0, first_scan) + 4]
    if not image.info.get("progressive") and components_in_scan == image.layers:
        return 0
    across = 8 * max(layer[1] for layer in image.layer)
    down = 8 * max(layer[2] for layer in image.layer)
    # Blocks of 8 x 8 samples, padded to whole units of the coarsest component.
    units = math.ceil(image.width / across) * math.ceil(image.height / down)
    return 2 * 64 * units * sum(layer[1] * layer[2] for layer in image.layer)
