"""The decoder processes: right pictures out, bounds that hold, and nobody else's failure whatever becomes of one."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks import server
from benchmarks.hostile_pictures import avif_larger_than_told
from benchmarks.worst_pictures import png
from captioning.deadline import Deadline
from captioning.errors import CorruptImage, DeadlineExceeded, ImageTooCostly, TooManyPixels, UnsupportedImage
from captioning.model.preprocessor import Preprocessor
from captioning.pictures.decoder import open_image
from captioning.pictures.decoder_handle import DecoderBugError
from captioning.pictures.decoders import Decoders
from captioning.pictures.wire import ANSWER, MAX_TEXT_BYTES
from captioning.settings import MIB
from tests.conftest import ROOT, wait_until
from tests.conftest import SAMPLES as SCENES
from tests.pictures.intruders import Intruder
from tests.sample_pictures import LARGE_SAMPLES, RARE_SAMPLES, SAMPLES, encoded

PICTURE = SAMPLES["png"]
SLOW = png()
"""40 megapixels, which take a second."""
BLIP = Preprocessor.from_config({})
SPIN = Intruder("while True: pass")
LIMITS: dict[str, Any] = {"processes": 1, "memory_bytes": 200 * MIB, "max_pixels": 40_000_000}


OTHERS: set[int] = set()
"""What tests before these have started and left running."""


@pytest.fixture(scope="module", autouse=True)
def note_others() -> None:
    OTHERS.update(children(os.getpid()))


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with closing(Decoders(**LIMITS)) as started:
        yield started


def decode(decoders: Decoders, data: bytes = PICTURE, preprocess: Any = BLIP, seconds: float = 30) -> NDArray[Any]:
    return decoders.decode(data, preprocess, Deadline.after(seconds)).pixel_values


def told(decoders: Decoders, source: str) -> str:
    """Run ``source`` in a decoder process and return what it calls ``told``."""
    with pytest.raises(CorruptImage) as caught:
        decode(decoders, preprocess=Intruder(source))
    return caught.value.detail or ""


def children(pid: int) -> set[int]:
    found = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return {int(child) for listed in found for child in listed}


def decoder_processes() -> set[int]:
    return server.decoder_processes(os.getpid()) - OTHERS


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def busy_one(known: set[int]) -> int:
    """Return the decoder process that holds most memory or time, once one of them is well in mid-picture."""
    while True:
        for pid in known:
            if state(pid) == "R" and server.memory(pid)["RssAnon"] > 60 * MIB:
                return pid
        time.sleep(0.005)


# ---- what comes out


@pytest.mark.parametrize("side", [112, 384])
def test_every_picture_comes_out_bit_for_bit_as_in_one_process(decoders: Decoders, side: int) -> None:
    preprocess = Preprocessor.from_config({"size": side})
    pictures = [*SAMPLES.values(), *RARE_SAMPLES.values(), *LARGE_SAMPLES.values(), *(p.read_bytes() for p in SCENES)]
    for data in pictures:
        found = decoders.decode(data, preprocess, Deadline.after(30))
        opened = open_image(data, target_size=side)
        expected = preprocess(opened.decode())
        assert (found.format, found.size) == (opened.format, opened.size)
        assert found.pixel_values.dtype == np.float32
        assert found.pixel_values.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"<svg/>", UnsupportedImage),
        (b"", UnsupportedImage),
        (PICTURE[:60], CorruptImage),
        (png(8000, 5001), TooManyPixels),
    ],
)
def test_a_refusal_comes_with_its_sentence_and_keeps_the_process(
    decoders: Decoders, data: bytes, kind: type[Exception]
) -> None:
    decode(decoders)
    before = decoder_processes()
    with pytest.raises(kind) as caught:
        decode(decoders, data)
    with pytest.raises(kind) as expected:
        open_image(data).decode()
    assert str(caught.value) == str(expected.value)
    assert decoder_processes() == before


def test_a_bug_is_told_with_its_traceback(decoders: Decoders) -> None:
    with pytest.raises(DecoderBugError, match="ZeroDivisionError"):
        decode(decoders, preprocess=Intruder("1 / 0"))


# ---- bounds


def test_memory_is_bounded(decoders: Decoders) -> None:
    source = "blocks = [bytearray(2**20) for _ in range({})]"
    assert decode(decoders, preprocess=Intruder(source.format(150))).shape == (3, 2, 2)
    with pytest.raises(ImageTooCostly):
        decode(decoders, preprocess=Intruder(source.format(250)))
    assert decode(decoders).shape == (3, 384, 384)


GREEDY = {
    "PNG": png(),
    "JPEG": encoded(Image.new("RGB", (4000, 3000)), "JPEG", progressive=True, subsampling=0),
    "WebP": encoded(Image.new("RGB", (3000, 2000)), "WEBP", method=0),
    "AVIF": encoded(Image.new("RGB", (4000, 3000)), "AVIF", speed=10),
    "TIFF": encoded(
        Image.new("RGB", (4000, 3000)), "TIFF", compression="tiff_adobe_deflate", tiffinfo={278: 3000, 274: 6}
    ),
    "AVIF larger than told": avif_larger_than_told(),
}


def test_a_picture_for_which_memory_does_not_suffice_is_told_from_a_damaged_one() -> None:
    with closing(Decoders(processes=1, memory_bytes=0, max_pixels=40_000_000)) as narrow:
        for data in GREEDY.values():
            with pytest.raises(ImageTooCostly):
                decode(narrow, data)
        for name in ("png", "jpeg", "webp", "avif", "gif", "tiff lzw"):
            with pytest.raises(CorruptImage):
                decode(narrow, SAMPLES[name][: len(SAMPLES[name]) // 2])


def test_processor_time_is_bounded() -> None:
    with closing(Decoders(**LIMITS, cpu_s=0.3)) as hasty:
        with pytest.raises(ImageTooCostly):
            decode(hasty, preprocess=SPIN)
        assert decode(hasty).shape == (3, 384, 384)


def test_the_deadline_ends_it(decoders: Decoders) -> None:
    with pytest.raises(DeadlineExceeded):
        decode(decoders, preprocess=SPIN, seconds=0.5)
    wait_until(lambda: [state(pid) for pid in decoder_processes()] == ["S", "S"])
    assert decode(decoders).shape == (3, 384, 384)


def test_it_ends_when_nobody_waits_any_more(decoders: Decoders) -> None:
    gone = threading.Event()
    threading.Timer(0.3, gone.set).start()
    with pytest.raises(DeadlineExceeded) as caught:
        decoders.decode(PICTURE, SPIN, replace(Deadline.after(600), abandoned=gone.is_set))
    assert caught.value.detail == "the client has gone"


@pytest.mark.parametrize(
    "source",
    [
        "import ctypes; ctypes.string_at(0)",
        "import os; os._exit(0)",
        "import os; os.abort()",
        *(f"import os; os.write(0, bytes.fromhex('{head.hex()}') + bytes(99))" for head in (
            ANSWER.pack(0, False, b"PNG", 1, 1, 10**12),
            ANSWER.pack(0, False, b"PNG", 1, 1, 3),
            ANSWER.pack(1, False, b"PNG", 1, 1, MAX_TEXT_BYTES + 1),
            ANSWER.pack(77, False, b"PNG", 1, 1, 3),
        )),
    ],
)  # fmt: skip
def test_a_crash_or_nonsense_is_the_pictures_own_failure(decoders: Decoders, source: str) -> None:
    with pytest.raises(ImageTooCostly):
        decode(decoders, preprocess=Intruder(source))
    assert decode(decoders).shape == (3, 384, 384)


def test_what_a_process_says_cannot_forge_a_line(decoders: Decoders) -> None:
    text = "hello\x1b[31m\x07\u202e"
    assert told(decoders, f"told = {text!r}") == "hello[31m\\u202e"


# ---- somebody else's signals


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_killed_or_stopped_in_mid_picture_costs_nobody_a_caption(number: signal.Signals) -> None:
    with closing(Decoders(**LIMITS)) as decoders, ThreadPoolExecutor(1) as caller:
        expected = decode(decoders, SLOW)
        others = decoder_processes()
        answer = caller.submit(decode, decoders, SLOW)
        os.kill(busy_one(others), number)
        assert answer.result().tobytes() == expected.tobytes()


def test_a_picture_whose_processes_are_killed_again_and_again_is_refused() -> None:
    with closing(Decoders(**LIMITS)) as decoders, ThreadPoolExecutor(1) as caller:
        decode(decoders)
        killed: set[int] = set()
        answer = caller.submit(decode, decoders, SLOW)
        while len(killed) < 2:
            pid = busy_one(decoder_processes() - killed)
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        with pytest.raises(ImageTooCostly):
            answer.result()
        assert decode(decoders).shape == (3, 384, 384)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_idle_processes_killed_or_stopped_are_replaced(number: signal.Signals) -> None:
    with closing(Decoders(**LIMITS)) as decoders:
        decode(decoders)
        decode(decoders)
        idle = decoder_processes()
        for pid in idle:
            os.kill(pid, number)
        wait_until(lambda: all(state(pid) in ("Z", "T") for pid in idle))
        assert decode(decoders).shape == (3, 384, 384)


def test_killing_leaves_no_zombies(decoders: Decoders) -> None:
    for _ in range(20):
        with pytest.raises(DeadlineExceeded):
            decode(decoders, preprocess=SPIN, seconds=0.15)
    decode(decoders)
    wait_until(lambda: sorted(map(state, children(os.getpid()) - OTHERS)) == ["S", "S"])


def test_a_failed_start_is_tried_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    starts = itertools.count()

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if next(starts) == 0:
                raise BlockingIOError("no process ids")
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    with closing(Decoders(**LIMITS)) as decoders:
        assert decode(decoders).shape == (3, 384, 384)
    assert "no process ids" in caplog.text


def test_waiting_for_a_process_ends_with_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    may_start = threading.Event()

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            may_start.wait()
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    leaving = iter([False] * 2)
    with closing(Decoders(**LIMITS)) as decoders, ExitStack() as before_that:
        before_that.callback(may_start.set)
        with pytest.raises(DeadlineExceeded, match="gone"):
            decoders.decode(PICTURE, BLIP, Deadline(math.inf, lambda: next(leaving, True)))


@pytest.mark.parametrize("stopped", [False, True])
def test_the_processes_end_with_a_killed_parent(stopped: bool) -> None:
    script = """
import os
import time
from benchmarks.server import decoder_processes
from captioning.deadline import Deadline
from captioning.pictures.decoders import Decoders
from tests.pictures.intruders import Intruder
from tests.sample_pictures import SAMPLES

decoders = Decoders(processes=1, memory_bytes=2**28, max_pixels=10**6)
decoders.start()
while len(decoder_processes(os.getpid())) < 2:
    time.sleep(0.01)
for _ in range(4):  # both take turns
    decoders.decode(SAMPLES["png"], Intruder(""), Deadline.after(30))
print("ready", flush=True)
decoders.decode(SAMPLES["png"], Intruder("while True: pass"), Deadline.after(30)) if {busy} else time.sleep(60)
"""
    script = script.format(busy=not stopped)
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        found = children(parent.pid)
        assert len(found) == 2
        if stopped:
            for pid in found:
                os.kill(pid, signal.SIGSTOP)
        parent.kill()
    wait_until(lambda: all(state(pid) in ("gone", "Z") for pid in found), timeout_s=4)


# ---- what it cannot do


def test_it_imports_nothing_that_serves_or_runs_a_model(decoders: Decoders) -> None:
    source = "import sys; told = ' '.join({name.partition('.')[0] for name in sys.modules})"
    found = set(told(decoders, source).split())
    assert "numpy" in found
    heavy = {"torch", "transformers", "onnxruntime", "flask", "werkzeug", "gunicorn", "requests", "urllib3"}
    assert not found & (heavy | {"pydantic", "redis", "prometheus_client", "ssl", "asyncio"})
    assert "captioning.pictures.decoders" not in found


def test_its_environment_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEYS", "HF_TOKEN", "CACHE_URL", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "secret")
    with closing(Decoders(**LIMITS)) as decoders:
        names = set(told(decoders, "import os; told = ' '.join(os.environ)").split())
        assert names <= {"PYTHONPATH", "OPENBLAS_NUM_THREADS", "LC_CTYPE"}


FORBIDDEN = {
    "read a file": "open('/etc/passwd')",
    "write a file": "open('/tmp/intruder', 'w')",
    "look at the parent": "open(f'/proc/{os.getppid()}/environ')",
    "listen or call": "socket.socket()",
    "call locally": "socket.socket(socket.AF_UNIX)",
    "fork": "os.fork() or os._exit(0)",
    "run a program": "os.execv('/bin/sh', ['sh', '-c', 'exit 0'])",
    "kill the parent": "os.kill(os.getppid(), 9)",
    "kill everything": "os.kill(-1, 9)",
    "lift a limit": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "copy a descriptor": "os.dup(0)",
    "list a folder": "os.listdir('/')",
    "remove a file": "os.unlink('/tmp/nothing')",
    "map a file": "os.memfd_create('x')",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_it_cannot(decoders: Decoders, what: str) -> None:
    source = f"""
import os, resource, socket
try:
    {FORBIDDEN[what]}
    told = "done"
except (OSError, ValueError) as error:
    told = type(error).__name__
"""
    assert told(decoders, source) in ("PermissionError", "OSError", "ValueError")


def test_the_kernel_limits_it_even_where_no_filter_is_allowed(decoders: Decoders) -> None:
    decode(decoders)
    decode(decoders)
    for pid in decoder_processes():
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
        hard = {line[:25].strip(): line[47:68].strip() for line in lines[1:]}
        assert hard["Max open files"] == "4"
        assert hard["Max cpu time"] == "3600"
        assert hard["Max file size"] == hard["Max core file size"] == hard["Max processes"] == "0"
        assert LIMITS["memory_bytes"] < int(hard["Max address space"]) < LIMITS["memory_bytes"] + 300 * MIB
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["NoNewPrivs"].strip() == "1"
        assert "0" not in status["Uid"].split()
        assert int(status["CapEff"], 16) == 0
        assert len(os.listdir(f"/proc/{pid}/task")) == 1
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"


def test_nothing_it_prints_reaches_anybody(decoders: Decoders, capfd: pytest.CaptureFixture[str]) -> None:
    assert told(decoders, "import os; os.write(1, b'out'); os.write(2, b'err'); told = 'printed'") == "printed"
    assert capfd.readouterr() == ("", "")
