"""The decoder processes, as the serving process sees them: bytes in, the model's input or a refusal out.

    decoders = Decoders(processes=2, memory_bytes=320 * 2**20, max_pixels=40_000_000)
    decoders.decode(data, preprocess, deadline).pixel_values    # float32 [3, H, W]

A process holds one picture at a time. It is killed when that takes too much time or memory, or when nobody waits for it
any more, and the next one is ready by then. pebble and concurrent.futures have pools too, but these unpickle whatever
their processes answer, and in concurrent.futures one process that dies fails everybody's work.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from captioning.deadline import Deadline
from captioning.errors import ImageTooCostly
from captioning.pictures.decoder_handle import Decoded, DecoderHandle, KilledFromOutside
from captioning.pictures.wire import Preprocess, Setup
from captioning.settings import Settings

log = logging.getLogger("captioning.decoders")

CPU_LIMIT_S = 5.0
"""Of processor time, for one picture; see benchmarks/decoders.py for what sound ones take."""

_ATTEMPTS = 2  # a process that somebody else kills is no fault of the picture's, the first time


class Decoders:
    """Keep one process more than may be busy, so that no picture waits for a start."""

    def __init__(self, *, processes: int, memory_bytes: int, max_pixels: int, cpu_s: float = CPU_LIMIT_S) -> None:
        """Prepare for ``processes`` pictures at a time, of ``memory_bytes`` each; `start`, or the first one, starts."""
        self._limits = (memory_bytes, cpu_s, max_pixels)
        self._idle: queue.SimpleQueue[DecoderHandle] = queue.SimpleQueue()
        self._spent: queue.SimpleQueue[DecoderHandle | None] = queue.SimpleQueue()
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
        if self._starter.ident is None:
            return
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
                except KilledFromOutside:
                    continue
        raise ImageTooCostly(detail=f"its decoder process was killed {_ATTEMPTS} times")

    @contextmanager
    def _process(self, setup: Setup, deadline: Deadline) -> Iterator[DecoderHandle]:
        """Hold a process; put it back if it is as good as before, or else have it replaced."""
        line, patience_s = deadline.in_line(), 0.0
        while True:
            try:
                process = self._idle.get(timeout=patience_s)
            except queue.Empty:
                patience_s = line.poll_s()
                continue
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


def _start() -> DecoderHandle:
    while True:
        try:
            return DecoderHandle()
        except OSError as error:  # no memory, no process ids: what passes
            log.error("A decoder process cannot be started: %s", error)
            time.sleep(1)
