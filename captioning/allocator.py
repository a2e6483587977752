"""glibc's memory allocator, told to give back what was freed.

By default it keeps a heap per thread, up to eight a CPU, and what pictures took in one is of no use to the others; and
once a block of megabytes was freed, blocks of that size no longer come from the kernel one by one, so they leave holes
that are never given back. Variables such as MALLOC_ARENA_MAX would cure both, but only where the start command has
them. Source: mallopt(3), environment variables and dynamic threshold included.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

# From malloc.h, which says that they will not change.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


@dataclass(frozen=True)
class _Option:
    parameter: int
    value: int


_OPTIONS = {
    "MALLOC_ARENA_MAX": _Option(_M_ARENA_MAX, 2),
    "MALLOC_MMAP_THRESHOLD_": _Option(_M_MMAP_THRESHOLD, 2**20),
    "MALLOC_TRIM_THRESHOLD_": _Option(_M_TRIM_THRESHOLD, 2**20),
}


def give_memory_back(environment: Mapping[str, str]) -> bool:
    """Set what ``environment`` leaves open; tell whether the allocator is glibc's: no other one takes these options.

    Call it before threads start, or in a process that forks those where they do.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    for variable, option in _OPTIONS.items():
        if variable not in environment:
            libc.mallopt(option.parameter, option.value)
    return True
