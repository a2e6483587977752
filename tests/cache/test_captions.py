"""The caption cache: what a key tells apart, what is remembered and for how long, and who makes a caption."""

from __future__ import annotations

import gc
import json
import math
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

from captioning.cache.captions import CachedCaption, CacheEntry, CaptionCache, Leader
from captioning.cache.key import caption_key, files_sha256, picture_digest
from captioning.cache.url_digests import UrlDigests
from captioning.deadline import Deadline
from captioning.errors import CaptioningError, CorruptImage, DeadlineExceeded, InternalError, Overloaded, ShuttingDown
from captioning.model.engine import GenerationOptions
from captioning.trace import STAGES
from tests.candidates import made_up
from tests.conftest import EMOJI_MODEL, SAMPLES, Service, wait_until

PICTURE = SAMPLES[0].read_bytes()
CAPTIONS = json.loads((SAMPLES[0].parent / "captions.json").read_text())

Make = Callable[[], str]


class Clock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_cache(*, max_entries: int = 100) -> CaptionCache:
    return CaptionCache(max_entries=max_entries, ttl_s=3600)


def ask(cache: CaptionCache, key: str, make: Make, deadline: Deadline | None = None) -> CachedCaption:
    """Do as the pipeline does."""
    found = cache.look_up(key, deadline or Deadline.after(30))
    if isinstance(found, CachedCaption):
        return found
    with found:
        candidates = made_up(make())
        found.resolve(candidates)
    return CachedCaption(candidates, hit=False)


def never() -> str:
    raise AssertionError("this was to come from the cache")


def lead(cache: CaptionCache, key: str) -> Leader:
    """Be the one who makes a caption; nobody else may be making it."""
    found = cache.look_up(key, Deadline.after(0.2))
    assert isinstance(found, Leader)
    return found


@dataclass(frozen=True)
class WatchedDeadline(Deadline):
    """A deadline that tells which threads wait for something until then."""

    waiting: set[int] = field(default_factory=set)

    def poll_s(self) -> float:
        self.waiting.add(threading.get_ident())
        return super().poll_s()


@contextmanager
def waiting(
    cache: CaptionCache, key: str, number: int, make: Make, seconds: float = 30
) -> Iterator[list[Future[CachedCaption]]]:
    """Have many ask for a caption that is being made; go on once all of them wait for it."""
    deadline = WatchedDeadline(time.monotonic() + seconds)
    with ThreadPoolExecutor(number) as callers:
        answers = [callers.submit(ask, cache, key, make, deadline) for _ in range(number)]
        wait_until(lambda: len(deadline.waiting) == number)
        yield answers


def test_a_key_tells_apart_what_captions_depend_on() -> None:
    options, digest = GenerationOptions(), picture_digest(PICTURE)
    keys = [
        caption_key(digest, options, "model"),
        caption_key(picture_digest(PICTURE + b"\0"), options, "model"),
        caption_key(digest, options, "other model"),
        caption_key(digest, GenerationOptions(prompt="a"), "model"),
        caption_key(digest, GenerationOptions(max_new_tokens=19), "model"),
        caption_key(digest, GenerationOptions(num_beams=2), "model"),
    ]
    assert len(set(keys)) == len(keys)
    assert caption_key(picture_digest(PICTURE), GenerationOptions(), "model") == keys[0]


def test_a_models_files_are_known_by_their_content_alone(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(EMOJI_MODEL, copy)
    os.utime(copy / "model.safetensors", (1, 1))
    (copy / "README.md").write_text("another card")
    assert files_sha256(copy, (".safetensors",)) == files_sha256(EMOJI_MODEL, (".safetensors",))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert files_sha256(copy, (".safetensors",)) != files_sha256(EMOJI_MODEL, (".safetensors",))


def test_the_least_recently_used_caption_goes_first() -> None:
    cache = make_cache(max_entries=2)
    for key in ("a", "b", "a", "c"):
        ask(cache, key, lambda key=key: f"caption of {key}")  # type: ignore[misc]
    assert ask(cache, "a", never) == CachedCaption(made_up("caption of a"), hit=True)
    assert ask(cache, "c", never) == CachedCaption(made_up("caption of c"), hit=True)
    assert ask(cache, "b", lambda: "made again") == CachedCaption(made_up("made again"), hit=False)


def test_a_caption_is_forgotten_at_its_age() -> None:
    clock = Clock()
    cache = CaptionCache(max_entries=100, ttl_s=60, clock=clock)
    ask(cache, "a", lambda: "old")
    clock.now += 59
    assert ask(cache, "a", never) == CachedCaption(made_up("old"), hit=True)
    assert cache.get("a") == made_up("old")
    clock.now += 1
    assert cache.get("a") is None
    assert ask(cache, "a", lambda: "new") == CachedCaption(made_up("new"), hit=False)


@pytest.mark.parametrize("seconds", [60, 7200])
def test_a_shared_entry_gets_no_older_than_both_caches_allow(seconds: float) -> None:
    asked: list[str] = []

    class Store:
        def get(self, key: str) -> CacheEntry | None:
            asked.append(key)
            return CacheEntry(made_up("from the store"), seconds)

        def put(self, key: str, entry: CacheEntry) -> None:
            raise AssertionError("it came from there")

    clock = Clock()
    cache = CaptionCache(max_entries=10, ttl_s=3600, shared=Store(), clock=clock)
    for _ in range(3):
        assert ask(cache, "a", never) == CachedCaption(made_up("from the store"), hit=True)
    assert asked == ["a"]
    clock.now += min(seconds, 3600)
    assert ask(cache, "a", never) == CachedCaption(made_up("from the store"), hit=True)
    assert asked == ["a", "a"]


def test_a_urls_picture_is_known_for_a_while_and_so_is_its_caption() -> None:
    clock = Clock()
    urls = UrlDigests(max_entries=2, ttl_s=60, clock=clock)
    assert urls.get("https://a.example/") is None
    for name in "abac":
        urls.put(f"https://{name}.example/", picture_digest(name.encode()))
    known = {name: urls.get(f"https://{name}.example/") for name in "abc"}
    assert known == {"a": picture_digest(b"a"), "b": None, "c": picture_digest(b"c")}
    cache = make_cache()
    key = caption_key(known["a"] or b"", GenerationOptions(), "model")
    assert cache.get(key) is None
    ask(cache, key, lambda: "a caption")
    assert cache.get(key) == made_up("a caption")
    clock.now += 60
    assert urls.get("https://a.example/") is None
    nothing = UrlDigests(max_entries=0, ttl_s=60)
    nothing.put("https://a.example/", picture_digest(b"a"))
    assert nothing.get("https://a.example/") is None


@pytest.mark.parametrize("max_entries", [100, 0])
def test_a_caption_that_many_want_at_once_is_made_once(max_entries: int) -> None:
    cache = make_cache(max_entries=max_entries)
    with lead(cache, "a") as leader, waiting(cache, "a", 31, never) as answers:
        leader.resolve(made_up("a caption"))
        assert [answer.result(30) for answer in answers] == [CachedCaption(made_up("a caption"), hit=False)] * 31
    if max_entries:
        assert ask(cache, "a", never) == CachedCaption(made_up("a caption"), hit=True)
    else:
        assert ask(cache, "a", lambda: "made anew") == CachedCaption(made_up("made anew"), hit=False)


def test_different_captions_are_made_side_by_side() -> None:
    cache = make_cache()
    with lead(cache, "a"), lead(cache, "b"):
        assert ask(cache, "c", lambda: "of c") == CachedCaption(made_up("of c"), hit=False)


@pytest.mark.parametrize("own", [DeadlineExceeded(), ShuttingDown(), Overloaded(), SystemExit()])
def test_what_befell_one_request_does_not_befall_those_who_wait_for_it(own: BaseException) -> None:
    """One of them tries itself, and the others wait for that one."""
    cache = make_cache()
    made: list[int] = []

    def make() -> str:
        made.append(1)
        return "a caption"

    leader = lead(cache, "a")
    with waiting(cache, "a", 8, make) as answers, pytest.raises(type(own)), leader:
        raise own
    assert {answer.result(30).candidates[0].text for answer in answers} == {"a caption"}
    assert len(made) == 1


@pytest.mark.parametrize(
    ("error", "followers"),
    [
        (CorruptImage("Broken.", detail="at byte 5", retry_after_s=7), CorruptImage),
        (ZeroDivisionError("a bug"), InternalError),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "a bug whose class wants five arguments"), InternalError),
    ],
)
def test_a_bad_picture_and_a_bug_are_each_followers_own_error(
    error: Exception, followers: type[CaptioningError]
) -> None:
    """Each is raised an instance of its own, caused by the leader's. Errors are not remembered."""
    cache = make_cache()
    leader = lead(cache, "a")
    with waiting(cache, "a", 8, never) as answers, pytest.raises(type(error)) as raised, leader:
        raise error
    assert raised.value is error
    own = [answer.exception(30) for answer in answers]
    assert len({id(each) for each in [*own, error]}) == 9
    for each in own:
        assert type(each) is followers
        assert each.__cause__ is error
        if isinstance(error, CaptioningError):
            assert vars(each) == vars(error)
    assert ask(cache, "a", lambda: "mended") == CachedCaption(made_up("mended"), hit=False)


def test_who_waits_for_another_keeps_its_own_deadline() -> None:
    cache = make_cache()
    with lead(cache, "a") as leader:
        with waiting(cache, "a", 4, never, seconds=0.5) as answers:
            assert {type(answer.exception(30)) for answer in answers} == {DeadlineExceeded}
        leader.resolve(made_up("late, but made"))
    assert ask(cache, "a", never) == CachedCaption(made_up("late, but made"), hit=True)


def test_who_waits_for_another_leaves_when_its_caller_has_gone() -> None:
    cache = make_cache()
    with lead(cache, "a"), pytest.raises(DeadlineExceeded, match="the client has gone"):
        cache.look_up("a", Deadline(math.inf, abandoned=lambda: True))


def test_a_leader_that_is_done_does_not_end_the_next_ones_turn() -> None:
    cache = make_cache(max_entries=0)
    with lead(cache, "a") as first:
        first.resolve(made_up("first"))
        second = lead(cache, "a")
    with second, waiting(cache, "a", 2, never) as answers:
        second.resolve(made_up("second"))
        assert {answer.result(30).candidates[0].text for answer in answers} == {"second"}


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

        with suppress(*failures, InternalError):
            assert ask(cache, key, make).candidates[0].text == f"caption of {key}"

    with ThreadPoolExecutor(32) as callers:
        list(callers.map(one, range(3000)))
    assert len(cache._entries) <= 5
    assert not cache._leaders


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
        (truth, "miss", [*STAGES]),
        (truth, "hit", ["receive", "download_wait", "fetch", "cache"]),
        (truth, "hit", ["receive", "cache"]),
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
