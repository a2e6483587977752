"""An RGB picture -> the model's input, bit for bit as transformers' ``BlipImageProcessorPil`` makes it.

Resizing goes strip by strip. Pillow resamples one axis after the other and rounds to 8 bits in between
(libImaging/Resample.c), so the first pass over strips that lie along its axis, put together, is the first pass
over the whole. A large picture therefore never has to exist whole in RGB; see captioning.pictures.pixels.

Rescaling and normalising map each of 256 sample values of a channel to one float32, so they are a table, made
once with the operations of transformers.image_transforms: rescale in float64, cast, normalise in float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STRIP_PIXELS = 2**18

_STEPS = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")


class Picture(Protocol):
    """Whatever has a size (width, height) and yields parts of itself in mode RGB; Pillow's images do."""

    @property
    def size(self) -> tuple[int, int]: ...

    def crop(self, box: tuple[int, int, int, int], /) -> Image.Image: ...


@dataclass(frozen=True)
class Preprocessor:
    """Resize, rescale and normalise pictures as a BLIP checkpoint's configuration says.

    ``size`` is (height, width) in pixels; ``mean`` and ``std`` are per channel, on the scale that
    ``rescale_factor`` leads to. An instance is immutable and serves many threads.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale_factor: float
    resample: Image.Resampling = Image.Resampling.BICUBIC
    _table: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rescaled = (np.arange(256).astype(np.float64) * self.rescale_factor).astype(np.float32)
        mean = np.array(self.mean, dtype=np.float32)[:, None]
        std = np.array(self.std, dtype=np.float32)[:, None]
        object.__setattr__(self, "_table", (rescaled - mean) / std)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read the configuration of a checkpoint's folder.

        Looks where transformers does: ``image_processor`` inside processor_config.json, else
        preprocessor_config.json. Raises FileNotFoundError without either, ValueError as from_config.
        """
        nested = Path(folder) / "processor_config.json"
        if nested.is_file():
            config = json.loads(nested.read_bytes())
            if "image_processor" in config:
                return cls.from_config(config["image_processor"])
        return cls.from_config(json.loads((Path(folder) / "preprocessor_config.json").read_bytes()))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read a preprocessor_config.json; what it leaves out is as in BlipImageProcessor's defaults.

        Raises ValueError, naming the key, for every setting that asks for something else than resizing to a
        fixed size, rescaling and normalising three channels.
        """
        kind = config.get("image_processor_type") or config.get("feature_extractor_type") or "BlipImageProcessor"
        if not str(kind).startswith("Blip"):
            raise ValueError(f"image_processor_type: {kind} is not BLIP's")
        for step in _STEPS:
            if config.get(step, True) not in (True, None):
                raise ValueError(f"{step}: only true is supported, not {config[step]!r}")
        for step in config:
            if step.startswith("do_") and step not in _STEPS and config[step]:
                raise ValueError(f"{step}: not supported")
        try:
            resample = Image.Resampling(config.get("resample", Image.Resampling.BICUBIC))
        except ValueError as error:
            raise ValueError(f"resample: {config['resample']!r} is none of Pillow's filters") from error
        factor = config.get("rescale_factor", 1 / 255)
        if not _is_positive(factor):
            raise ValueError(f"rescale_factor: must be a positive number, not {factor!r}")
        return cls(
            size=_size(config.get("size", 384)),
            # OpenAI CLIP's statistics, which all published BLIP checkpoints use.
            mean=_channels("image_mean", config.get("image_mean", (0.48145466, 0.4578275, 0.40821073))),
            std=_channels("image_std", config.get("image_std", (0.26862954, 0.26130258, 0.27577711)), positive=True),
            rescale_factor=float(factor),
            resample=resample,
        )

    def __call__(self, picture: Picture) -> NDArray[np.float32]:
        """Return the model's input: float32 [3, height, width], C-contiguous.

        Raises ValueError for a picture that is not RGB; passes on what ``picture.crop`` raises.
        """
        height, width = self.size
        samples = np.asarray(self._after_first_pass(picture).resize((width, height), self.resample))
        pixel_values = np.empty((3, height, width), dtype=np.float32)
        for channel in range(3):
            # A byte cannot lie outside 256 entries; "clip" merely lets take() write to out without a buffer.
            np.take(self._table[channel], samples[..., channel], out=pixel_values[channel], mode="clip")
        return pixel_values

    def _after_first_pass(self, picture: Picture) -> Image.Image:
        """Return the picture with one of its sides as it shall be, the one that Pillow resizes first."""
        height, width = self.size
        full_width, full_height = picture.size
        # Pillow's own rule since version 13; another order rounds differently.
        if full_height - height > max(0, 2 * (full_width - width)):
            resized = Image.new("RGB", (full_width, height))
            step = max(1, _STRIP_PIXELS // full_height)
            for left in range(0, full_width, step):
                right = min(left + step, full_width)
                strip = _rgb(picture.crop((left, 0, right, full_height)))
                resized.paste(strip.resize((right - left, height), self.resample), (left, 0))
            return resized
        resized = Image.new("RGB", (width, full_height))
        step = max(1, _STRIP_PIXELS // full_width)
        for top in range(0, full_height, step):
            bottom = min(top + step, full_height)
            strip = _rgb(picture.crop((0, top, full_width, bottom)))
            resized.paste(strip.resize((width, bottom - top), self.resample), (0, top))
        return resized


def _rgb(strip: Image.Image) -> Image.Image:
    if strip.mode != "RGB":
        raise ValueError(f"a picture in mode RGB is needed, not {strip.mode}")
    return strip


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _size(size: object) -> tuple[int, int]:
    """Return (height, width) from what transformers accepts for a fixed size."""
    if type(size) is int:
        size = {"height": size, "width": size}
    if isinstance(size, Mapping):
        given = {key: value for key, value in size.items() if value is not None}
        sides = (given.get("height"), given.get("width"))
        if len(given) == 2 and all(isinstance(side, int) and side > 0 for side in sides):
            return int(given["height"]), int(given["width"])
    raise ValueError(f"size: must be one positive side or a height and a width, not {size!r}")


def _channels(key: str, values: object, *, positive: bool = False) -> tuple[float, float, float]:
    if not isinstance(values, Sequence) or len(values) != 3:
        raise ValueError(f"{key}: must be three numbers, not {values!r}")
    if not all(isinstance(value, int | float) and (value > 0 or not positive) for value in values):
        raise ValueError(f"{key}: must be three {'positive ' if positive else ''}numbers, not {values!r}")
    red, green, blue = (float(value) for value in values)
    return red, green, blue
