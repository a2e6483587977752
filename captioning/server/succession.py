"""Who takes the place of a worker that leaves: told among a master, its workers, and the new master that SIGUSR2 makes.

gunicorn starts the next worker when one has ended, and tells no worker why it has to end. So what is needed to leave no
gap stands in memory and on a socket that all of them have from their first process.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import signal
import socket
import struct
import time
from contextlib import suppress
from functools import cache

from captioning.server.siblings import another_has_locked

_TO_SHOW_ITSELF_S = 5.0  # for a worker that was forked

_shared = mmap.mmap(-1, 16)
# Monotonic times: of the last fork, and of the newest one whose worker siblings see.
_LAST_FORK, _NEWEST_SEEN = 0, 8
_new_master = socket.socket(socket.AF_UNIX).detach()  # a descriptor, locked by the new master for as long as it lives


def announce_new_master() -> None:
    """Say, in the process that is about to become a new master, that its workers will serve."""
    os.set_inheritable(_new_master, True)
    with suppress(OSError):  # a kernel without locks on sockets
        fcntl.lockf(_new_master, fcntl.LOCK_SH)


class _Forks:
    """The forks of a master; a worker has its own one as the last."""

    def __init__(self) -> None:
        """Take note of all from now on: before they are made, so that no worker is told to leave in between."""
        self.last_at = 0.0
        self._noting = True
        os.register_at_fork(before=self._note, after_in_child=self._stop)

    def _note(self) -> None:
        if self._noting:
            self.last_at = time.monotonic()
            struct.pack_into("d", _shared, _LAST_FORK, self.last_at)

    def _stop(self) -> None:
        self._noting = False


_forks = cache(_Forks)  # not at the import, after which gunicorn may fork itself into the background


class Succession:
    """One worker's place in the order of workers; made in the master just before the fork."""

    def __init__(self) -> None:
        """Prepare."""
        self._forks = _forks()
        self._asked_at = math.inf
        self.granted = False  # in the master: whether one more worker was started since this one asked
        self._asked = mmap.mmap(-1, 1)  # the master reads it

    @property
    def asked(self) -> bool:
        """Tell, in the master too, whether one more worker was asked for to take this one's place."""
        return self._asked[0] != 0

    def ask(self, master: int) -> bool:
        """Have one more worker started, which gunicorn would do only when this one has gone; tell whether one was.

        It asks once: a master may be busy for minutes and would then start one for each signal. Where one is lost, the
        worker serves on until the next worker is started.
        """
        if not self.asked:
            self._asked[0] = 1
            self._asked_at = time.monotonic()
            os.kill(master, signal.SIGTTIN)
        return _at(_LAST_FORK) > self._asked_at

    def say_seen(self) -> None:
        """Let others look at what siblings of this worker see."""
        struct.pack_into("d", _shared, _NEWEST_SEEN, max(_at(_NEWEST_SEEN), self._forks.last_at))

    def is_one_forked(self) -> bool:
        """Tell whether a worker was forked that siblings do not see yet."""
        forked_at = _at(_LAST_FORK)
        return _at(_NEWEST_SEEN) < forked_at and time.monotonic() < forked_at + _TO_SHOW_ITSELF_S

    def has_new_master(self) -> bool:
        """Tell whether a new master lives, whose workers may not have been forked yet."""
        return another_has_locked(_new_master, 0)


def _at(place: int) -> float:
    (at,) = struct.unpack_from("d", _shared, place)
    return float(at)
