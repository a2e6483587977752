"""Which other processes serve the same address: told through locks on the listening socket itself.

A worker that leaves must know whether another one takes its place. All that accept on one socket, whichever master
started them, share it, so each marks its state by read locks on it, which only others can see, and which the kernel
drops with the process. They also go when the process closes any descriptor of the socket (fcntl(2), on record locks).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
from contextlib import suppress

# Bytes of the socket, each of which stands for a state.
_LOADS = 0  # will serve newcomers when its model is loaded
_READY = 1  # serves newcomers, and stays
_SERVES = 2  # serves newcomers, though it may be about to leave


_FLOCK = struct.Struct("hhqqi4x")  # Linux' struct flock: type, whence, start, length, process


class Siblings:
    """The states of the processes that share a listening socket, this one's among them; for several threads."""

    def __init__(self, listener: socket.socket) -> None:
        """Say that this process will serve."""
        self._listener = listener
        self._lock = threading.Lock()
        self._leaving = False
        with self._lock:
            self._mark(_LOADS)

    def say_ready(self) -> None:
        """Let siblings leave newcomers to this process, unless it leaves itself."""
        with self._lock:
            if not self._leaving:
                self._mark(_READY)
                self._mark(_SERVES)
                self._unmark(_LOADS)

    def say_leaving(self) -> None:
        """Be no longer counted on, though newcomers are still served."""
        with self._lock:
            self._leaving = True
            self._unmark(_LOADS)
            self._unmark(_READY)

    def say_closed(self) -> None:
        """Serve newcomers no more."""
        self.say_leaving()
        with self._lock:
            self._unmark(_SERVES)

    def any_ready(self) -> bool:
        """Tell whether another process serves newcomers and stays; asked by one that leaves."""
        return self._another_has(_READY)

    def any_loading(self) -> bool:
        """Tell whether another process will serve newcomers; asked by one that leaves."""
        return self._another_has(_LOADS)

    def any_serving(self) -> bool:
        """Tell whether another process can serve newcomers now; asked by one that cannot."""
        return self._another_has(_SERVES)

    def _mark(self, state: int) -> None:
        with suppress(OSError):  # a kernel without such locks: then each process is alone
            fcntl.lockf(self._listener, fcntl.LOCK_SH, 1, state)

    def _unmark(self, state: int) -> None:
        with suppress(OSError):
            fcntl.lockf(self._listener, fcntl.LOCK_UN, 1, state)

    def _another_has(self, state: int) -> bool:
        return another_has_locked(self._listener.fileno(), state)


def another_has_locked(descriptor: int, byte: int) -> bool:
    """Tell whether another process has a lock on a byte, without taking it: others may be asking, too."""
    try:
        found = fcntl.fcntl(descriptor, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    except OSError:
        return False
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)
