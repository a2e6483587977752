"""Many pictures at once: the model is kept busy with full batches, and nothing that is done gets lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from captioning.cli.offline import OfflineRun
from captioning.cli.records import Outcome
from captioning.deadline import Deadline
from captioning.errors import CaptioningError, InternalError, UnsupportedImage
from captioning.model.engine import Generation, GenerationOptions, Pixels
from captioning.model.preprocessor import Preprocessor
from captioning.pictures.decoders import Decoders
from captioning.settings import Settings
from tests.candidates import made_up
from tests.conftest import SAMPLES, wait_until


class Slow:
    """An engine that takes its time without taking the CPU's, and fails where it is told to."""

    preprocessor = Preprocessor((16, 16), (0.5,) * 3, (0.5,) * 3, 1 / 255)

    def __init__(self, seconds: float = 0.0, *, failing_batch: int = -1) -> None:
        self.seconds = seconds
        self.failing_batch = failing_batch
        self.batches: list[int] = []
        self.done = threading.Semaphore(0)
        self.during: Callable[[int], object] = lambda size: None

    def check(self, options: GenerationOptions) -> None:
        pass

    def caption(self, pixel_values: Pixels, options: GenerationOptions) -> Generation:
        time.sleep(self.seconds)
        self.during(len(pixel_values))
        self.batches.append(len(pixel_values))
        if len(self.batches) == self.failing_batch:
            raise ZeroDivisionError
        self.done.release(len(pixel_values))
        return Generation([made_up(f"{pixels.mean():.3f}") for pixels in pixel_values], 0.0, 0.0)


@pytest.fixture
def copies(tmp_path: Path) -> list[str]:
    """Forty pictures, made different by a byte after their end."""
    paths = [tmp_path / f"{number:02}.jpg" for number in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(SAMPLES[number % len(SAMPLES)].read_bytes() + bytes([number]))
    return [str(path) for path in paths]


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Serve nothing: whoever asks waits until the test is over."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            over.wait(60)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/never.jpg"
        over.set()
        server.shutdown()


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with closing(Decoders.from_settings(Settings())) as decoders:
        decoders.decode(SAMPLES[0].read_bytes(), Slow.preprocessor, Deadline.after(60))  # the start is over
        yield decoders


@pytest.fixture
def offline(decoders: Decoders) -> Callable[..., OfflineRun]:
    def make(engine: Slow, outcomes: list[Outcome], settings: Settings | None = None) -> OfflineRun:
        return OfflineRun(engine, decoders, settings or Settings(), GenerationOptions(), report=outcomes.append)

    return make


def test_the_model_gets_full_batches_one_after_the_other(offline: Callable[..., OfflineRun], copies: list[str]) -> None:
    """The engine here ends no batch before the next one stands in line, read and decoded."""
    engine, outcomes = Slow(), list[Outcome]()
    run = offline(engine, outcomes)

    def wait_for_the_next(size: int) -> None:
        left = 40 - sum(engine.batches) - size
        wait_until(lambda: run._batcher.waiting >= min(4, left))

    engine.during = wait_for_the_next
    run.run(copies)
    assert [outcome.source for outcome in outcomes] == copies
    assert sum(engine.batches) == 40
    assert engine.batches[1:-1] == [4] * (len(engine.batches) - 2)


def test_outcomes_come_in_the_order_of_their_sources_though_one_takes_long(
    offline: Callable[..., OfflineRun], copies: list[str], silent_server: str
) -> None:
    outcomes = list[Outcome]()
    sources = [copies[0], silent_server, *copies[1:]]
    settings = Settings(fetch_allow_private_addresses=True, fetch_allowed_ports=None, fetch_timeout_s=1)
    offline(Slow(), outcomes, settings).run(sources)
    assert [outcome.source for outcome in outcomes] == sources
    assert [isinstance(outcome.result, CaptioningError) for outcome in outcomes] == [False, True, *[False] * 39]


def test_what_is_ready_when_it_is_stopped_is_reported_and_downloads_are_left_behind(
    offline: Callable[..., OfflineRun], copies: list[str], silent_server: str
) -> None:
    engine, outcomes = Slow(), list[Outcome]()
    settings = Settings(fetch_allow_private_addresses=True, fetch_allowed_ports=None, fetch_timeout_s=60)
    stoppable = offline(engine, outcomes, settings)
    running = threading.Thread(target=stoppable.run, args=([copies[0], silent_server, *copies[1:4]],))
    running.start()
    for _ in range(4):
        assert engine.done.acquire(timeout=30)
    stoppable.stop()
    running.join(timeout=30)
    assert not running.is_alive()
    assert [outcome.source for outcome in outcomes] == copies[:4]


def test_a_bug_in_one_batch_fails_only_its_pictures(
    offline: Callable[..., OfflineRun], copies: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    engine, outcomes = Slow(failing_batch=3), list[Outcome]()
    offline(engine, outcomes).run(copies)
    failed = [outcome for outcome in outcomes if isinstance(outcome.result, CaptioningError)]
    assert len(failed) == engine.batches[2]
    assert all(isinstance(outcome.result, InternalError) for outcome in failed)
    assert "ZeroDivisionError" in caplog.text


def test_what_the_report_raises_ends_the_run_soon(decoders: Decoders, copies: list[str]) -> None:
    engine = Slow(0.05)

    def report(outcome: Outcome) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        OfflineRun(engine, decoders, Settings(), GenerationOptions(), report=report).run(copies)
    assert sum(engine.batches) < 40


def test_nothing_to_do_is_done_at_once(offline: Callable[..., OfflineRun]) -> None:
    outcomes = list[Outcome]()
    offline(Slow(), outcomes).run([])
    assert outcomes == []


def test_only_bad_sources_never_trouble_the_model(offline: Callable[..., OfflineRun]) -> None:
    engine, outcomes = Slow(), list[Outcome]()
    offline(engine, outcomes).run([__file__])
    assert isinstance(outcomes[0].result, UnsupportedImage)
    assert engine.batches == []
