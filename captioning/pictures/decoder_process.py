"""A process that turns encoded pictures into the model's input, one after the other, and can do nothing else.

`decoders.py` starts it, as `python -m captioning.pictures.decoder_process`, with a socket as its standard input, and it
ends when that socket does. It imports nothing of what serves or runs a model: several of it run, so it must be small.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import select
import signal
import socket
import traceback
from importlib import import_module

from PIL import Image

from captioning.errors import ImageTooCostly, UnusableImage
from captioning.pictures import sandbox
from captioning.pictures.decoder import OpenedImage, open_image
from captioning.pictures.formats import FORMATS
from captioning.pictures.wire import ANSWER, BUG, MAX_TEXT_BYTES, PICTURE, REFUSALS, SIZE, Setup

_CODES: dict[type[UnusableImage], int] = {refusal: code for code, refusal in REFUSALS.items()}
_REST_MS = 500


def serve(channel: socket.socket) -> None:
    """Decode what comes, until nothing comes any more."""
    packed = _receive(channel)
    if packed is None:
        return
    setup: Setup = pickle.loads(packed)  # noqa: S301 - the process that started this one sends it
    _finish_imports(setup)
    _silence()
    libc = ctypes.CDLL(None)
    readable = select.poll()
    readable.register(channel, select.POLLIN)
    sandbox.enter(setup.memory_bytes)
    gc.freeze()  # what the imports made need not be looked through for every picture
    while (data := _receive(channel)) is not None:
        signal.setitimer(signal.ITIMER_PROF, setup.cpu_s)  # SIGPROF ends the process
        head, body = _answer(data, setup)
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel.sendall(head)
        channel.sendall(body)
        del data, body
        gc.collect()
        # Between two pictures in a row, giving memory back and asking for it again would take milliseconds.
        if not readable.poll(_REST_MS) and hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


def _answer(data: bytes, setup: Setup) -> tuple[bytes, memoryview | bytes]:
    opened: OpenedImage | None = None
    try:
        opened = open_image(data, max_pixels=setup.max_pixels, target_size=max(setup.preprocess.size))
        pixel_values = setup.preprocess(opened.decode())  # [3, H, W]
    except UnusableImage as refusal:
        return _refusal(opened, _CODES[type(refusal)], f"{refusal.message}\n{refusal.detail or ''}")
    except MemoryError as error:
        return _refusal(opened, _CODES[ImageTooCostly], f"{ImageTooCostly.sentence}\n{error!r}")
    except Exception:  # noqa: BLE001 - the serving process logs it
        return _refusal(opened, BUG, traceback.format_exc()[-MAX_TEXT_BYTES // 2 :])
    return _head(opened, PICTURE, pixel_values.nbytes), pixel_values.data.cast("B")


def _refusal(opened: OpenedImage | None, code: int, text: str) -> tuple[bytes, bytes]:
    body = text.encode("ascii", "backslashreplace")[:MAX_TEXT_BYTES]
    return _head(opened, code, len(body)), body


def _head(opened: OpenedImage | None, code: int, length: int) -> bytes:
    name, size = (opened.format, opened.size) if opened else ("", (0, 0))
    return ANSWER.pack(code, name.encode(), *size, length)


def _receive(channel: socket.socket) -> bytes | None:
    """Return one message; None where there is none and will be none."""
    size = channel.recv(SIZE.size, socket.MSG_WAITALL)
    return channel.recv(SIZE.unpack(size)[0], socket.MSG_WAITALL) if size else None


def _finish_imports(setup: Setup) -> None:
    """Do what imports modules late: afterwards no file can be opened."""
    for row in FORMATS:
        import_module(f"PIL.{row.plugin.partition('.')[0]}")
    setup.preprocess(Image.new("RGB", (8, 8), "white"))


def _silence() -> None:
    """Let nothing that C libraries print about a picture reach the service's log."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


if __name__ == "__main__":
    serve(socket.socket(fileno=0))
