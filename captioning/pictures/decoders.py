"""The decoder processes, as the serving process sees them: bytes in, the model's input or a refusal out.

    decoders = Decoders(processes=2, memory_bytes=320 * 2**20, max_pixels=40_000_000)
    decoders.decode(data, preprocess, deadline).pixel_values    # float32 [3, H, W]

A process holds one picture at a time. It is killed when that takes too much time or memory, or when nobody waits for it
any more, and the next one is ready by then. pebble and concurrent.futures have pools too, but these unpickle whatever
their processes answer, and in concurrent.futures one process that dies fails everybody's work.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from captioning.deadline import Deadline
from captioning.errors import DeadlineExceeded, ImageTooCostly
from captioning.pictures.wire import ANSWER, BUG, MAX_TEXT_BYTES, PICTURE, REFUSALS, SIZE, Preprocess, Setup
from captioning.settings import Settings

log = logging.getLogger("captioning.decoders")

CPU_LIMIT_S = 5.0
"""Of processor time, for one picture; see benchmarks/decoders.py for what sound ones take."""

_TICK_S = 0.05  # how often it is looked up whether somebody still waits
_ATTEMPTS = 2  # a process that somebody else kills is no fault of the picture's, the first time


@dataclass(frozen=True)
class Decoded:
    """The model's input, float32 ``[3, H, W]``, and what the file says of itself: ``size`` is (width, height)."""

    pixel_values: NDArray[np.float32]
    format: str
    size: tuple[int, int]


class Decoders:
    """Keep one process more than may be busy, so that no picture waits for a start."""

    def __init__(self, *, processes: int, memory_bytes: int, max_pixels: int, cpu_s: float = CPU_LIMIT_S) -> None:
        """Prepare for ``processes`` pictures at a time, of ``memory_bytes`` each; `start`, or the first one, starts."""
        self._limits = (memory_bytes, cpu_s, max_pixels)
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._spent: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
        self._count = processes + 1
        self._starter = threading.Thread(target=self._keep_starting, name="decoders", daemon=True)
        self._starting = threading.Lock()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Prepare for as many as the settings ask for."""
        return cls(
            processes=settings.decode_processes,
            memory_bytes=settings.decode_memory_bytes,
            max_pixels=settings.max_image_pixels,
        )

    def start(self) -> None:
        """Start the processes, unless that was done: in the process that serves, never before a fork."""
        with self._starting:
            if self._starter.ident is None:
                self._starter.start()

    def close(self) -> None:
        """End the processes that are idle; call it when none is busy, and start nothing afterwards."""
        self.start()
        self._spent.put(None)
        self._starter.join()
        while not self._idle.empty():
            process = self._idle.get()
            process.kill()
            process.reap()

    def decode(self, data: bytes, preprocess: Preprocess, deadline: Deadline) -> Decoded:
        """Decode one picture.

        Raises:
            UnusableImage: it cannot be decoded, or not within the limits.
            DeadlineExceeded: the time is up, or the caller has gone.
        """
        self.start()
        setup = Setup(*self._limits, preprocess)
        for _ in range(_ATTEMPTS):
            with self._process(setup, deadline) as process:
                try:
                    return process.decode(data, deadline)
                except _KilledFromOutside:
                    continue
        raise ImageTooCostly(detail=f"its decoder process was killed {_ATTEMPTS} times")

    @contextmanager
    def _process(self, setup: Setup, deadline: Deadline) -> Iterator[_Process]:
        """Hold a process; put it back if it is as good as before, or else have it replaced."""
        while True:
            try:
                process = self._idle.get(timeout=deadline.remaining())
            except queue.Empty:
                raise DeadlineExceeded(detail="waited for a decoder process") from None
            try:
                if process.set_up(setup, deadline):
                    yield process
                    return
            finally:
                if process.clean:
                    self._idle.put(process)
                else:
                    process.kill()
                    self._spent.put(process)

    def _keep_starting(self) -> None:
        # One thread starts them all: a decoder process is killed when the thread ends that started it.
        for _ in range(self._count):
            self._idle.put(_start())
        while (spent := self._spent.get()) is not None:
            spent.reap()
            self._idle.put(_start())


class _Process:
    """One decoder process and the socket to it; ``clean`` is false from a picture's first byte to its whole answer."""

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
            with suppress(BrokenPipeError):
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
            _KilledFromOutside: somebody else killed or stopped it.
        """
        assert self._setup is not None
        self.clean = False
        try:
            self._send(data, deadline)
            return self._receive_answer(self._setup.preprocess.size, deadline)
        except (BrokenPipeError, ConnectionResetError, EOFError):
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
            raise ImageTooCostly(detail="its decoder process talks nonsense")
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
            return _KilledFromOutside()
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


def _start() -> _Process:
    while True:
        try:
            return _Process()
        except OSError as error:  # no memory, no process ids: what passes
            log.error("A decoder process cannot be started: %s", error)
            time.sleep(1)


def _sane(text: bytes | bytearray) -> str:
    """Return ASCII that can neither break a line nor steer a terminal, whatever the process sent."""
    return "".join(c for c in text.decode("ascii", "ignore") if c.isprintable() or c == "\n")


class _KilledFromOutside(Exception):
    """The process was killed or stopped by an operator, or killed by the kernel for want of memory."""


class DecoderBugError(Exception):
    """A bug in a decoder process, with its traceback as text."""
