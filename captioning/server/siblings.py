"""Which other processes serve the same address: told through locks on the listening socket itself.

A worker that leaves must know whether another one takes its place. All that accept on one socket, whichever master
started them, share it, so each marks its state by read locks on it, which only others can see, and which the kernel
drops with the process. They also go when the process closes any descriptor of the socket (fcntl(2), on record locks).
"""

from __future__ import annotations

import fcntl
import socket
from contextlib import suppress

# Bytes of the socket, each of which stands for a state.
_STAYS = 0  # serves newcomers, or will when its model is loaded
_READY = 1  # stays, and can serve them now
_SERVES = 2  # can serve newcomers now, though it may be about to leave


class Siblings:
    """The states of the processes that share a listening socket, this one's among them."""

    def __init__(self, listener: socket.socket) -> None:
        """Say that this process will serve."""
        self._listener = listener
        self._mark(_STAYS)

    def say_ready(self) -> None:
        """Let siblings leave newcomers to this process."""
        self._mark(_READY)
        self._mark(_SERVES)

    def say_leaving(self) -> None:
        """Be no longer counted on, though newcomers are still served."""
        self._unmark(_STAYS, 2)

    def say_closed(self) -> None:
        """Serve newcomers no more."""
        self._unmark(_STAYS, 3)

    def any_ready(self) -> bool:
        """Tell whether another process serves newcomers and stays; asked by one that leaves."""
        return self._another_has(_READY)

    def any_staying(self) -> bool:
        """Tell whether another process serves newcomers, or will; asked by one that leaves."""
        return self._another_has(_STAYS)

    def any_serving(self) -> bool:
        """Tell whether another process can serve newcomers now; asked by one that cannot."""
        return self._another_has(_SERVES)

    def _mark(self, state: int) -> None:
        with suppress(OSError):  # a kernel without such locks: then each process is alone
            fcntl.lockf(self._listener, fcntl.LOCK_SH, 1, state)

    def _unmark(self, state: int, count: int = 1) -> None:
        with suppress(OSError):
            fcntl.lockf(self._listener, fcntl.LOCK_UN, count, state)

    def _another_has(self, state: int) -> bool:
        """Ask about a state that this process is not in: the way to see a lock is to try to take it."""
        try:
            fcntl.lockf(self._listener, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, state)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._unmark(state)
        return False
