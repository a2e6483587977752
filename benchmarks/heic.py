"""Measure what HEIC would cost a process that decodes: see docs/performance.md.

    pip install pi-heif && python -m benchmarks.heic photo.heic

pi-heif is pillow-heif's build without encoders, which has libheif and libde265 and no part under the GPL. Linux only.
"""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path

from PIL import Image

import captioning.pictures.decoder  # noqa: F401 - what a decoder process has already


def status(key: str) -> float:
    """Return a figure of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def measure(path: Path) -> None:
    """Print what importing takes, and what decoding one file takes."""
    resident, address_space = status("VmRSS"), status("VmSize")
    pi_heif = import_module("pi_heif")
    print(f"import: {status('VmRSS') - resident:.1f} MB, {status('VmSize') - address_space:.1f} MB of address space")
    pi_heif.register_heif_opener(thumbnails=False)
    pi_heif.options.DECODE_THREADS = 1
    Path("/proc/self/clear_refs").write_text("5")
    resident, begun = status("VmRSS"), time.process_time()
    with Image.open(path) as image:
        image.load()
        print(f"{image.width} x {image.height}: {status('VmHWM') - resident:.0f} MB", end=", ")
    print(f"{time.process_time() - begun:.2f} s of CPU")


if __name__ == "__main__":
    measure(Path(sys.argv[1]))
