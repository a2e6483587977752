"""glibc's memory allocator, told to give back what was freed.

- By default it keeps heaps for up to eight threads a CPU, and what pictures took in one is of no use to the others.
- By default, after a block of megabytes was freed, it takes blocks of that size out of a heap, where they leave holes,
  and no longer from the kernel one by one. A threshold that is set stays, even at the value from which it would grow.

Variables such as MALLOC_ARENA_MAX do the same, but only where the start command has them.
Source: mallopt(3), on environment variables and on the dynamic threshold.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

# From malloc.h.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_MAX_HEAPS = 2


def give_memory_back(environment: Mapping[str, str], *, block_bytes: int) -> bool:
    """Set what ``environment`` leaves open; tell whether the allocator is glibc's: no other one takes these options.

    Call it before threads start, or in a process that forks the one where they do.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    options = {
        "MALLOC_ARENA_MAX": (_M_ARENA_MAX, _MAX_HEAPS),
        "MALLOC_MMAP_THRESHOLD_": (_M_MMAP_THRESHOLD, block_bytes),
    }
    for variable, (parameter, value) in options.items():
        if variable not in environment:
            libc.mallopt(parameter, value)
    return True
