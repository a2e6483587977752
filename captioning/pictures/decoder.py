"""Encoded bytes -> the RGB picture that a viewer shows, within a known amount of memory.

    opened = open_image(data, max_pixels=40_000_000, target_size=384)   # reads the header only
    opened.memory_bytes                                                 # what the next steps take at most
    picture = opened.decode()                                           # pixels, in the file's own mode
    picture.crop((0, 0, picture.size[0], 64))                           # any part of it, upright, RGB

Formats go by content only: JPEG (the first picture of an MPO too), PNG, WebP, GIF, BMP, TIFF and AVIF. Of
animations and multi-page files, the first frame counts (of an APNG, the default picture).

Sources: Pillow 13's plugins; libjpeg's scaled inverse DCT, reached by ``Image.draft``, with
benchmarks/jpeg_draft.py for JPEG_DRAFT_FACTOR.
"""

from __future__ import annotations

import ctypes
import io
import logging
import warnings
from contextlib import suppress

from PIL import AvifImagePlugin, Image, PngImagePlugin, _imaging
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from captioning.errors import TooManyPixels, UnsupportedImage
from captioning.pictures.memory import codec_bytes, reading_bytes, stored_bytes, tiff_piece_size
from captioning.pictures.pillow_errors import translated_errors
from captioning.pictures.pixels import DecodedImage

DEFAULT_MAX_PIXELS = 40_000_000
MAX_SIDE = 65_535
"""Pixels; JPEG's and GIF's own limit. Pillow keeps a pointer a row, and a codec a buffer a row: 40 million
pixels in one column would take eight times the memory of their samples."""

JPEG_DRAFT_FACTOR = 3
"""A JPEG is read at 1/2, 1/4 or 1/8 only where both sides stay at least this many times the model's."""


class _StillGif(GifImageFile):
    """A GIF of which no second frame is wanted.

    To dispose of the first, Pillow would fill a picture of its size while opening the file.
    """

    @property
    def disposal_method(self) -> int:
        return 0

    @disposal_method.setter
    def disposal_method(self, method: int) -> None:
        pass


# The plugins are called directly. Image.open() would answer "cannot identify" both for text and for a cut
# PNG, and warns on the way about sizes and MPO headers.
_PLUGINS: tuple[type[ImageFile], ...] = (
    JpegImageFile,
    PngImageFile,
    WebPImageFile,
    _StillGif,
    TiffImageFile,
    AvifImageFile,
    BmpImageFile,
)
_SIGNATURE_BYTES = 16

# Corrupt EXIF and TIFF tags are common in sound pictures. Pillow warns about each with texts taken from the
# file, which the registry of warnings would keep for ever. A filter that is set once is thread-safe, which
# catch_warnings is not.
warnings.filterwarnings("ignore", module=r"PIL\.")
# What it logs as errors, it raises too.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# Many pictures are decoded at once, next to the model; dav1d would start a thread per CPU for each of them.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Text is kept unpacked from opening on, outside of every budget; Pillow's 64 MiB would dwarf most pictures.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 2**20

# libtiff prints what it dislikes: of a damaged fax every line, tens of thousands of them into the log.
with suppress(AttributeError):  # a Pillow that was built without libtiff, or that hides its names
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)

# libtiff's other codecs (old-style JPEG, SGI, ThunderScan, LZMA, ZSTD, WebP) are rare, and either fragile or
# free to take memory that the header does not tell.
_TIFF_COMPRESSIONS = frozenset(
    {"raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg"} | {"tiff_ccitt", "group3", "group4"}
)


def open_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, target_size: int | None = None) -> OpenedImage:
    """Read a picture's header; decode nothing yet.

    ``target_size`` is the longer side of the model's input in pixels. With it, JPEGs far larger than that are
    decoded at a reduced scale; without it, all pictures are decoded whole.

    Raises UnsupportedImage, CorruptImage, or TooManyPixels where width times height, as the header tells
    them, exceed ``max_pixels`` or a side exceeds MAX_SIDE.
    """
    plugin = _plugin_for(data[:_SIGNATURE_BYTES])
    with translated_errors():
        image = plugin(io.BytesIO(data))
        _check_size(image.size, max_pixels)
        if isinstance(image, TiffImageFile):
            _check_tiff(image, max_pixels)
        size = image.size
        beside = codec_bytes(image, data)
        if isinstance(image, JpegImageFile) and target_size is not None:
            # Pillow takes the smallest scale that leaves both sides at least this long.
            image.draft(None, (JPEG_DRAFT_FACTOR * target_size,) * 2)
        return OpenedImage(image, size, beside + stored_bytes(image) + reading_bytes(image, target_size))


def decode_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, target_size: int | None = None) -> Image.Image:
    """Decode a picture whole; return it upright, in mode RGB.

    Takes the arguments and raises the errors of open_image and OpenedImage.decode.
    """
    return open_image(data, max_pixels=max_pixels, target_size=target_size).decode().to_rgb()


class OpenedImage:
    """A picture whose header was read and found acceptable.

    ``format`` is Pillow's name of the format; ``size`` is (width, height) as the file has it, not turned upright;
    ``pixels`` counts those that decode() will really make; ``memory_bytes`` bounds what decode() and reading the
    result in strips allocate beyond ``data`` itself.
    """

    def __init__(self, image: ImageFile, size: tuple[int, int], memory_bytes: int) -> None:
        self._image = image
        self.size = size
        self.format = image.format or ""
        self.pixels = image.width * image.height
        self.memory_bytes = memory_bytes

    def decode(self) -> DecodedImage:
        """Decode the first frame. Call it once.

        Raises CorruptImage, or TooManyPixels where memory does not suffice.
        """
        with translated_errors():
            return DecodedImage(self._image)


def _plugin_for(signature: bytes) -> type[ImageFile]:
    for plugin in _PLUGINS:
        _, accepts = Image.OPEN[plugin.format or ""]
        # A plugin that was built without its library answers with a sentence in place of True.
        if accepts is not None and accepts(signature) is True:
            return plugin
    raise UnsupportedImage(detail=f"starts with {signature!r}")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooManyPixels(f"The image has {width} x {height} pixels; the limit is {max_pixels:,} pixels in all.")
    if max(size) > MAX_SIDE:
        raise TooManyPixels(f"The image has {width} x {height} pixels; the limit for a side is {MAX_SIDE:,}.")


def _check_tiff(image: TiffImageFile, max_pixels: int) -> None:
    compression = image.info["compression"]
    if compression not in _TIFF_COMPRESSIONS:
        raise UnsupportedImage(
            "TIFF images with this compression are not supported; save it as PNG.", detail=compression
        )
    # A tile is decoded whole, however little of it the picture needs.
    _check_size(tiff_piece_size(image), max_pixels)
