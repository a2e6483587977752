"""How far this process' memory grows over a piece of work."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.server import memory


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Yield a function that tells by how many bytes this process has grown at most, since the start."""
    # Memory that was freed but not returned would hide growth.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    base = memory(os.getpid())["VmRSS"]
    yield lambda: memory(os.getpid())["VmHWM"] - base
