"""A process that turns encoded pictures into the model's input, one after the other, and can do nothing else.

`decoder_handle.py` starts it, as `python -m captioning.pictures.decoder_process`, with a socket as its standard input,
and it ends when that socket does. It imports nothing of what serves or runs a model: several of it run, so it must be
small.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import pickle
import select
import signal
import socket
import traceback
from importlib import import_module
from typing import NamedTuple

from PIL import Image

from captioning.errors import CorruptImage, ImageTooCostly, UnusableImage
from captioning.pictures import sandbox
from captioning.pictures.decoder import open_image
from captioning.pictures.formats import FORMATS
from captioning.pictures.wire import ANSWER, BUG, MAX_TEXT_BYTES, PICTURE, REFUSALS, SIZE, TOO_COSTLY, Setup

MAX_LEAK_BYTES = 32 * 2**20
"""What codecs do not give back of damaged pictures. A process that has lost more makes room for a new one."""
_REST_MS = 500

_errno_location = ctypes.CDLL(None).__errno_location
_errno_location.restype = ctypes.POINTER(ctypes.c_int)
_ERRNO: ctypes.c_int = _errno_location().contents
"""C's errno, of the one thread that there is. malloc sets it where it fails, and nothing that succeeds resets it."""


def serve(channel: socket.socket) -> None:
    """Decode what comes, until nothing comes any more."""
    packed = _receive(channel)
    if packed is None:
        return
    setup: Setup = pickle.loads(packed)  # noqa: S301 - the process that started this one sends it
    _finish_imports(setup)
    _silence()
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", lambda kept: 0)  # glibc's
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    space = sandbox.AddressSpace()
    sandbox.enter(space.start + MAX_LEAK_BYTES + setup.memory_bytes)
    gc.freeze()  # what the imports made need not be looked through for every picture
    ends = False
    while not ends and (data := _receive(channel)) is not None:
        signal.setitimer(signal.ITIMER_PROF, setup.cpu_s)  # SIGPROF ends the process
        answer = _answer(data, setup)
        signal.setitimer(signal.ITIMER_PROF, 0)
        del data
        gc.collect()
        if space.growth() > MAX_LEAK_BYTES:
            give_back(0)
            ends = space.growth() > MAX_LEAK_BYTES
        channel.sendall(ANSWER.pack(answer.code, ends, answer.format.encode(), *answer.size, len(answer.body)))
        channel.sendall(answer.body)
        del answer
        # Between two pictures in a row, giving memory back and asking for it again would take milliseconds.
        if not waiting.poll(_REST_MS):
            give_back(0)


class _Answer(NamedTuple):
    code: int
    body: bytes | memoryview
    format: str = ""
    size: tuple[int, int] = (0, 0)


def _answer(data: bytes, setup: Setup) -> _Answer:
    _ERRNO.value = 0
    try:
        opened = open_image(data, max_pixels=setup.max_pixels, target_size=max(setup.preprocess.size))
        pixel_values = setup.preprocess(opened.decode())  # [3, H, W]
        return _Answer(PICTURE, pixel_values.data.cast("B"), opened.format, opened.size)
    except UnusableImage as refusal:
        if isinstance(refusal, CorruptImage) and _ERRNO.value == errno.ENOMEM:
            # Most codecs say of memory that they did not get that the file is damaged.
            refusal = ImageTooCostly(detail=refusal.detail)
        code = next(code for code, kind in REFUSALS.items() if kind is type(refusal))
        return _Answer(code, _text(f"{refusal.message}\n{refusal.detail or ''}"))
    except MemoryError as error:
        return _Answer(TOO_COSTLY, _text(f"{ImageTooCostly.sentence}\n{error!r}"))
    except Exception:  # noqa: BLE001 - the serving process logs it
        return _Answer(BUG, _text(traceback.format_exc()[-MAX_TEXT_BYTES // 2 :]))


def _text(text: str) -> bytes:
    return text.encode("ascii", "backslashreplace")[:MAX_TEXT_BYTES]


def _receive(channel: socket.socket) -> bytes | None:
    """Return one message; None where there is none and will be none."""
    size = channel.recv(SIZE.size, socket.MSG_WAITALL)
    return channel.recv(SIZE.unpack(size)[0], socket.MSG_WAITALL) if size else None


def _finish_imports(setup: Setup) -> None:
    """Do what imports modules late: afterwards no file can be opened."""
    for row in FORMATS:
        import_module(row.plugin.rpartition(".")[0])
    setup.preprocess(Image.new("RGB", (8, 8), "white"))


def _silence() -> None:
    """Let nothing that C libraries print about a picture reach the service's log."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


if __name__ == "__main__":
    serve(socket.socket(fileno=0))
