"""Instances of the service that share their captions, also while the cache server is gone."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.cache.conftest import CacheServer, eventually
from tests.conftest import SAMPLES, Service

CAPTIONS = json.loads((SAMPLES[0].parent / "captions.json").read_text())


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheServer]:
    server = CacheServer(tmp_path_factory.mktemp("redis"), requirepass="s3cret")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def instances(start_service: Callable[..., Service], shared_server: CacheServer) -> list[Service]:
    """Two instances without a memory of their own; one was imported before its worker was forked."""
    url = f"redis://:s3cret@127.0.0.1:{shared_server.port}"
    settings = {"CACHE_URL": url, "CACHE_MAX_ENTRIES": "0", "NUM_THREADS": "1"}
    preloaded = {"GUNICORN_CMD_ARGS": "--preload"}
    started = [start_service(**settings), start_service(**settings, **preloaded)]
    return [service.wait_until_ready() for service in started]


def log_lines(service: Service) -> list[str]:
    return [line for line in service.log.read_text().splitlines() if "The caption cache" in line]


def test_instances_share_their_captions(instances: list[Service], shared_server: CacheServer) -> None:
    """What the second answers was written by the first, and then, to see where it comes from, by this test."""
    first, second = instances
    picture = SAMPLES[0].read_bytes()
    made = first.upload(picture)
    assert (made.headers["X-Cache"], made.json()) == ("miss", {"output": CAPTIONS[SAMPLES[0].name]})
    (key,) = eventually(lambda: shared_server.ask("KEYS", "*"))
    written = json.loads(shared_server.ask("GET", key))
    assert written["candidates"][0]["text"] == CAPTIONS[SAMPLES[0].name]

    def rewritten(text: str) -> str:
        return json.dumps({**written, "candidates": [{**written["candidates"][0], "text": text}]})

    def answers_what_is_there() -> bool:
        shared_server.ask("SET", key, rewritten("from the other instance"))
        answer = second.upload(picture)
        return (answer.headers["X-Cache"], answer.json()) == ("hit", {"output": "from the other instance"})

    eventually(answers_what_is_there)
    for nonsense in ("x" * 7000, "a\u202ered gnorts", "two\nlines", ""):
        shared_server.ask("SET", key, rewritten(nonsense))
        answer = second.upload(picture)
        assert (answer.headers["X-Cache"], answer.json()) == ("miss", made.json())
    shared_server.ask("FLUSHALL")


def test_captions_go_on_through_the_cache_servers_outages(instances: list[Service], shared_server: CacheServer) -> None:
    """It hangs, goes on, dies and comes back under load: every answer is right, and the log has one line for each."""
    service = instances[0]
    work = [(sample.read_bytes(), CAPTIONS[sample.name]) for sample in SAMPLES]
    truths = {picture: service.upload(picture).json() for picture, _ in work}

    def rounds(number: int) -> list[requests.Response]:
        with ThreadPoolExecutor(4) as callers:
            answers = list(callers.map(service.upload, [picture for picture, _ in work] * number))
        assert [answer.json() for answer in answers] == list(truths.values()) * number
        return answers

    def is_shared() -> bool:
        return any(answer.headers["X-Cache"] == "hit" for answer in rounds(1))

    eventually(is_shared)
    shared_server.process.send_signal(signal.SIGSTOP)
    rounds(1)
    eventually(lambda: (service.upload(work[0][0]), len(log_lines(service)) == 1)[1])
    left_alone = rounds(1)
    assert {answer.headers["X-Cache"] for answer in left_alone} == {"miss"}
    shared_server.process.send_signal(signal.SIGCONT)
    eventually(is_shared)

    with ThreadPoolExecutor(1) as caller:
        meanwhile = caller.submit(rounds, 4)
        shared_server.kill()
        meanwhile.result()
    eventually(lambda: (rounds(1), len(log_lines(service)) == 3)[1])
    shared_server.start()
    eventually(is_shared)

    hung, over, gone, over_again = log_lines(service)
    assert "cannot be used: " in hung
    assert "cannot be used: " in gone
    assert "again." in over
    assert "again." in over_again
    for instance in instances:
        log = instance.log.read_text()
        assert "s3cret" not in log
        assert "Traceback" not in log
