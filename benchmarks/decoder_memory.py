"""Measure the memory that decoding and preprocessing take, next to what the decoder tells in advance.

    python -m benchmarks.decoder_memory

Each picture is decoded in a process of its own; ``peak`` is how far its resident memory (VmHWM) grew above what
it was with the file's bytes in memory, ``told`` is ``OpenedImage.memory_bytes``. Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from captioning.model.preprocessor import Preprocessor
from captioning.pictures.decoder import open_image

FORTY = (8000, 5000)
TWELVE = (4000, 3000)

# Name, size, and how the picture is made and encoded.
CASES: list[tuple[str, tuple[int, int], str, dict[str, Any], Callable[[Image.Image], Image.Image]]] = [
    ("PNG RGB", FORTY, "PNG", {"compress_level": 1}, lambda image: image),
    ("PNG RGBA", FORTY, "PNG", {"compress_level": 1}, lambda image: with_alpha(image)),
    ("PNG LA", FORTY, "PNG", {"compress_level": 1}, lambda image: with_alpha(image.convert("L"))),
    ("PNG P", FORTY, "PNG", {"compress_level": 1}, lambda image: image.convert("P")),
    ("PNG 16-bit grey", FORTY, "PNG", {"compress_level": 1}, lambda image: sixteen_bits(image)),
    ("PNG RGBA turned", FORTY, "PNG", {"compress_level": 1, "exif": b"turned"}, lambda image: with_alpha(image)),
    ("GIF", FORTY, "GIF", {}, lambda image: image.convert("P")),
    ("BMP", FORTY, "BMP", {}, lambda image: image),
    ("TIFF LZW, strips", FORTY, "TIFF", {"compression": "tiff_lzw"}, lambda image: image),
    ("TIFF LZW, one strip", FORTY, "TIFF", {"compression": "tiff_lzw", "tiffinfo": {278: 5000}}, lambda image: image),
    ("JPEG", TWELVE, "JPEG", {}, lambda image: image),
    ("JPEG", FORTY, "JPEG", {}, lambda image: image),
    ("JPEG progressive", TWELVE, "JPEG", {"progressive": True}, lambda image: image),
    ("JPEG progressive", FORTY, "JPEG", {"progressive": True}, lambda image: image),
    ("JPEG CMYK", TWELVE, "JPEG", {}, lambda image: image.convert("CMYK")),
    ("JPEG CMYK progressive", TWELVE, "JPEG", {"progressive": True}, lambda image: image.convert("CMYK")),
    ("WebP lossy, alpha", TWELVE, "WEBP", {"method": 0}, lambda image: with_alpha(image)),
    ("WebP lossless", TWELVE, "WEBP", {"method": 0, "quality": 0, "lossless": True}, lambda image: image),
    ("AVIF 4:4:4, alpha", TWELVE, "AVIF", {"speed": 10, "subsampling": "4:4:4"}, lambda image: with_alpha(image)),
]  # fmt: skip


def with_alpha(image: Image.Image) -> Image.Image:
    """Add a gradient as transparency."""
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def sixteen_bits(image: Image.Image) -> Image.Image:
    """Widen grey to 16 bits."""
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def picture(size: tuple[int, int]) -> Image.Image:
    """Draw something that neither compresses to nothing nor takes long to encode."""
    small = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def status(key: str) -> int:
    """Return a figure of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure(path: Path) -> None:
    """Print, for the parent: the peak and the told bytes, the decoded pixels, and milliseconds."""
    preprocessor = Preprocessor.from_config({})
    preprocessor(Image.new("RGB", (8, 8)))
    data = path.read_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    base = status("VmRSS")
    begun = time.perf_counter()
    opened = open_image(data, target_size=384)
    preprocessor(opened.decode())
    elapsed = 1000 * (time.perf_counter() - begun)
    print(status("VmHWM") - base, opened.memory_bytes, opened.pixels, round(elapsed))


def measurements() -> Iterator[tuple[str, tuple[int, int], int, int, int, int]]:
    """Yield name, size, and the four figures of measure() for each case."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        for name, size, form, options, made in CASES:
            if options.get("exif") == b"turned":
                exif = Image.Exif()
                exif[0x0112] = 6
                options = options | {"exif": exif.tobytes()}
            made(picture(size)).save(path, form, **options)
            command = [sys.executable, "-m", "benchmarks.decoder_memory", str(path)]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
            peak, told, pixels, elapsed = map(int, ran.stdout.split())
            yield name, size, peak, told, pixels, elapsed


def main() -> None:
    """Print the table, or measure the one picture that is named."""
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
        return
    print("picture                    size         decoded      peak      told   used      time")
    for name, (width, height), peak, told, pixels, elapsed in measurements():
        print(
            f"{name:24}{width:6} x {height:4}{pixels / 1e6:8.1f} MP{peak / 2**20:7.0f} MB{told / 2**20:7.0f} MB"
            f"{peak / told:7.0%}{elapsed:7} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
