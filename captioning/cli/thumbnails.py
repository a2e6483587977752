"""Small pictures for the HTML report, made where pictures are decoded: in a process that can do nothing else."""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioning.cli.sources import STANDARD_INPUT, is_url, read_file
from captioning.deadline import Deadline
from captioning.errors import CaptioningError
from captioning.model.preprocessor import Preprocessor
from captioning.pictures.decoders import Decoders
from captioning.settings import Settings

SIDE = 160
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class FitIntoSquare:
    """A picture -> its samples, 0 to 255, as float32 ``[3, SIDE, SIDE]``: as large as fits, in the middle of white."""

    size: tuple[int, int] = (SIDE, SIDE)

    def __call__(self, picture: Any, /) -> NDArray[np.float32]:
        """Resize it in strips, as for the model."""
        width, height = (max(1, round(side * SIDE / max(picture.size))) for side in picture.size)
        resize = Preprocessor(
            (height, width), (0, 0, 0), (1, 1, 1), rescale_factor=1, resample=Image.Resampling.LANCZOS
        )
        square = np.full((3, SIDE, SIDE), 255, np.float32)
        top, left = (SIDE - height) // 2, (SIDE - width) // 2
        square[:, top : top + height, left : left + width] = resize(picture)
        return square


class Thumbnails:
    """Makes thumbnails of files; call `close` at the end."""

    def __init__(self, settings: Settings) -> None:
        """Start nothing yet; the settings' limits apply."""
        self._max_bytes = settings.max_image_bytes
        self._decoders = Decoders(
            processes=1, memory_bytes=settings.decode_memory_bytes, max_pixels=settings.max_image_pixels
        )

    def data_url(self, source: str) -> str | None:
        """Return a picture's thumbnail as a data: URL; nothing for a URL, whose picture is not at hand any more."""
        if is_url(source) or source == STANDARD_INPUT:
            return None
        try:
            data = read_file(source, max_bytes=self._max_bytes)
            samples = self._decoders.decode(data, FitIntoSquare(), Deadline.after(_PATIENCE_S)).pixel_values
        except CaptioningError:
            return None
        jpeg = io.BytesIO()
        # [3, H, W] of float32 -> [H, W, 3] of bytes
        Image.fromarray(samples.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(jpeg, "JPEG", quality=80)
        return "data:image/jpeg;base64," + b64encode(jpeg.getvalue()).decode()

    def close(self) -> None:
        """End the process that made them."""
        self._decoders.close()
