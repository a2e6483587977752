"""Decoded pixels, in whatever mode the file has them -> upright RGB, part by part.

Pixels stay in the file's own mode (a palette picture takes 1 byte a pixel, not 4) and become RGB part by
part, so a preprocessor that reads strips never needs a second copy of a large picture. The result does not
depend on how the parts are cut.

- What an AVIF's clean aperture leaves out is not shown.
- Orientation is EXIF's, or AVIF's own rotation and mirror boxes, or, without either, XMP's.
- Transparency is laid over white. 16-bit samples keep their high byte, as Pillow does for 16-bit colour.
  32-bit and floating-point grey (TIFF only) has no agreed white, so its range is stretched to black-white.
- Samples are taken for sRGB whatever profile or primaries a file names, as transformers' processor takes them: what
  that costs stands in docs/tried.md. CMYK is converted without a profile.

Sources: EXIF 2.32, tag 0x0112; TIFF 6.0; the PNG specification's tRNS chunk; Pillow 13's plugins.
"""

from __future__ import annotations

import io
import math
import zlib
from contextlib import suppress

from PIL import Image, ImageChops
from PIL.AvifImagePlugin import AvifImageFile
from PIL.ExifTags import Base
from PIL.GifImagePlugin import GifImageFile
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT, TiffImageFile

from captioning.errors import UnsupportedImage
from captioning.pictures.pillow_errors import PILLOW_ERRORS, translated_errors
from captioning.pictures.scan.avif import clean_aperture

Box = tuple[int, int, int, int]

# Orientation -> how the stored picture becomes upright, and which of its axes are mirrored by that.
_ORIENTATIONS: dict[object, tuple[Transpose, bool, bool]] = {
    2: (Transpose.FLIP_LEFT_RIGHT, True, False),
    3: (Transpose.ROTATE_180, True, True),
    4: (Transpose.FLIP_TOP_BOTTOM, False, True),
    5: (Transpose.TRANSPOSE, False, False),
    6: (Transpose.ROTATE_270, False, True),
    7: (Transpose.TRANSVERSE, True, True),
    8: (Transpose.ROTATE_90, True, False),
}
_MANY_ROWS = 256
_SWAPPED_AXES = (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)

# PNG's grey below 16 bits, by Pillow's raw mode -> the factor that makes its white 255.
_GREY_SCALES: dict[object, int] = {"L;2": 85, "L;4": 17}


class DecodedImage:
    """A picture in memory, of which any part can be had as upright RGB; ``size`` is (width, height).

    Reading parts from several threads at once is safe.
    """

    def __init__(self, image: ImageFile, *, ground: int | None = None) -> None:
        """Decode an image; with a ``ground``, a sample's value, over that and as far as it goes."""
        frame = image.tile[0].extents if isinstance(image, GifImageFile) and image.tile else None
        aperture = _aperture(image)
        transparency = _transparency(image)
        other_than_key = _low_bytes_other_than_key(image, ground)
        _load(image, ground)
        if other_than_key is not None:
            high_bytes = [sample >> 8 for sample in image.info.pop("transparency")]
            image.putalpha(ImageChops.lighter(other_than_key, _other_than(image, high_bytes)))
        elif transparency is not None:
            image.info["transparency"] = transparency
        self._image = image
        self._transposition = _ORIENTATIONS.get(_orientation(image))
        swapped = self._transposition is not None and self._transposition[0] in _SWAPPED_AXES
        self._shown: Box = aperture or (0, 0, *image.size)
        stored = self._shown[2] - self._shown[0], self._shown[3] - self._shown[1]
        self.size: tuple[int, int] = stored[::-1] if swapped else stored
        # What a GIF's first frame leaves uncovered is transparent, though Pillow fills it with colour 0.
        self._frame = frame if frame != (0, 0, *image.size) else None
        self._grey_table = _grey_table(image) if image.mode.startswith("I;16") else None
        self._grey_range = _grey_range(image) if image.mode in ("I", "F") else None

    def row_checksums(self) -> list[int]:
        """Return checksums of the rows as they are stored, of some rows together where there are many."""
        width, height = self._image.size
        rows = max(1, height // _MANY_ROWS)
        bands = ((0, top, width, min(top + rows, height)) for top in range(0, height, rows))
        return [zlib.crc32(self._image.crop(band).tobytes()) for band in bands]

    def ends_flat(self, share: float) -> bool:
        """Tell whether all stored rows below this share of the height are of one colour."""
        width, height = self._image.size
        end = self._image.crop((0, min(int(share * height), height - 1), width, height))
        return all(band.getextrema()[0] == band.getextrema()[1] for band in end.split())

    def to_rgb(self) -> Image.Image:
        """Return the whole picture, upright, in mode RGB."""
        return self.crop((0, 0, *self.size))

    def crop(self, box: Box) -> Image.Image:
        """Return the part inside ``box`` (left, top, right, bottom of the upright picture) in mode RGB.

        Raises CorruptImage where the pixels cannot be converted.
        """
        with translated_errors():
            if self._transposition is None:
                return self._rgb(box)
            method, mirrored_x, mirrored_y = self._transposition
            left, top, right, bottom = box
            if method in _SWAPPED_AXES:
                left, top, right, bottom = top, left, bottom, right
            width, height = self.size[::-1] if method in _SWAPPED_AXES else self.size
            if mirrored_x:
                left, right = width - right, width - left
            if mirrored_y:
                top, bottom = height - bottom, height - top
            return self._rgb((left, top, right, bottom)).transpose(method)

    def _rgb(self, box: Box) -> Image.Image:
        """Return a part of the stored picture, not yet upright, in mode RGB."""
        left, top = self._shown[:2]
        part = self._image.crop((box[0] + left, box[1] + top, box[2] + left, box[3] + top))
        if self._grey_table is not None:
            part = part.convert("I").point(self._grey_table, "L")
        elif self._grey_range is not None:
            scale, offset = self._grey_range
            part = part.convert("F").point(lambda value: value * scale + offset).convert("L")
        elif part.has_transparency_data:
            # Pillow leads from La to nothing but LA.
            part = part.convert("LA") if part.mode == "La" else part
            white = Image.new("RGBA", part.size, "white")
            part = Image.alpha_composite(white, part.convert("RGBA"))
        rgb = part.convert("RGB")
        return rgb if self._frame is None else _over_white(rgb, box, self._frame)


def _load(image: ImageFile, ground: int | None) -> None:
    """Load; with a ground, as much as can be decoded, over samples of that value."""
    if ground is None:
        image.load()
        return
    prepare = image.load_prepare

    def load_prepare() -> None:
        prepare()
        for tile in image.tile:
            image.im.paste(ground, tile.extents)

    image.load_prepare = load_prepare  # type: ignore[method-assign]
    with suppress(*PILLOW_ERRORS):
        image.load()
    # The function and the image hold each other, and would both stay in memory.
    del image.load_prepare
    # What is there stays, and nothing is tried again.
    image.tile = []
    image.load()


def _orientation(image: ImageFile) -> object:
    # Pillow has turned a TIFF by the time it is loaded; XMP would turn it again.
    if isinstance(image, TiffImageFile):
        return 1
    try:
        return image.getexif().get(Base.Orientation, 1)
    except PILLOW_ERRORS:
        # Viewers show a picture whose metadata are broken.
        return 1


def _aperture(image: ImageFile) -> Box | None:
    """Return what an AVIF shows of its picture, which libavif tells and Pillow does not; None for all of it."""
    if not isinstance(image, AvifImageFile):
        return None
    assert isinstance(image.fp, io.BytesIO)
    return clean_aperture(image.fp.getvalue(), image.size)


def _transparency(image: ImageFile) -> int | None:
    """Return PNG's colour key on the scale to which Pillow unpacks the pixels, or None to leave it alone."""
    key = image.info.get("transparency")
    rawmode = image.tile[0].args if isinstance(image, PngImageFile) and image.tile else None
    return key * _GREY_SCALES[rawmode] if isinstance(key, int) and rawmode in _GREY_SCALES else None


def _low_bytes_other_than_key(image: ImageFile, ground: int | None) -> Image.Image | None:
    """Return 255 where a PNG of three times 16 bits has other low bytes than its colour key; None for what is no such.

    Pillow keeps the high bytes only. The low ones are what it keeps where it takes the file's byte order for the other.
    """
    is_keyed = isinstance(image, PngImageFile) and "transparency" in image.info
    if not is_keyed or not image.tile or image.tile[0].args != "RGB;16B":
        return None
    assert isinstance(image.fp, io.BytesIO)
    swapped = PngImageFile(io.BytesIO(image.fp.getvalue()))
    swapped.tile = [tile._replace(args="RGB;16L") for tile in swapped.tile]
    _load(swapped, ground)
    return _other_than(swapped, [sample & 255 for sample in image.info["transparency"]])


def _other_than(image: Image.Image, colour: list[int]) -> Image.Image:
    """Return an image, in mode L, of 255 where another has not this colour, and 0 where it has."""
    found = Image.new("L", image.size)
    for band, sample in enumerate(colour):
        others = [255] * 256
        others[sample] = 0
        found = ImageChops.lighter(found, image.getchannel(band).point(others))
    return found


def _grey_table(image: ImageFile) -> list[int]:
    """Map 16-bit (or 12-bit) grey, PNG's colour key and TIFF's white-is-zero to 8 bits: 65,536 entries."""
    bits, inverted = 16, False
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2[BITSPERSAMPLE][0]
        inverted = image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
    table = [min(255, value >> (bits - 8)) for value in range(65_536)]
    if inverted:
        table = [255 - value for value in table]
    if isinstance(key := image.info.get("transparency"), int):
        table[key] = 255
    return table


def _grey_range(image: ImageFile) -> tuple[float, float]:
    """Return the scale and offset that stretch 32-bit or floating-point grey to 0-255, rounded on truncation.

    Raises UnsupportedImage where a value is not finite, or beyond Pillow's signed 32 bits, which makes it negative.
    """
    low, high = (float(value) for value in image.getextrema())  # type: ignore[arg-type]
    is_unsigned = image.mode == "I" and image.tag_v2.get(SAMPLEFORMAT, (1,))[0] == 1  # type: ignore[attr-defined]
    if not math.isfinite(high - low) or (is_unsigned and low < 0):
        sentence = "Grey values of more than 31 bits, or that are not finite, are not supported; save it as PNG."
        raise UnsupportedImage(sentence, detail=f"grey values from {low} to {high}")
    scale = 255 / (high - low) if high > low else 0.0
    if image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:  # type: ignore[attr-defined]
        return -scale, high * scale + 0.5
    return scale, 0.5 - low * scale


def _over_white(rgb: Image.Image, box: Box, frame: Box) -> Image.Image:
    """Whiten what of ``rgb``, which shows ``box`` of the picture, lies outside ``frame``."""
    left, top = box[:2]
    inside = (
        max(box[0], frame[0]) - left,
        max(box[1], frame[1]) - top,
        min(box[2], frame[2]) - left,
        min(box[3], frame[3]) - top,
    )
    white = Image.new("RGB", rgb.size, "white")
    if inside[0] < inside[2] and inside[1] < inside[3]:
        white.paste(rgb.crop(inside), inside)
    return white
