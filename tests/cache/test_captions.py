"""The caption cache: what a key tells apart, what is remembered and for how long, and who makes a caption."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from captioning.cache.captions import CaptionCache, Flight, Kept, Known
from captioning.cache.key import caption_key, files_sha256
from captioning.deadline import Deadline
from captioning.errors import CorruptImage, DeadlineExceeded, Overloaded, ShuttingDown
from captioning.model.engine import GenerationOptions
from tests.conftest import EMOJI_MODEL, SAMPLES, Service

PICTURE = SAMPLES[0].read_bytes()
CAPTIONS = json.loads((SAMPLES[0].parent / "captions.json").read_text())

Make = Callable[[], str]


def make_cache(*, max_entries: int = 100, ttl_s: float = 3600) -> CaptionCache:
    return CaptionCache(max_entries=max_entries, ttl_s=ttl_s)


def ask(cache: CaptionCache, key: str, make: Make, deadline: Deadline | None = None) -> Known:
    """Do as the pipeline does."""
    found = cache.look_up(key, deadline or Deadline.after(30))
    if isinstance(found, Known):
        return found
    with found:
        caption = make()
        found.land(caption)
    return Known(caption, hit=False)


def never() -> str:
    raise AssertionError("this was to come from the cache")


def take_off(cache: CaptionCache, key: str) -> Flight:
    """Be the one who makes a caption; nobody else may be making it."""
    found = cache.look_up(key, Deadline.after(0.2))
    assert isinstance(found, Flight)
    return found


@dataclass(frozen=True)
class WatchedDeadline(Deadline):
    """A deadline that tells when somebody is about to wait for it."""

    waits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def remaining(self) -> float:
        self.waits.release()
        return super().remaining()


@contextmanager
def waiting(
    cache: CaptionCache, key: str, number: int, make: Make, seconds: float = 30
) -> Iterator[list[Future[Known]]]:
    """Have many ask for a caption that is being made; go on once all of them wait for it."""
    deadline = WatchedDeadline(time.monotonic() + seconds)
    with ThreadPoolExecutor(number) as callers:
        answers = [callers.submit(ask, cache, key, make, deadline) for _ in range(number)]
        for _ in range(number):
            assert deadline.waits.acquire(timeout=30)
        yield answers


def test_a_key_tells_apart_what_captions_depend_on() -> None:
    options = GenerationOptions()
    keys = [
        caption_key(PICTURE, options, "model"),
        caption_key(PICTURE + b"\0", options, "model"),
        caption_key(PICTURE, options, "other model"),
        caption_key(PICTURE, GenerationOptions(prompt="a"), "model"),
        caption_key(PICTURE, GenerationOptions(max_new_tokens=19), "model"),
        caption_key(PICTURE, GenerationOptions(num_beams=2), "model"),
    ]
    assert len(set(keys)) == len(keys)
    assert caption_key(bytes(PICTURE), GenerationOptions(), "model") == keys[0]


def test_a_models_files_are_known_by_their_content_alone(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(EMOJI_MODEL, copy)
    os.utime(copy / "model.safetensors", (1, 1))
    (copy / "README.md").write_text("another card")
    assert files_sha256(copy) == files_sha256(EMOJI_MODEL)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert files_sha256(copy) != files_sha256(EMOJI_MODEL)


def test_the_least_recently_used_caption_goes_first() -> None:
    cache = make_cache(max_entries=2)
    for key in ("a", "b", "a", "c"):
        ask(cache, key, lambda key=key: f"caption of {key}")  # type: ignore[misc]
    assert ask(cache, "a", never) == Known("caption of a", hit=True)
    assert ask(cache, "c", never) == Known("caption of c", hit=True)
    assert ask(cache, "b", lambda: "made again") == Known("made again", hit=False)


def test_a_caption_is_forgotten_at_its_age() -> None:
    cache = make_cache(ttl_s=0.5)
    ask(cache, "a", lambda: "old")
    time.sleep(0.6)
    assert ask(cache, "a", lambda: "new") == Known("new", hit=False)


def test_what_a_store_keeps_grows_no_older_here_than_there() -> None:
    asked: list[str] = []

    class Store:
        def get(self, key: str) -> Kept | None:
            asked.append(key)
            return Kept("from the store", 0.5)

        def put(self, key: str, kept: Kept) -> None:
            raise AssertionError("it came from there")

    cache = CaptionCache(max_entries=10, ttl_s=3600, shared=Store())
    for _ in range(3):
        assert ask(cache, "a", never) == Known("from the store", hit=True)
    assert asked == ["a"]
    time.sleep(0.6)
    assert ask(cache, "a", never) == Known("from the store", hit=True)
    assert asked == ["a", "a"]


@pytest.mark.parametrize("max_entries", [100, 0])
def test_a_caption_that_many_want_at_once_is_made_once(max_entries: int) -> None:
    cache = make_cache(max_entries=max_entries)
    with take_off(cache, "a") as flight, waiting(cache, "a", 31, never) as answers:
        flight.land("a caption")
        assert [answer.result(30) for answer in answers] == [Known("a caption", hit=False)] * 31
    if max_entries:
        assert ask(cache, "a", never) == Known("a caption", hit=True)
    else:
        assert ask(cache, "a", lambda: "made anew") == Known("made anew", hit=False)


def test_different_captions_are_made_side_by_side() -> None:
    cache = make_cache()
    with take_off(cache, "a"), take_off(cache, "b"):
        assert ask(cache, "c", lambda: "of c") == Known("of c", hit=False)


@pytest.mark.parametrize("own", [DeadlineExceeded(), ShuttingDown(), Overloaded(), SystemExit()])
def test_what_befell_one_request_does_not_befall_those_who_wait_for_it(own: BaseException) -> None:
    """One of them tries itself, and the others wait for that one."""
    cache = make_cache()
    made: list[int] = []

    def make() -> str:
        made.append(1)
        return "a caption"

    flight = take_off(cache, "a")
    with waiting(cache, "a", 8, make) as answers, pytest.raises(type(own)), flight:
        raise own
    assert {answer.result(30).caption for answer in answers} == {"a caption"}
    assert len(made) == 1


@pytest.mark.parametrize("everyones", [CorruptImage(), ZeroDivisionError("a bug")])
def test_a_bad_picture_and_a_bug_are_told_to_all_and_not_remembered(everyones: Exception) -> None:
    cache = make_cache()
    flight = take_off(cache, "a")
    with waiting(cache, "a", 8, never) as answers, pytest.raises(type(everyones)), flight:
        raise everyones
    assert {type(answer.exception(30)) for answer in answers} == {type(everyones)}
    assert ask(cache, "a", lambda: "mended") == Known("mended", hit=False)


def test_who_waits_for_another_keeps_its_own_deadline() -> None:
    cache = make_cache()
    with take_off(cache, "a") as flight:
        with waiting(cache, "a", 4, never, seconds=0.5) as answers:
            assert {type(answer.exception(30)) for answer in answers} == {DeadlineExceeded}
        flight.land("late, but made")
    assert ask(cache, "a", never) == Known("late, but made", hit=True)


def test_a_flight_that_ended_does_not_end_the_next_one() -> None:
    cache = make_cache(max_entries=0)
    with take_off(cache, "a") as first:
        first.land("first")
        second = take_off(cache, "a")
    with second, waiting(cache, "a", 2, never) as answers:
        second.land("second")
        assert {answer.result(30).caption for answer in answers} == {"second"}


def test_a_failure_does_not_keep_the_picture_in_memory() -> None:
    """Not even until the garbage collector comes: pictures are megabytes, and failures can be many."""

    class Picture:
        pass

    kept: list[weakref.ref[Picture]] = []
    all_ask = threading.Barrier(4)

    def one(_: int) -> None:
        picture = Picture()
        kept.append(weakref.ref(picture))

        def make() -> str:
            raise CorruptImage(detail=repr(picture))

        all_ask.wait(30)
        with suppress(CorruptImage):
            ask(cache, "a", make)

    cache = make_cache()
    gc.disable()
    try:
        with ThreadPoolExecutor(4) as callers:
            list(callers.map(one, range(40)))
        assert [picture() for picture in kept] == [None] * 40
    finally:
        gc.enable()


def test_nothing_is_mixed_up_or_left_behind_when_much_fails() -> None:
    cache = make_cache(max_entries=5)
    failures = (CorruptImage, DeadlineExceeded, Overloaded, KeyError)

    def one(number: int) -> None:
        key = f"key {number % 7}"
        fate = random.Random(number)

        def make() -> str:
            time.sleep(0.001 * fate.random())
            if fate.random() < 0.3:
                raise fate.choice(failures)
            return f"caption of {key}"

        with suppress(*failures):
            assert ask(cache, key, make).caption == f"caption of {key}"

    with ThreadPoolExecutor(32) as callers:
        list(callers.map(one, range(3000)))
    assert len(cache._entries) <= 5
    assert not cache._flights


@pytest.fixture(scope="module")
def caching_service(start_service: Callable[..., Service]) -> Service:
    return start_service(FETCH_ALLOW_PRIVATE_ADDRESSES="true", FETCH_ALLOWED_PORTS="*").wait_until_ready()


def stages(response: requests.Response) -> list[str]:
    return [part.split(";")[0] for part in response.headers["Server-Timing"].split(", ")]


def test_a_picture_is_captioned_once_however_it_comes(caching_service: Service, image_server: str) -> None:
    """By URL, as an upload, again: what counts are the bytes."""
    asked = {"imageUrl": f"{image_server}/samples/{SAMPLES[0].name}"}
    first = caching_service.post(json=asked)
    again = caching_service.post(json=asked)
    uploaded = caching_service.upload(PICTURE)
    answers = [(answer.json(), answer.headers["X-Cache"], stages(answer)) for answer in (first, again, uploaded)]
    truth = {"output": CAPTIONS[SAMPLES[0].name]}
    assert answers == [
        (truth, "miss", ["fetch", "cache", "decode", "queue", "generate"]),
        (truth, "hit", ["fetch", "cache"]),
        (truth, "hit", ["cache"]),
    ]
    shorter = caching_service.upload(PICTURE, params={"maxNewTokens": 3})
    assert (shorter.headers["X-Cache"], len(shorter.json()["output"].split())) == ("miss", 3)


def test_twenty_who_upload_one_picture_at_once_run_the_model_once(caching_service: Service) -> None:
    sample = SAMPLES[1]
    picture = sample.read_bytes()
    with ThreadPoolExecutor(20) as callers:
        answers = list(callers.map(caching_service.upload, [picture] * 20))
    assert [answer.json() for answer in answers] == [{"output": CAPTIONS[sample.name]}] * 20
    assert sum("generate" in stages(answer) for answer in answers) == 1


def test_an_error_is_a_miss_each_time_and_what_comes_before_the_cache_says_nothing(caching_service: Service) -> None:
    for _ in range(2):
        broken = caching_service.upload(PICTURE[:3000])
        assert (broken.status_code, broken.headers["X-Cache"]) == (422, "miss")
    assert "X-Cache" not in caching_service.post(json={}).headers
    assert "X-Cache" not in caching_service.get("/healthz").headers


def test_without_memory_each_request_is_a_miss(service: Service) -> None:
    """The service that all tests share runs with CACHE_MAX_ENTRIES=0."""
    answers = [service.upload(PICTURE) for _ in range(3)]
    assert [(answer.headers["X-Cache"], "generate" in stages(answer)) for answer in answers] == [("miss", True)] * 3
    assert len({answer.text for answer in answers}) == 1
