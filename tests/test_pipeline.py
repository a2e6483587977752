"""The stages together: what is asked of memory and time before anything is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from captioning.cache.captions import CaptionCache
from captioning.deadline import Deadline
from captioning.errors import DeadlineExceeded, Overloaded, TooManyPixels
from captioning.fetch.fetcher import Fetcher
from captioning.limits import Admission, MemoryBudget
from captioning.model.batcher import Batcher
from captioning.model.engine import GenerationOptions
from captioning.pipeline import Pipeline
from captioning.settings import Settings
from captioning.trace import Trace
from model_loader import Captioner, load_engine
from tests.conftest import EMOJI_MODEL, SAMPLES

PICTURE = SAMPLES[0].read_bytes()
ROOMY = MemoryBudget(100_000_000)


@pytest.fixture(scope="module")
def captioner() -> Iterator[Captioner]:
    batcher = Batcher(max_batch_size=1, max_waiting=64)
    captioner = Captioner(lambda: load_engine(Settings(model_id=str(EMOJI_MODEL))), batcher)
    captioner.start()
    while captioner.status == "loading":
        time.sleep(0.05)
    yield captioner
    batcher.close()


def caption(
    captioner: Captioner,
    picture: bytes = PICTURE,
    *,
    cache: CaptionCache | None = None,
    decoding: MemoryBudget = ROOMY,
    seconds: float = 30,
    trace: Trace,
) -> str:
    fetcher = Fetcher(
        connect_timeout_s=1,
        timeout_s=1,
        max_redirects=0,
        max_bytes=1,
        allowed_hosts=frozenset(),
        allowed_ports=frozenset(),
        allow_private_addresses=False,
        user_agent="test",
    )
    pipeline = Pipeline(
        fetcher,
        cache or CaptionCache(max_entries=0, ttl_s=1),
        captioner,
        downloads=Admission(1),
        decoding=decoding,
        max_image_pixels=1_000_000,
    )
    deadline = Deadline.after(seconds)
    with MemoryBudget(1).hold(deadline) as memory:
        return pipeline.caption(picture, GenerationOptions(), deadline=deadline, memory=memory, trace=trace)


def test_an_upload_passes_four_stages(captioner: Captioner) -> None:
    trace = Trace()
    assert caption(captioner, trace=trace).endswith("background")
    assert list(trace.seconds) == ["cache", "decode", "queue", "generate", "encode", "decode_tokens"]
    assert trace.seconds["encode"] + trace.seconds["decode_tokens"] <= trace.seconds["generate"]
    assert (trace.image_bytes, trace.image_format, trace.batch_size) == (len(PICTURE), "JPEG", 1)


def test_a_known_picture_takes_neither_decoding_memory_nor_the_model(captioner: Captioner) -> None:
    cache = CaptionCache(max_entries=1, ttl_s=60)
    decoding = MemoryBudget(30_000_000)
    made = caption(captioner, cache=cache, decoding=decoding, trace=Trace())
    with decoding.hold(Deadline.after(30)) as everything:
        everything.grow(decoding.total_bytes)
        trace = Trace()
        assert caption(captioner, cache=cache, decoding=decoding, trace=trace) == made
    assert (trace.cache, list(trace.seconds)) == ("hit", ["cache"])


def test_a_picture_that_needs_more_memory_than_there_is_is_refused(captioner: Captioner) -> None:
    with pytest.raises(TooManyPixels, match="JPEG"):
        caption(captioner, decoding=MemoryBudget(10_000), trace=Trace())


def test_decoding_waits_for_memory_and_gives_it_back(captioner: Captioner) -> None:
    decoding = MemoryBudget(30_000_000)
    with ThreadPoolExecutor(1) as caller:
        with decoding.hold(Deadline.after(30)) as everything:
            everything.grow(decoding.total_bytes)
            answer = caller.submit(caption, captioner, decoding=decoding, trace=Trace())
            assert not wait([answer], timeout=0.3).done
        assert answer.result(timeout=30).endswith("background")
    with decoding.hold(Deadline.after(1)) as everything:
        everything.grow(decoding.total_bytes)


def test_a_request_whose_time_is_up_is_answered_and_not_computed(captioner: Captioner) -> None:
    """Sixty ask at once and have the time of ten: some are captioned, the others are told."""
    started = time.monotonic()
    caption(captioner, trace=Trace())
    time_of_ten = 10 * (time.monotonic() - started)

    def one(number: int) -> str | None:
        try:  # a byte after its end makes another picture of it
            return caption(captioner, PICTURE + bytes([number]), seconds=time_of_ten, trace=Trace())
        except (DeadlineExceeded, Overloaded):
            return None

    with ThreadPoolExecutor(60) as callers:
        answers = list(callers.map(one, range(60)))
    assert 0 < answers.count(None) < 60
    assert caption(captioner, trace=Trace())
