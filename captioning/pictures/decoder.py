"""Encoded bytes -> the RGB picture that a viewer shows.

    opened = open_image(data, max_pixels=40_000_000, target_size=384)   # reads the header only
    picture = opened.decode()                                           # pixels, in the file's own mode
    picture.crop((0, 0, picture.size[0], 64))                           # any part of it, upright, RGB

Formats go by content only, by the table in `captioning.pictures.formats`; of a file, Pillow sees what the pixels depend
on (`captioning.pictures.scan`). Of animations and multi-page files, the first frame counts (of an APNG, the default
picture).

A file whose end is missing is read twice, with two different things in its place. So is a JPEG that ends in one colour,
as half a JPEG does when an end marker stands behind it. Rows that come out the same do not depend on it; where they
are ROWS_NEEDED of all, the picture counts as whole.

Sources: Pillow 13's plugins; libjpeg's scaled inverse DCT, reached by ``Image.draft``, with
benchmarks/jpeg_draft.py for JPEG_DRAFT_FACTOR.
"""

from __future__ import annotations

import ctypes
import io
import logging
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

from PIL import AvifImagePlugin, Image, TiffImagePlugin, _imaging
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import (
    EXTRASAMPLES,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    TILELENGTH,
    TILEWIDTH,
    TiffImageFile,
)

from captioning.errors import CorruptImage, TooManyPixels, UnsupportedImage
from captioning.pictures.formats import NAMES, Format, format_of
from captioning.pictures.pillow_errors import translated_errors
from captioning.pictures.pixels import DecodedImage
from captioning.pictures.scan import jpeg
from captioning.pictures.sniffing import not_an_image

DEFAULT_MAX_PIXELS = 40_000_000
MAX_SIDE = 65_535
"""Pixels; JPEG's and GIF's own limit. Pillow keeps a pointer a row, and a codec a buffer a row: 40 million
pixels in one column would take eight times the memory of their samples."""

JPEG_DRAFT_FACTOR = 3
"""A JPEG is read at 1/2, 1/4 or 1/8 only where both sides stay at least this many times the model's."""


ROWS_NEEDED = 0.9
"""Of a picture whose end is missing, the share of its rows that must be there."""
_FILLERS = (b"\xaa", b"\0", b"\1", b"\x5a")
"""What stands in for a missing end. Two are needed; decoders of AVIF and WebP take some of them for errors."""

# Corrupt EXIF and TIFF tags are common in sound pictures. Pillow warns about each with texts taken from the
# file, which the registry of warnings would keep for ever. A filter that is set once is thread-safe, which
# catch_warnings is not.
warnings.filterwarnings("ignore", module=r"PIL\.")
# What it logs as errors, it raises too.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# Many pictures are decoded at once, next to the model; dav1d would start a thread per CPU for each of them.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# libtiff prints what it dislikes: of a damaged fax every line, tens of thousands of them into the log.
with suppress(AttributeError):  # a Pillow that was built without libtiff, or that hides its names
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)

# Pillow's own reader of plain strips takes planes of 16 bits for 8, and reversed bits in planes for straight ones.
TiffImagePlugin.READ_LIBTIFF = True
# libtiff gives samples in this machine's byte order, which Pillow minds for unsigned ones only.
_NATIVE_RAWMODES = {"F;32BF": "F;32NF", "I;16BS": "I;16NS", "I;32BS": "I;32NS"}


def open_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, target_size: int | None = None) -> OpenedImage:
    """Read a picture's header; decode nothing yet.

    ``target_size`` is the longer side of the model's input in pixels. With it, JPEGs far larger than that are
    decoded at a reduced scale; without it, all pictures are decoded whole.

    Raises UnsupportedImage, CorruptImage, or TooManyPixels where width times height, as the header tells
    them, exceed ``max_pixels`` or a side exceeds MAX_SIDE.
    """
    found = format_of(data)
    if found is None:
        sentence = not_an_image(data) or f"This is not an image in a supported format ({NAMES})."
        raise UnsupportedImage(sentence, detail=f"starts with {data[:16]!r}")

    def opened(filler: bytes) -> ImageFile:
        with translated_errors():
            return _open(found, found.essential(data, filler), max_pixels)

    with suppress(CorruptImage):
        return OpenedImage(opened(b""), opened, target_size, is_cut=False)
    # Some codecs want the whole file before they tell its size.
    return OpenedImage(opened(_FILLERS[0]), opened, target_size, is_cut=True)


def decode_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, target_size: int | None = None) -> Image.Image:
    """Decode a picture whole; return it upright, in mode RGB.

    Takes the arguments and raises the errors of open_image and OpenedImage.decode.
    """
    return open_image(data, max_pixels=max_pixels, target_size=target_size).decode().to_rgb()


class OpenedImage:
    """A picture whose header was read and found acceptable.

    ``format`` is Pillow's name of the format; ``size`` is (width, height) as the file has it, not turned upright;
    ``pixels`` counts those that decode() will really make.
    """

    def __init__(
        self, image: ImageFile, opened: Callable[[bytes], ImageFile], target_size: int | None, *, is_cut: bool
    ) -> None:
        """Take an image, and how to open it anew with something in place of its missing end."""
        self.size = image.size
        self.format = image.format or ""
        self._draft_size = None if target_size is None else (JPEG_DRAFT_FACTOR * target_size,) * 2
        self._image: ImageFile | None = self._drafted(image)
        self._opened = opened
        self._is_cut = is_cut
        self.pixels = image.width * image.height

    def decode(self) -> DecodedImage:
        """Decode the first frame. Call it once.

        Raises CorruptImage, or ImageTooCostly where memory does not suffice.
        """
        image, self._image = self._image, None
        assert image is not None
        rows: list[int] | None = None
        if not self._is_cut:
            with suppress(CorruptImage), translated_errors():
                picture = DecodedImage(image)
                if self.format != "JPEG" or not picture.ends_flat(ROWS_NEEDED):
                    return picture
                # A white margin; or somebody put an end marker behind half a picture, and libjpeg made up the rest.
                rows = picture.row_checksums()
                del picture
        # The memory of what failed is free by now.
        del image
        return self._decode_cut(rows)

    def _decode_cut(self, rows: list[int] | None) -> DecodedImage:
        """Decode twice, with different things in place of what is missing; ``rows`` are those of one that was done.

        Raises CorruptImage where too few of the rows agree.
        """
        for ground, filler in enumerate(_FILLERS):
            try:
                with translated_errors():
                    picture = DecodedImage(self._drafted(self._opened(filler)), ground=ground)
            except CorruptImage:
                continue
            if rows is None:
                rows = picture.row_checksums()
                del picture
                continue
            pairs = zip(rows, picture.row_checksums(), strict=True)
            there = next((row for row, (one, other) in enumerate(pairs) if one != other), len(rows))
            if there < ROWS_NEEDED * len(rows):
                raise CorruptImage(detail=f"{there} of {len(rows)} rows are there")
            return picture
        raise CorruptImage(detail="it cannot be decoded with anything in place of its end")

    def _drafted(self, image: ImageFile) -> ImageFile:
        if isinstance(image, JpegImageFile) and self._draft_size is not None:
            # Pillow takes the smallest scale that leaves both sides at least this long.
            image.draft(None, self._draft_size)
        return image


def _open(found: Format, data: bytes, max_pixels: int) -> ImageFile:
    # The plugin is called directly. Image.open() would answer "cannot identify" both for text and for a cut PNG, and
    # warns on the way about sizes and MPO headers.
    if claimed := found.claimed_size(data):
        _check_size(claimed, max_pixels)
    module, _, name = found.plugin.rpartition(".")
    image: ImageFile = getattr(import_module(module), name)(io.BytesIO(data))
    _check_size(image.size, max_pixels)
    if isinstance(image, TiffImageFile):
        _check_tiff(image, max_pixels)
    if isinstance(image, JpegImageFile) and jpeg.is_arithmetic(data):
        # libjpeg cannot wait for more in the midst of arithmetic codes; others need not stand in memory twice.
        image.decodermaxblock = len(data)
    return image


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooManyPixels(f"The image has {width} x {height} pixels; the limit is {max_pixels:,} pixels in all.")
    if max(size) > MAX_SIDE:
        raise TooManyPixels(f"The image has {width} x {height} pixels; the limit for a side is {MAX_SIDE:,}.")


def _check_tiff(image: TiffImageFile, max_pixels: int) -> None:
    tags = image.tag_v2
    # These would be read wrongly: planes of alpha that Pillow does not ask libtiff for, planes of Lab whose sign it
    # takes for another than between samples, and signed bytes.
    wrong_planes = tags.get(PLANAR_CONFIGURATION) == 2 and (
        image.mode in ("LA", "La", "PA", "LAB") or (image.mode == "RGBA" and EXTRASAMPLES not in tags)
    )
    signed_bytes = image.mode == "L" and tags.get(SAMPLEFORMAT, (1,))[0] != 1
    if wrong_planes or signed_bytes:
        raise UnsupportedImage("TIFF images with this layout are not supported; save it as PNG.", detail=image.mode)
    # A tile is decoded whole, however little of it the picture needs.
    if TILEWIDTH in tags or TILELENGTH in tags:
        _check_size((int(tags[TILEWIDTH]), int(tags[TILELENGTH])), max_pixels)
    image.tile = [
        tile._replace(args=(_NATIVE_RAWMODES.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        for tile in image.tile
        if isinstance(tile.args, tuple)
    ]
