"""The stages together: what is asked of limits and time before anything is done."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial

import brotli
import pytest
from backports import zstd

from captioning.deadline import Deadline
from captioning.errors import DeadlineExceeded, ImageFetchFailed, Overloaded
from captioning.limits import Limits
from captioning.model.batcher import Batcher
from captioning.model.engine import GenerationOptions
from captioning.model.speed import BatchSeconds
from captioning.pictures.decoders import Decoders
from captioning.pipeline import EncodedPicture, Pipeline, make_pipeline
from captioning.settings import Settings
from captioning.trace import STAGES, Trace
from model_loader import Captioner, load_engine
from tests.bad_servers import BadServer, Connection, http_answer, say_nothing
from tests.conftest import EMOJI_MODEL, SAMPLES, wait_until

PICTURE = SAMPLES[0].read_bytes()
SETTINGS = Settings(
    model_id=str(EMOJI_MODEL),
    cache_max_entries=100,
    max_concurrent_requests=4,
    decode_processes=1,
    fetch_allow_private_addresses=True,
    fetch_allowed_ports=None,
)


@pytest.fixture(scope="module")
def batcher() -> Iterator[Batcher]:
    batcher = Batcher(max_batch_size=1)
    yield batcher
    batcher.close()


@pytest.fixture(scope="module")
def captioner(batcher: Batcher) -> Captioner:
    captioner = Captioner(lambda: load_engine(SETTINGS), batcher)
    captioner.start()
    wait_until(lambda: captioner.status == "ready")
    return captioner


@pytest.fixture
def limits() -> Limits:
    return Limits.from_settings(SETTINGS)


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with closing(Decoders.from_settings(SETTINGS)) as decoders:
        yield decoders


@pytest.fixture
def pipeline(captioner: Captioner, batcher: Batcher, limits: Limits, decoders: Decoders) -> Pipeline:
    return make_pipeline(SETTINGS, captioner, batcher, limits, decoders)


def caption(
    pipeline: Pipeline, limits: Limits, picture: bytes = PICTURE, *, seconds: float = 60, trace: Trace | None = None
) -> str:
    deadline = Deadline.after(seconds)
    with limits.bodies.hold() as hold:
        hold.grow(len(picture), deadline)
        best, *_ = pipeline.caption(
            EncodedPicture(picture, hold), GenerationOptions(), deadline=deadline, trace=trace or Trace()
        )
        return best.text


def test_an_upload_passes_its_stages_in_order(pipeline: Pipeline, limits: Limits) -> None:
    trace = Trace()
    assert caption(pipeline, limits, trace=trace).endswith("background")
    stages = [stage for stage in trace.seconds if stage in STAGES]
    assert stages == ["cache", "decoder_wait", "decode", "queue", "generate"]
    assert trace.seconds["encode"] + trace.seconds["decode_tokens"] <= trace.seconds["generate"]
    assert (trace.image_bytes, trace.image_format, trace.batch_size) == (len(PICTURE), "JPEG", 1)


def test_a_download_passes_its_stages_in_order(pipeline: Pipeline) -> None:
    trace = Trace()
    with BadServer(lambda connection: connection.send(http_answer(PICTURE))) as images:
        pipeline.caption(images.url("/a.jpg"), GenerationOptions(), deadline=Deadline.after(60), trace=trace)
    assert [stage for stage in trace.seconds if stage in STAGES] == [stage for stage in STAGES if stage != "receive"]


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": partial(zstd.compress, options={zstd.CompressionParameter.checksum_flag: 1}),
}


@pytest.mark.parametrize("coding", [*PACKERS, "none", "chunked"])
def test_a_download_that_lacks_its_end_is_captioned_if_the_picture_does_not(
    pipeline: Pipeline, limits: Limits, coding: str
) -> None:
    packed = PACKERS[coding](PICTURE) if coding in PACKERS else PICTURE

    def answer(connection: Connection) -> None:
        missing = int(connection.read_request().split()[1][1:])
        kept = packed[: len(packed) - missing]
        headers = [f"Content-Encoding: {coding}"] if coding in PACKERS else []
        if coding == "chunked":
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(packed) + kept)
        elif coding == "none":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(packed) + kept)
        else:
            connection.send(http_answer(kept, headers=headers))

    def ask(missing: int) -> str:
        url = images.url(f"/{missing}")
        best, *_ = pipeline.caption(url, GenerationOptions(), deadline=Deadline.after(60), trace=Trace())
        return best.text

    with BadServer(answer) as images:
        assert {ask(missing) for missing in (0, 1, 4, 8)} == {caption(pipeline, limits)}
        for missing in (len(packed) // 2, len(packed) - 20):
            with pytest.raises(ImageFetchFailed, match="ended the image early"):
                ask(missing)
    assert limits.pictures.in_use == 0


def test_a_known_picture_waits_neither_for_a_decoder_nor_for_the_model(pipeline: Pipeline, limits: Limits) -> None:
    made = caption(pipeline, limits)
    with limits.decoders.slot(Deadline.after(60)):
        trace = Trace()
        assert caption(pipeline, limits, trace=trace) == made
    assert (trace.cache, list(trace.seconds)) == ("hit", ["cache"])


def test_a_picture_waits_for_a_decoder(pipeline: Pipeline, limits: Limits) -> None:
    with ThreadPoolExecutor(1) as caller:
        with limits.decoders.slot(Deadline.after(60)):
            answer = caller.submit(caption, pipeline, limits)
            wait_until(lambda: limits.decoders.waiting == 1)
        assert answer.result(timeout=60).endswith("background")
    assert limits.decoders.in_use == 0


def test_a_url_waits_for_a_download_slot_and_is_not_refused(pipeline: Pipeline, limits: Limits) -> None:
    deadline = Deadline.after(60)
    with BadServer(lambda connection: connection.send(http_answer(PICTURE))) as images, ThreadPoolExecutor(1) as caller:
        with ExitStack() as others:
            for _ in range(limits.downloads.limit):
                others.enter_context(limits.downloads.slot(deadline))
            answer = caller.submit(
                pipeline.caption, images.url("/a.jpg"), GenerationOptions(), deadline=deadline, trace=Trace()
            )
            wait_until(lambda: limits.downloads.waiting == 1)
            assert images.requests == []
        assert answer.result(60)[0].text.endswith("background")


def test_encoded_bytes_are_given_back_before_the_model_s_turn(
    captioner: Captioner, limits: Limits, decoders: Decoders
) -> None:
    queue = Batcher(max_batch_size=1)  # nobody runs it
    pipeline = make_pipeline(SETTINGS, captioner, queue, limits, decoders)
    with ThreadPoolExecutor(4) as callers:
        pictures = [PICTURE + bytes([number]) for number in range(4)]
        answers = [callers.submit(caption, pipeline, limits, picture) for picture in pictures]
        wait_until(lambda: queue.waiting == 4)
        assert limits.bodies.in_use == 0
        queue.fail(Overloaded())
        assert all(isinstance(answer.exception(60), Overloaded) for answer in answers)


def test_a_caller_who_leaves_is_no_longer_waited_for(captioner: Captioner, limits: Limits, decoders: Decoders) -> None:
    queue = Batcher(max_batch_size=1)  # nobody runs it
    pipeline = make_pipeline(SETTINGS, captioner, queue, limits, decoders)
    gone: list[bool] = []
    deadline = Deadline(Deadline.after(3600).at, abandoned=lambda: bool(gone))
    with ThreadPoolExecutor(1) as caller, limits.bodies.hold() as hold:
        picture = EncodedPicture(PICTURE, hold)
        answer = caller.submit(pipeline.caption, picture, GenerationOptions(), deadline=deadline, trace=Trace())
        wait_until(lambda: queue.waiting == 1)
        gone.append(True)
        with pytest.raises(DeadlineExceeded, match="gone"):
            answer.result(60)
    assert queue.waiting == 0


def test_a_queue_that_is_too_long_refuses_a_url_before_its_download(
    captioner: Captioner, limits: Limits, decoders: Decoders
) -> None:
    speed = BatchSeconds()
    speed.learn(1, 100.0)
    queue = Batcher(max_batch_size=1, speed=speed)  # nobody runs it
    pipeline = make_pipeline(SETTINGS, captioner, queue, limits, decoders)
    with BadServer(say_nothing) as images, ThreadPoolExecutor(1) as caller:
        answer = caller.submit(caption, pipeline, limits)  # an idle model takes what comes first
        wait_until(lambda: queue.waiting == 1)
        with pytest.raises(Overloaded) as refused:
            pipeline.caption(images.url("/a"), GenerationOptions(), deadline=Deadline.after(60), trace=Trace())
        assert refused.value.retry_after_s == 200
        assert images.requests == []
        queue.fail(Overloaded())
        assert answer.exception(60)


def test_who_still_waits_for_the_model_at_the_deadline_may_come_again(
    captioner: Captioner, limits: Limits, decoders: Decoders
) -> None:
    """It was a 504, as of a model that took too long."""
    queue = Batcher(max_batch_size=1)  # nobody runs it
    pipeline = make_pipeline(SETTINGS, captioner, queue, limits, decoders)
    with limits.bodies.hold() as hold:
        picture = EncodedPicture(PICTURE, hold)
        with ThreadPoolExecutor(1) as pool:
            deadline = Deadline.after(5)
            answer = pool.submit(pipeline.caption, picture, GenerationOptions(), deadline=deadline, trace=Trace())
            wait_until(lambda: queue.waiting == 1)
            refused = answer.exception()
    assert isinstance(refused, Overloaded)
    assert refused.retry_after_s
    assert queue.waiting == 0
