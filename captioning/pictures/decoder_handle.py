"""One decoder process, as the serving process holds it: started, told, asked, watched and ended.

What it answers is believed only as far as `captioning.pictures.wire` says.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from captioning.deadline import Deadline
from captioning.errors import ImageTooCostly
from captioning.pictures.wire import ANSWER, BUG, MAX_TEXT_BYTES, PICTURE, REFUSALS, SIZE, Setup

_IT_ENDED = (BrokenPipeError, ConnectionResetError, EOFError)
_TICK_S = 0.05  # how often it is looked up whether somebody still waits


@dataclass(frozen=True)
class Decoded:
    """The model's input, float32 ``[3, H, W]``, and what the file says of itself: ``size`` is (width, height)."""

    pixel_values: NDArray[np.float32]
    format: str
    size: tuple[int, int]


class DecoderHandle:
    """A decoder process and the socket to it; ``clean`` is false from a picture's first byte to its whole answer."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-W", "ignore", "-m", "captioning.pictures.decoder_process"],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    # No secrets; modules where this process has them; no threads, which reserve address space.
                    env={"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
                    start_new_session=True,  # Ctrl-C on a terminal is for this process
                )
            except OSError:
                self._channel.close()
                raise
        self._setup: Setup | None = None
        self.clean = True

    def set_up(self, setup: Setup, deadline: Deadline) -> bool:
        """Tell the process what to do, once; return whether it is there to do that."""
        self.clean = False
        if self._is_running() and self._setup in (None, setup):
            with suppress(*_IT_ENDED):
                if self._setup is None:
                    self._send(pickle.dumps(setup), deadline)
                self._setup = setup
                self.clean = True
        return self.clean

    def decode(self, data: bytes, deadline: Deadline) -> Decoded:
        """Decode one picture; afterwards, unless ``clean``, the process is of no more use.

        Raises:
            UnusableImage: as the process says, or because it ended.
            DeadlineExceeded: the time is up, or the caller has gone.
            KilledFromOutside: somebody else killed or stopped it.
        """
        assert self._setup is not None
        self.clean = False
        try:
            self._send(data, deadline)
            return self._receive_answer(self._setup.preprocess.size, deadline)
        except _IT_ENDED:
            raise self._cause_of_death() from None

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self._process.kill()
        self._channel.close()

    def reap(self) -> None:
        """Wait until it has ended, and leave nothing of it behind."""
        self._process.wait()

    def _receive_answer(self, size: tuple[int, int], deadline: Deadline) -> Decoded:
        head = bytearray(ANSWER.size)
        self._receive_into(memoryview(head), deadline)
        code, ends, name, width, height, length = ANSWER.unpack(head)
        pixel_values = np.empty((3, *size), np.float32)
        if code == PICTURE and length == pixel_values.nbytes:
            self._receive_into(pixel_values.data.cast("B"), deadline)
            self.clean = not ends
            return Decoded(pixel_values, _sane(name.rstrip(b"\0")), (width, height))
        if length > MAX_TEXT_BYTES or code not in (*REFUSALS, BUG):
            raise ImageTooCostly(detail="its decoder process sent an answer of a wrong form")
        body = bytearray(length)
        self._receive_into(memoryview(body), deadline)
        if code == BUG:
            raise DecoderBugError(_sane(body))
        message, _, detail = _sane(body).partition("\n")
        refusal = REFUSALS[code]
        self.clean = not ends
        raise refusal(message, detail=detail or None)

    def _cause_of_death(self) -> Exception:
        with suppress(subprocess.TimeoutExpired):  # it hung up, or it was stopped
            self._process.wait(timeout=_TICK_S)
        status = self._process.returncode
        if status == -signal.SIGKILL or (status is None and not self._is_running()):
            return KilledFromOutside()
        return ImageTooCostly(detail=f"its decoder process ended with {status}")

    def _is_running(self) -> bool:
        """Tell whether it has neither ended nor been stopped."""
        either = os.WEXITED | os.WSTOPPED
        return os.waitid(os.P_PID, self._process.pid, either | os.WNOHANG | os.WNOWAIT) is None

    def _send(self, message: bytes, deadline: Deadline) -> None:
        for part in (SIZE.pack(len(message)), message):
            left = memoryview(part)
            while left:
                left = left[self._patiently(partial(self._channel.send, left), deadline) :]

    def _receive_into(self, left: memoryview, deadline: Deadline) -> None:
        while left:
            received = self._patiently(partial(self._channel.recv_into, left), deadline)
            if not received:
                raise EOFError
            left = left[received:]

    def _patiently(self, step: Callable[[], int], deadline: Deadline) -> int:
        """Do one step, however long it takes, as long as somebody waits for the picture."""
        while True:
            self._channel.settimeout(min(_TICK_S, deadline.remaining()))
            try:
                return step()
            except TimeoutError:
                deadline.check()
                if not self._is_running():
                    raise EOFError from None


def _sane(text: bytes | bytearray) -> str:
    """Return ASCII that can neither break a line nor steer a terminal, whatever the process sent."""
    return "".join(c for c in text.decode("ascii", "ignore") if c.isprintable() or c == "\n")


class KilledFromOutside(Exception):
    """The process was killed or stopped by an operator, or killed by the kernel for want of memory."""


class DecoderBugError(Exception):
    """A bug in a decoder process, with its traceback as text."""
