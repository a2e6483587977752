"""BMP, of which Pillow's reader knows few bit fields and header sizes, and not all alpha.

A colour that the palette lacks is black. Alpha that is 0 everywhere is none: programs leave it at that, and Windows
shows such pictures.

Sources: Microsoft's "Bitmap Header Types"; IBM's OS/2 bitmaps; compared with what Chromium shows.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImagePalette

from captioning.errors import UnsupportedImage
from captioning.pictures.bmp_rle import RleDecoder
from captioning.pictures.scan.limits import MISSING_SHARE

_OS2_HEADER = 12
_HEADERS = (_OS2_HEADER, *range(16, 65), 108, 124)
"""Those up to 64 bytes are OS/2's second one, which may be cut where only zeros follow, or Windows'."""
_PLAIN, _RLE8, _RLE4, _BIT_FIELDS, _ALPHA_BIT_FIELDS = 0, 1, 2, 3, 6
_PALETTES = {(1, _PLAIN), (2, _PLAIN), (4, _PLAIN), (8, _PLAIN), (8, _RLE8), (4, _RLE4)}
_PLAIN_MASKS = {16: (0x7C00, 0x3E0, 0x1F), 32: (0xFF0000, 0xFF00, 0xFF)}


class BmpImage(ImageFile.ImageFile):
    """A bitmap, of which the header was read."""

    format = "BMP"
    format_description = "Windows and OS/2 bitmap"

    def _open(self) -> None:
        assert self.fp is not None
        data = self.fp.read()
        offset, header_size = struct.unpack_from("<II", data, 10)
        end = 14 + header_size
        header = data[14:end].ljust(36, b"\0")
        width, height, bits, compression, colours = struct.unpack_from("<ii2xHI12xI", header, 4)
        if header_size == _OS2_HEADER:
            width, height, bits = struct.unpack_from("<HH2xH", header, 4)
            compression = colours = 0
        elif len(data) < end:
            raise EOFError
        self._size = width, abs(height)
        direction = -1 if height > 0 else 1
        stride = (width * bits + 31) // 32 * 4
        decoder = "raw"
        args: tuple[object, ...] = ("BGR", stride, direction)
        masks = _masks(data, header_size, bits, compression)
        if masks and not any(mask & mask + (mask & -mask) for mask in masks):  # each of neighbouring bits
            self._mode = "RGBA" if masks[3:] > (0,) else "RGB"
            decoder, args = "bmp_bit_fields", (masks[: len(self._mode)], bits, stride, direction)
            end = max(end, 54 + 4 * len(masks) * (compression != _PLAIN))
        elif (bits, compression) in _PALETTES and header_size in _HEADERS:
            self._mode = "P"
            entry = "BGR" if header_size == _OS2_HEADER else "BGRX"
            length = len(entry) * min(colours or 2**bits, 2**bits)
            self.palette = ImagePalette.raw(entry, data[end : end + length])
            args = ("P" if bits == 8 else f"P;{bits}", stride, direction)
            if compression != _PLAIN:
                decoder, args = "bmp_rle", (bits, direction)
            end += length
        elif (bits, compression) == (24, _PLAIN) and header_size in _HEADERS:
            self._mode = "RGB"
        else:
            raise UnsupportedImage(
                "BMP images of this kind are not supported; save it as PNG.",
                detail=f"header of {header_size} bytes, {bits} bits, compression {compression}",
            )
        whole = stride * abs(height)
        missing = (offset or end) + whole - len(data)
        if decoder != "bmp_rle" and 0 < missing <= whole // MISSING_SHARE:
            self.fp = io.BytesIO(data + bytes(missing))
        self.tile = [ImageFile._Tile(decoder, (0, 0, *self._size), offset or end, args)]


def _masks(data: bytes, header_size: int, bits: int, compression: int) -> tuple[int, ...]:
    """Return the masks of red, green, blue and, maybe, alpha; nothing where there should be none."""
    if bits not in _PLAIN_MASKS or header_size not in _HEADERS:
        return ()
    if compression == _PLAIN:
        # From the fourth of Windows' headers on, the mask of alpha counts without bit fields, too.
        return _PLAIN_MASKS[bits] + struct.unpack_from("<I", data, 66) * (bits == 32 and header_size >= 108)
    if compression not in (_BIT_FIELDS, _ALPHA_BIT_FIELDS) or header_size not in (40, 52, 56, 108, 124):
        return ()
    # At the same place in the header and behind the shortest one.
    count = 4 if header_size >= 56 or (header_size, compression) == (40, _ALPHA_BIT_FIELDS) else 3
    return tuple(mask & 2**bits - 1 for mask in struct.unpack_from(f"<{count}I", data, 54))


class BitFieldsDecoder(ImageFile.PyDecoder):
    """A decoder of words of 16 or 32 bits, of which each channel has those in its mask."""

    _pulls_fd = True

    def decode(self, buffer: Image.DecoderInput) -> tuple[int, int]:
        """Decode all rows; raise ValueError where some are missing."""
        assert self.fd is not None
        masks, bits, stride, direction = self.args
        lines = np.frombuffer(self.fd.read(stride * self.state.ysize), f"<u{bits // 8}").reshape(self.state.ysize, -1)
        samples = np.stack([_channel(lines[:, : self.state.xsize], mask) for mask in masks], axis=2)
        if self.mode == "RGBA" and not samples[..., 3].any():
            samples[..., 3] = 255
        self.set_as_raw(samples.tobytes(), extra=(0, direction))
        return -1, 0


def _channel(words: NDArray[np.unsignedinteger], mask: int) -> NDArray[np.uint8]:
    """Return what is under the mask, from 0 to 255; 0 where it is empty."""
    shift = max((mask & -mask).bit_length() - 1, 0)
    top = mask >> shift
    if top > 255:
        return (words >> (mask.bit_length() - 8)).astype(np.uint8)
    levels = (np.arange(top + 1) * 255 // max(top, 1)).astype(np.uint8)
    return levels.take((words & mask) >> shift)


Image.register_decoder("bmp_rle", RleDecoder)
Image.register_decoder("bmp_bit_fields", BitFieldsDecoder)
