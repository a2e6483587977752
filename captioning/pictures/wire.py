"""What the serving process and a decoder process say to each other, on one stream socket.

    there   SIZE and that many bytes: first the setup, pickled, then one picture after the other
    back    ANSWER and what it announces: float32 samples, or why there are none

The decoder process believes the serving process, and unpickles the setup. The other way round nothing is believed: an
answer is numbers and text that `decoder_handle.py` checks, because a picture may have taken the decoder process over.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from captioning.errors import CorruptImage, ImageTooCostly, TooManyPixels, UnsupportedImage, UnusableImage


class Preprocess(Protocol):
    """What makes the model's input, float32 ``[3, H, W]``, of a picture; ``size`` is (H, W). It is pickled."""

    @property
    def size(self) -> tuple[int, int]: ...

    def __call__(self, picture: Any, /) -> NDArray[np.float32]: ...


class Setup(NamedTuple):
    """What a decoder process is told before the first picture."""

    memory_bytes: int
    cpu_s: float
    max_pixels: int
    preprocess: Preprocess


SIZE = struct.Struct("!Q")

ANSWER = struct.Struct("!B?8sIIQ")
"""What became of the picture; whether the process ends now; the format's name; width and height as the file has them;
how many bytes follow."""

PICTURE, TOO_COSTLY, BUG = 0, 4, 255
REFUSALS: dict[int, type[UnusableImage]] = {
    1: UnsupportedImage,
    2: CorruptImage,
    3: TooManyPixels,
    TOO_COSTLY: ImageTooCostly,
}

MAX_TEXT_BYTES = 4_000
