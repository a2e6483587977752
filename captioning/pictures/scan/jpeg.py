"""A JPEG: see `captioning.pictures.scan`.

Source: ITU T.81, annex B; JFIF 1.02; Adobe's technical note 5116.
"""

from __future__ import annotations

import re
import struct

from captioning.errors import CorruptImage, UnsupportedImage
from captioning.pictures.orientation import exif_block, exif_orientation, xmp_orientation
from captioning.pictures.scan.limits import MAX_PARTS

MAX_SCANS = 100
"""Of a JPEG: each is a pass over the whole picture, for as little as 100 bytes; encoders make 3 to 20."""


# Fill bytes, stuffed samples, restart markers and TEM are no segments.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
# Frames, tables, restart interval, arithmetic conditioning.
_JPEG_PIXELS = {*range(0xC0, 0xD0), 0xDB, 0xDD} - {0xC8}
# How a segment begins that tells the height which the frame leaves open.
_DNL = b"\xff\xdc\0\4"
# What says how colours are coded, with the bytes below which libjpeg takes it for another's: JFIF and Adobe.
_JPEG_COLOURS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
# Frames, JPEG-LS' among them; of these, the sequential and progressive ones, coded by Huffman or arithmetically.
# libjpeg reads lossless ones of 8 bits too, but not at a reduced scale.
_JPEG_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_JPEG_READ = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_JPEG_ARITHMETIC = {0xC9, 0xCA}
_ARITHMETIC_FRAME = re.compile(rb"\xff[%s]\0.\x08" % bytes(_JPEG_ARITHMETIC), re.DOTALL)


def essential(data: bytes, filler: bytes) -> bytes:
    """Keep the first picture's tables and scans, JFIF, Adobe's colour transform and the orientation.

    Raises CorruptImage for more than MAX_SCANS scans, and UnsupportedImage for hierarchical and lossless JPEGs,
    JPEG-LS, other depths than 8 bits, other numbers of components than 1, 3 and 4, and a height that only follows the
    first scan (DNL).
    """
    colours: dict[int, bytes] = {}
    orientations: dict[bytes, int | None] = {}
    kept: list[bytes] = []
    scans: list[bytes] = []
    at, code = 2, 0
    arithmetic = False
    for _ in range(MAX_PARTS):
        marker = _JPEG_MARKER.search(data, at)
        if marker is None:
            break
        start, code = marker.start(), data[marker.end() - 1]
        if code == _EOI:
            break
        body = start + 4
        at = start + 2 + int.from_bytes(data[start + 2 : body])
        if code in _JPEG_FRAMES and not scans:
            arithmetic = code in _JPEG_ARITHMETIC
            bits, components = data[body : body + 1], data[body + 5 : body + 6]
            lacks_height = data[body + 1 : body + 3] == b"\0\0" and data.find(_DNL, at) >= 0
            if code not in _JPEG_READ or bits not in b"\x08" or components not in b"\1\3\4" or lacks_height:
                raise UnsupportedImage(
                    "JPEG images of this kind (depth, coding or colours) are not supported; save it as PNG.",
                    detail=f"frame {code:#x} of {bits.hex()} bits and {components.hex()} components",
                )
        if code == _SOS:
            scans.append(data[body:at])
            following = _JPEG_MARKER.search(data, at)
            at = following.start() if following else len(data)
        if code == _SOS or code in _JPEG_PIXELS:
            kept.append(data[start:at])
        elif code in _JPEG_COLOURS:
            prefix, size = _JPEG_COLOURS[code]
            if data.startswith(prefix, body) and at - body >= size:
                colours[code] = data[start:at]
        elif code == _APP1:
            for prefix, read in _JPEG_ORIENTATIONS.items():
                if prefix not in orientations and data.startswith(prefix, body):
                    orientations[prefix] = read(data[body + len(prefix) : at])
    if len(scans) > MAX_SCANS:
        raise CorruptImage(detail=f"a JPEG of more than {MAX_SCANS} scans")
    if orientation := next(filter(None, map(orientations.get, _JPEG_ORIENTATIONS)), None):
        block = b"Exif\0\0" + exif_block(orientation)
        kept.insert(0, struct.pack(">BBH", 0xFF, _APP1, 2 + len(block)) + block)
    if code != _EOI and kept:
        # What is left of a download whose room was made in advance, on disk or in flash.
        kept[-1] = kept[-1].rstrip(b"\0\xff")
    # The zeros with which arithmetic codes end are left out by encoders: before a marker, nothing can be missing.
    if filler and (not arithmetic if code == _EOI else _has_all_scans(scans)):
        # libjpeg takes the rest for grey; or it is made of what is no sensible samples.
        kept.append((_NOISE if filler != b"\0" else b"") + b"\xff\xd9")
    elif code == _EOI:
        kept.append(b"\xff\xd9")
    return b"".join([b"\xff\xd8", *colours.values(), *kept])


def is_arithmetic(essential: bytes) -> bool:
    """Tell whether what is kept of a JPEG is coded arithmetically."""
    return _ARITHMETIC_FRAME.search(essential, 0, essential.find(bytes((0xFF, _SOS)))) is not None


_JPEG_ORIENTATIONS = {b"Exif\0\0": exif_orientation, b"http://ns.adobe.com/xap/1.0/\0": xmp_orientation}
_NOISE = bytes(range(1, 255)) * 4


def _has_all_scans(scans: list[bytes]) -> bool:
    """Tell whether each component has all 64 coefficients to their last bit in one of the scans, or in the last one."""
    exact: set[tuple[int, int]] = set()
    components: set[int] = set()
    for scan in scans:
        count = scan[0] if scan else 0
        named, parameters = scan[1 : 1 + 2 * count : 2], scan[1 + 2 * count : 4 + 2 * count]
        components |= set(named)
        if len(parameters) == 3 and parameters[2] & 15 == 0:
            exact |= {(name, index) for name in named for index in range(parameters[0], parameters[1] % 64 + 1)}
    return 0 < 64 * len(components) == len(exact)
