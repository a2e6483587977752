"""The formats that are accepted, a row each: whoever names formats, or tells them, reads it here.

Rows name plugins of Pillow and import none, so that processes which decode nothing do not pay for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from captioning.pictures.scan import avif, bmp, gif, jpeg, png, tiff, webp


class Format(NamedTuple):
    """One format of pictures."""

    name: str
    """For people."""
    media_type: str
    """As IANA registers it."""
    plugin: str
    """The class, of Pillow's ImageFile, that opens it, as module.Class."""
    endings: tuple[str, ...]
    """Of files' names, in lower case."""
    signature: re.Pattern[bytes]
    """How its files start."""
    essential: Callable[[bytes, bytes], bytes]
    """What of a file the pixels depend on; the second argument stands in for a missing end."""
    claimed_size: Callable[[bytes], tuple[int, int] | None] = lambda essential: None
    """The size that such a file tells, where the plugin takes memory by it before it can be asked."""


FORMATS = (
    # An MPO is JPEGs one behind the other, of which the first is the picture.
    Format(
        "JPEG",
        "image/jpeg",
        "PIL.JpegImagePlugin.JpegImageFile",
        (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        re.compile(rb"\xff\xd8\xff"),
        jpeg.essential,
    ),
    Format(
        "PNG",
        "image/png",
        "PIL.PngImagePlugin.PngImageFile",
        (".png", ".apng"),
        re.compile(rb"\x89PNG\r\n\x1a\n"),
        png.essential,
    ),
    Format(
        "WebP",
        "image/webp",
        "PIL.WebPImagePlugin.WebPImageFile",
        (".webp",),
        re.compile(rb"RIFF.{4}WEBPVP8[ XL]", re.DOTALL),
        webp.essential,
        webp.claimed_size,
    ),
    Format(
        "GIF",
        "image/gif",
        "PIL.GifImagePlugin.GifImageFile",
        (".gif",),
        re.compile(rb"GIF8[79]a"),
        gif.essential,
    ),
    Format(
        "BMP",
        "image/bmp",
        "captioning.pictures.bmp.BmpImage",
        (".bmp", ".dib"),
        re.compile(rb"BM"),
        bmp.essential,
    ),
    Format(
        "TIFF",
        "image/tiff",
        "PIL.TiffImagePlugin.TiffImageFile",
        (".tif", ".tiff"),
        re.compile(rb"II(?:[*+]\0|\0\*)|MM(?:\0[*+]|\*\0)"),
        tiff.essential,
    ),
    Format(
        "AVIF",
        "image/avif",
        "PIL.AvifImagePlugin.AvifImageFile",
        (".avif",),
        # Whatever the first brand is, libavif wants one of these beside it.
        re.compile(rb".{4}ftyp(?:avi[fs]|.{8}(?:.{4}){,16}?avi[fs])", re.DOTALL),
        avif.essential,
    ),
)
ENDINGS = tuple(ending for row in FORMATS for ending in row.endings)
NAMES = ", ".join(row.name for row in FORMATS)


def format_of(data: bytes) -> Format | None:
    """Return the format that a file starts as, or None."""
    return next((row for row in FORMATS if row.signature.match(data)), None)
