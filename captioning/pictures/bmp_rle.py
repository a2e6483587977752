"""Run-length coded BMP: Pillow's decoder takes seconds for 30 kB, since it fills up rows pixel by pixel, and loses
empty rows.

Source: Microsoft's "Bitmap Compression" (BI_RLE8 and BI_RLE4).
"""

from __future__ import annotations

import re

from PIL import Image, ImageFile

from captioning.pictures.scan.limits import MISSING_SHARE

_RUNS = re.compile(rb"(?:[^\0].)*", re.DOTALL)
_HIGH_HALVES = bytes(byte >> 4 for byte in range(256))
_LOW_HALVES = bytes(byte & 15 for byte in range(256))
_END_OF_LINE, _END_OF_BITMAP, _DELTA = 0, 1, 2


class RleDecoder(ImageFile.PyDecoder):
    """A decoder whose work is linear in the file; what no code covers has colour 0."""

    _pulls_fd = True

    def decode(self, buffer: Image.DecoderInput) -> tuple[int, int]:
        """Decode all codes.

        Raises OSError where more than a tenth of the rows is missing.
        """
        assert self.fd is not None
        data = self.fd.read()
        width, height = self.state.xsize, self.state.ysize
        bits, direction = self.args
        is_four_bits = bits == 4
        indexes = bytearray(width * height)
        at = x = y = 0
        while y < height:
            if x >= width:
                # Runs that the row has no room for are passed over at once.
                at = _RUNS.match(data, at).end()  # type: ignore[union-attr]
            if at + 2 > len(data):
                break
            count, value = data[at], data[at + 1]
            at += 2
            if count:
                run = bytes((value >> 4, value & 15)) * (count + 1 >> 1) if is_four_bits else bytes((value,)) * count
            elif value == _END_OF_LINE:
                x, y = 0, y + 1
                continue
            elif value == _END_OF_BITMAP:
                y = height
                break
            elif value == _DELTA:
                step = data[at : at + 2].ljust(2, b"\0")
                x, y, at = x + step[0], y + step[1], at + 2
                continue
            else:
                count = value
                size = count + 1 >> 1 if is_four_bits else count
                run = data[at : at + size]
                if is_four_bits:
                    halves = bytearray(2 * len(run))
                    halves[::2], halves[1::2] = run.translate(_HIGH_HALVES), run.translate(_LOW_HALVES)
                    run = bytes(halves)
                at += size + size % 2
            run = run[: min(count, max(width - x, 0))]
            start = y * width + x
            indexes[start : start + len(run)] = run
            x += len(run)
        if height - y - (x >= width) > height // MISSING_SHARE:
            raise OSError("run-length coded rows are missing")
        self.set_as_raw(indexes, extra=(0, direction))
        return -1, 0
