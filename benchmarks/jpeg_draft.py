"""Measure what a JPEG's reduced scale does to the model's input, next to what one more JPEG encoding does.

    python -m benchmarks.jpeg_draft

For squares of k x 384 pixels at the reduced scale, k about 2, 3 and 4, and several kinds of picture, it prints
the difference between the 384 x 384 inputs (bicubic, as BLIP's processor resizes) that come from the reduced
and from the full decoding, on the scale of 0-255, and the same difference for the picture decoded, encoded
again at quality 85 and decoded in full. ``ratio`` compares the means. Milliseconds are for decoding.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TARGET = 384


@dataclass(frozen=True)
class Difference:
    """Between two model inputs: levels of 255."""

    largest: int
    mean: float

    @classmethod
    def between(cls, one: NDArray[np.int16], other: NDArray[np.int16]) -> Difference:
        difference = np.abs(one - other)
        return cls(int(difference.max()), float(difference.mean()))


@dataclass(frozen=True)
class Measurement:
    """One picture: what the reduced scale changes, what re-encoding changes, and how long decoding takes."""

    kind: str
    side: int
    scale: int
    reduced: Difference
    encoded_again: Difference
    full_ms: float
    reduced_ms: float

    @property
    def factor(self) -> float:
        """The side of the reduced picture over the side of the model's input."""
        return self.side / self.scale / TARGET


def photo(side: int) -> Image.Image:
    """Draw a picture with a photograph's spectrum (amplitude falls with frequency) and hard edges."""
    rng = np.random.default_rng(side)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / frequency**1.3
    plane = np.fft.irfft2(spectrum, s=(side, side))
    plane = (plane - plane.mean()) / plane.std()
    # Moved against each other, the planes are correlated in part, as colours are.
    picture = np.stack([plane + 0.4 * np.roll(plane, shift, (0, 1)) for shift in (0, 97, 211)], axis=-1)
    for _ in range(20):
        radius = int(rng.integers(side // 40, side // 6))
        top, left = rng.integers(0, side - 2 * radius, 2)
        y, x = np.mgrid[-radius:radius, -radius:radius]
        window = picture[top : top + 2 * radius, left : left + 2 * radius]
        disc = x**2 + y**2 < radius**2
        window[disc] = window[disc] * 0.3 + rng.uniform(-2, 2, 3)
    return Image.fromarray((picture * 50 + 128).clip(0, 255).astype(np.uint8))


def zone_plate(side: int) -> Image.Image:
    """Draw rings that hold every frequency up to the highest: the worst case for aliasing."""
    y, x = np.mgrid[0:side, 0:side]
    rings = np.cos(np.pi * ((x - side / 2) ** 2 + (y - side / 2) ** 2) / side)
    return Image.fromarray((127.5 + 127.5 * rings).astype(np.uint8)).convert("RGB")


def small_print(side: int) -> Image.Image:
    """Draw a page of small black text: the sharpest thing that people photograph or save as JPEG."""
    page = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=22)
    for line, top in enumerate(range(0, side, 26)):
        words = (f"{word * 7919 % 9973:x} Wimq{word % 7}&" for word in range(line, line + side // 60))
        draw.text((0, top), " ".join(words), "black", font)
    return page


def noise(side: int) -> Image.Image:
    """Draw independent pixels: all energy where the reduced scale cuts."""
    rng = np.random.default_rng(side)
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def red_and_blue_tiles(side: int) -> Image.Image:
    """Draw saturated tiles off the grid of blocks: the worst case for subsampled colour."""
    y, x = np.mgrid[0:side, 0:side]
    red = np.where((x // 9 + y // 13) % 2, 255, 0).astype(np.uint8)
    return Image.fromarray(np.stack([red, np.zeros_like(red), 255 - red], axis=-1))


KINDS: tuple[Callable[[int], Image.Image], ...] = (photo, small_print, zone_plate, noise, red_and_blue_tiles)


def measure(kind: Callable[[int], Image.Image], side: int, scale: int) -> Measurement:
    """Encode one picture at quality 90 and compare the ways to the model's input."""
    data = encode(kind(side), 90)
    begun = time.perf_counter()
    full = Image.open(io.BytesIO(data))
    full.load()
    full_ms = 1000 * (time.perf_counter() - begun)

    begun = time.perf_counter()
    reduced = Image.open(io.BytesIO(data))
    reduced.draft(None, (side // scale, side // scale))
    reduced.load()
    reduced_ms = 1000 * (time.perf_counter() - begun)

    reference = model_input(full)
    encoded_again = Image.open(io.BytesIO(encode(full, 85)))
    return Measurement(
        kind=kind.__name__,
        side=side,
        scale=scale,
        reduced=Difference.between(model_input(reduced), reference),
        encoded_again=Difference.between(model_input(encoded_again), reference),
        full_ms=full_ms,
        reduced_ms=reduced_ms,
    )


def encode(image: Image.Image, quality: int) -> bytes:
    """Encode as most JPEGs on the web are: colour at half resolution."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def model_input(image: Image.Image) -> NDArray[np.int16]:
    """Resize as BLIP's processor does, before it rescales and normalises."""
    return np.asarray(image.resize((TARGET, TARGET), Image.Resampling.BICUBIC)).astype(np.int16)


def measurements() -> Iterator[Measurement]:
    """Measure every kind at 1/2 around k = 2, 3 and 4, and at 1/4 around k = 3."""
    for side, scale in ((1540, 2), (2310, 2), (3080, 2), (4620, 4)):
        for kind in KINDS:
            yield measure(kind, side, scale)


def main() -> None:
    """Print the table."""
    print("   k  scale  kind                reduced: max  mean   encoded again: max  mean   ratio   full    reduced")
    for m in measurements():
        ratio = m.reduced.mean / m.encoded_again.mean
        print(
            f"{m.factor:4.2f}    1/{m.scale}  {m.kind:19}{m.reduced.largest:13d}  {m.reduced.mean:4.2f}"
            f"{m.encoded_again.largest:20d}  {m.encoded_again.mean:4.2f}{ratio:8.2f}"
            f"{m.full_ms:5.0f} ms{m.reduced_ms:7.0f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
