"""Measure what it changes that pictures are read as sRGB, whatever colour space they are in: see docs/performance.md.

    python -m benchmarks.colour_spaces [--scenes 50]

Drawn scenes of the embedded model are stored in other colour spaces, so that a viewer which converts them shows the
same picture, and are captioned as they are read, unconverted. Then one large picture is converted by LittleCMS.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from captioning.cpus import available_cpus
from captioning.model.engine import GenerationOptions
from captioning.model.torch_engine import TorchEngine
from captioning.pictures.decoder import open_image
from tools.emoji_scenes import describe, draw, make_scene

Floats = NDArray[np.float64]
# Red, green and blue, each as x and y.
SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
P3 = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
BT2020 = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046)
_WHITE_NITS = 203
"""Of diffuse white in PQ (ITU-R BT.2408)."""


def to_xyz(primaries: tuple[float, ...]) -> Floats:
    """Return the matrix from linear RGB of these primaries, with D65 for white, to XYZ."""
    xy = np.array(primaries).reshape(3, 2).T
    columns = np.vstack([xy / xy[1], np.ones(3)])
    columns[2] = (1 - xy.sum(0)) / xy[1]
    columns[1] = 1
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return np.asarray(columns * np.linalg.solve(columns, white), np.float64)


def from_srgb(value: Floats) -> Floats:
    """Undo sRGB's curve (IEC 61966-2-1)."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def srgb(light: Floats) -> Floats:
    """Apply sRGB's curve."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def pq(light: Floats) -> Floats:
    """Apply the curve of SMPTE ST 2084."""
    power = (light * _WHITE_NITS / 10_000) ** 0.1593017578125
    return np.asarray(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375, np.float64)


def hlg(light: Floats) -> Floats:
    """Apply the curve of ITU-R BT.2100's HLG, with diffuse white at 75%."""
    light = light * 0.2645
    logarithm = 0.17883277 * np.log(np.maximum(12 * light - 0.28466892, 1e-9)) + 0.55991073
    return np.where(light <= 1 / 12, np.sqrt(3 * light), logarithm)


SPACES: dict[str, tuple[tuple[float, ...], Callable[[Floats], Floats]]] = {
    "Display P3": (P3, srgb),
    "Adobe RGB (1998)": (ADOBE, lambda light: np.asarray(light ** (256 / 563), np.float64)),
    "BT.2020, SDR": (BT2020, srgb),
    "BT.2020, PQ": (BT2020, pq),
    "BT.2020, HLG": (BT2020, hlg),
}


def stored(picture: Image.Image, space: str) -> Image.Image:
    """Return the samples that a file in this space has for a picture in sRGB."""
    primaries, curve = SPACES[space]
    light = from_srgb(np.asarray(picture, np.float64) / 255)
    light = light @ (np.linalg.inv(to_xyz(primaries)) @ to_xyz(SRGB)).T
    return Image.fromarray((curve(light.clip(0, 1)) * 255 + 0.5).astype(np.uint8))


def main() -> None:
    """Print a row for each space, and what a conversion costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=50)
    count = parser.parse_args().scenes
    engine = TorchEngine(Path("models/blip-emoji"), num_threads=available_cpus())
    options = GenerationOptions(max_new_tokens=20)

    def caption(picture: Image.Image) -> str:
        file = io.BytesIO()
        picture.save(file, "PNG")
        pixel_values = engine.preprocessor(open_image(file.getvalue()).decode())
        return engine.caption(pixel_values[None], options).candidates[0][0].text

    scenes = [make_scene(index, seed=11) for index in range(count)]
    pictures = [draw(scene, 384).convert("RGB") for scene in scenes]
    truths = [describe(scene) for scene in scenes]
    own = [caption(picture) for picture in pictures]
    print(f"sRGB: {sum(map(str.__eq__, own, truths))} of {count} captions are right")
    for space in SPACES:
        others = [stored(picture, space) for picture in pictures]
        captions = [caption(picture) for picture in others]
        differences = [np.abs(np.asarray(a, int) - np.asarray(b)) for a, b in zip(pictures, others, strict=True)]
        print(
            f"{space}: {sum(map(str.__eq__, captions, own))} of {count} captions are those of sRGB, "
            f"{sum(map(str.__eq__, captions, truths))} are right; levels differ by {np.mean(differences):.1f} on "
            f"average, {np.max(differences)} at most"
        )
    large = pictures[0].resize((4000, 3000))
    begun = time.process_time()
    simplest = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(simplest, simplest, "RGB", "RGB")
    ImageCms.applyTransform(large, transform, inPlace=True)
    print(f"LittleCMS, 12 megapixels: {time.process_time() - begun:.2f} s of CPU")


if __name__ == "__main__":
    main()
