"""What a float32 BLIP does on calibration pictures: its captions, its logits, and what goes into its matrices.

The pictures of tools/calibration are a dozen photographs (SOURCES.md there); each is looked at twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps, UnidentifiedImageError

from captioning.model.engine import Pixels
from captioning.model.preprocessor import Preprocessor

Array = NDArray[np.float32]
Heard = Callable[[str, Array], None]

PICTURES = Path(__file__).resolve().parent / "calibration"
MAX_NEW_TOKENS = 20


@dataclass(frozen=True)
class Reference:
    """Hold a greedy float32 caption: the tokens that were read, ``[1, N]``, and what was answered, ``[N, V]``."""

    caption: str
    tokens: NDArray[np.int64]
    logits: Array


@dataclass
class Channels:
    """Note what goes into a matrix: the least, the most and the mean of each of its K channels."""

    low: Array
    high: Array
    total: NDArray[np.float64]
    rows: int

    @classmethod
    def of(cls, x: Array) -> Self:
        """Note ``[M, K]``."""
        return cls(x.min(axis=0), x.max(axis=0), x.sum(axis=0, dtype=np.float64), len(x))

    def __or__(self, other: Channels) -> Channels:
        """Join what was noted of two inputs."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return Channels(low, high, self.total + other.total, self.rows + other.rows)

    @property
    def middle(self) -> Array:
        """Return the mean of each channel, to a sixteenth of its range, or a 4,096th of a mean that hardly varies."""
        extent = np.maximum(self.high - self.low, np.maximum(np.abs(self.low), np.abs(self.high)) / 256)
        step = np.exp2(np.floor(np.log2(np.maximum(extent, 1e-30) / 16)))
        middle: Array = (np.rint(self.total / self.rows / step) * step).astype(np.float32)
        return middle

    def largest(self, middle: Array | float = 0) -> Array:
        """Return how far each channel went from its middle."""
        farthest: Array = np.maximum(self.high - middle, middle - self.low)
        return farthest


def views(folder: Path, preprocessor: Preprocessor) -> list[Pixels]:
    """Return each picture of a folder twice, ``[1, 3, H, W]``: whole, and a mirrored part of it in stronger colours.

    Raises:
        ValueError: there is none.
    """
    made = []
    for file in sorted(folder.iterdir()):
        try:
            with Image.open(file) as opened:
                picture = ImageOps.exif_transpose(opened).convert("RGB")
        except (UnidentifiedImageError, IsADirectoryError):
            continue
        width, height = picture.size
        part = ImageOps.mirror(picture.crop((width // 4, height // 4, width, height)))
        made += [preprocessor(view)[None] for view in (picture, ImageEnhance.Color(part).enhance(1.6))]
    if not made:
        raise ValueError(f"there is no picture in {folder}")
    return made


@torch.inference_mode()
def refer(model: Any, tokenizer: Any, pixels: Pixels, max_new_tokens: int = MAX_NEW_TOKENS) -> Reference:
    """Caption ``[1, 3, H, W]`` greedily with transformers' own `generate`."""
    answer = model.generate(
        pixel_values=torch.from_numpy(pixels),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    [caption] = tokenizer.batch_decode(answer.sequences, skip_special_tokens=True)
    return Reference(
        caption.strip(), answer.sequences[:, :-1].numpy(), torch.stack(answer.logits, dim=1)[0].float().numpy()
    )


@contextmanager
def listening(model: Any, heard: Heard) -> Iterator[None]:
    """Have ``heard`` called with the name and the input ``[M, K]`` of every matrix product that the model does."""

    def hook(name: str, _: object, inputs: tuple[torch.Tensor]) -> None:
        heard(name, inputs[0].flatten(0, -2).numpy())

    matrices = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    hooks = [module.register_forward_pre_hook(partial(hook, name)) for name, module in matrices]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
