"""The decoder in a process of its own, so that a crash in a codec ends that process and not the tests.

    with DecoderProcess() as decoder:
        decoder.decode(data)    # Decoded(outcome="CorruptImage", pixels=…, told_bytes=…, peak_bytes=…, cpu_s=…)

What is decoded goes the way of a request: header, pixels, model's input.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from select import select
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 120
"""Far more than any picture takes on a busy machine; whoever needs longer hangs."""


class Decoded(NamedTuple):
    """What became of one picture.

    ``outcome`` is "picture", the name of one of the tree's errors, or the traceback of anything else;
    ``pixels`` and ``told_bytes`` what the decoder announced, 0 if it refused at the header; ``peak_bytes`` what memory
    grew by.
    """

    outcome: str
    pixels: int
    told_bytes: int
    peak_bytes: int
    cpu_s: float


class DecoderProcess:
    """Start the process, and start it again after a crash."""

    def __init__(self, *, max_pixels: int, target_size: int) -> None:
        self._arguments = [str(max_pixels), str(target_size)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed at the end of the block)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DecoderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._errors.close()

    def decode(self, data: bytes) -> Decoded:
        """Decode one picture; an AssertionError says that the process died, hung or printed something."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-X", "faulthandler", __file__, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=ROOT,
                env={"PYTHONPATH": str(ROOT)},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack("<Q", len(data)) + data)
        self._process.stdin.flush()
        answered = select([self._process.stdout], [], [], PATIENCE_S)[0]
        line = self._process.stdout.readline() if answered else b""
        if not line:
            status = self._end()
            raise AssertionError(f"{'died with' if answered else 'hung, killed with'} {status}\n{self._printed()}")
        printed = self._printed()
        assert not printed, printed
        return Decoded(*json.loads(line))

    def _end(self) -> int | None:
        if self._process is None:
            return None
        with self._process as process:  # closes the pipes, at which it ends unless it hangs
            self._process = None
            with suppress(OSError, subprocess.TimeoutExpired):
                process.communicate(timeout=5)
            process.kill()
        return process.returncode

    def _printed(self) -> str:
        self._errors.seek(0)
        printed = self._errors.read().decode(errors="replace")
        self._errors.truncate(0)
        return printed


def serve(max_pixels: int, target_size: int) -> None:
    """Decode what comes on the standard input, until it ends."""
    import ctypes
    import gc
    import traceback

    from PIL import Image

    from captioning.errors import UnusableImage
    from captioning.model.preprocessor import Preprocessor
    from captioning.pictures.decoder import open_image

    preprocessor = Preprocessor.from_config({"size": target_size})
    preprocessor(Image.new("RGB", (8, 8)))
    libc: Any = ctypes.CDLL(None)

    def decode(data: bytes) -> tuple[str, int, int]:
        told = 0, 0
        try:
            opened = open_image(data, max_pixels=max_pixels, target_size=target_size)
            told = opened.pixels, opened.memory_bytes
            preprocessor(opened.decode())
        except UnusableImage as error:
            return type(error).__name__, *told
        except BaseException:  # noqa: BLE001
            return traceback.format_exc(), *told
        return "picture", *told

    gc.freeze()  # what the imports made need not be looked through for every picture
    while length := sys.stdin.buffer.read(8):
        data = sys.stdin.buffer.read(struct.unpack("<Q", length)[0])
        # Memory that was freed but not returned would hide growth.
        gc.collect()
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        base, begun = status("VmRSS"), time.process_time()
        outcome, pixels, told = decode(data)
        cpu_s = time.process_time() - begun
        print(json.dumps((outcome, pixels, told, status("VmHWM") - base, cpu_s)), flush=True)


def status(key: str) -> int:
    """Return a figure of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:]))
