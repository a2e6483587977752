"""What Pillow raises on hostile input -> the errors that a caller is told: the one boundary between them."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageCms

from captioning.errors import CorruptImage, ImageTooCostly, TooManyPixels, UnsupportedImage

# What Pillow raises on hostile input, by cause. Its readers check little, so a byte that is missing or out of
# range surfaces as whatever Python operation met it first; MemoryError and the bomb errors are told apart.
PILLOW_ERRORS = (
    OSError,  # decoders' own reports, cut data
    SyntaxError,  # plugins: a header that makes no sense
    ValueError,  # sizes, modes, chunk limits, text that does not decode
    EOFError,  # no frame at all
    RuntimeError,  # libavif
    struct.error,  # headers cut short
    zlib.error,  # PNG's compressed chunks
    LookupError,  # palettes, tag tables and offsets outside their data
    TypeError,  # tags of the wrong type or count
    AttributeError,  # tags that are missing
    ArithmeticError,  # zero rationals, sizes beyond C's integers
    AssertionError,  # Pillow's own invariants
    ImageCms.PyCMSError,  # LAB conversion
)
_UNSUPPORTED = re.compile(r"unsupported|not( yet)? supported|cannot handle|ftyp", re.IGNORECASE)
# Of a TIFF: the scan has refused those that lost tags.
_UNSUPPORTED_KIND = re.compile(r"unknown (pixel mode|data organization)")


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn whatever Pillow raises inside into one of UnusableImage."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(detail=repr(error)) from error
    except MemoryError as error:
        raise ImageTooCostly(detail=repr(error)) from error
    except PILLOW_ERRORS as error:
        if _UNSUPPORTED.search(str(error)):
            raise UnsupportedImage(detail=repr(error)) from error
        if _UNSUPPORTED_KIND.search(str(error)):
            sentence = "TIFF images of this kind (depth, samples or colours) are not supported; save it as PNG."
            raise UnsupportedImage(sentence, detail=repr(error)) from error
        raise CorruptImage(detail=repr(error)) from error
