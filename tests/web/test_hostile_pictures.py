"""Pictures that are small to send and dear to read, through the service as the smallest plan has it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

import pytest

from benchmarks.hostile_pictures import hostile_pictures
from benchmarks.memory import SMALL
from benchmarks.pictures import encoded, picture
from benchmarks.server import decoder_processes, memory
from benchmarks.worst_pictures import distinct, png, worst_pngs
from captioning.pictures.decoder_process import MAX_LEAK_BYTES
from captioning.settings import MIB
from tests.conftest import EMOJI_MODEL, SAMPLES, Service, wait_until

HOSTILE = hostile_pictures()
BOUND = int(SMALL["DECODE_PROCESSES"]) * (int(SMALL["DECODE_MEMORY_BYTES"]) + MAX_LEAK_BYTES)
MARGIN = 48 * MIB
"""For what the worker keeps of bodies, and the decoder processes that took their place."""


@pytest.fixture(scope="module", params=["torch", "int8"])
def small_service(request: pytest.FixtureRequest, start_service: Callable[..., Service]) -> Service:
    model = EMOJI_MODEL if request.param == "torch" else request.getfixturevalue("int8_folder")
    settings = {**SMALL, "CACHE_MAX_ENTRIES": "0", "REQUEST_TIMEOUT_S": "60"}
    service = start_service(**settings, ENGINE=request.param, MODEL_ID=str(model)).wait_until_ready()
    assert service.upload(SAMPLES[0].read_bytes()).status_code == 200
    return service


def own_memory(service: Service) -> int:
    """Return the bytes that the worker and its decoder processes have to themselves."""
    (worker,) = service.worker_pids()
    total = 0
    for pid in (worker, *decoder_processes(worker)):
        try:
            total += memory(pid).get("RssAnon", 0)
        except OSError:  # it has ended meanwhile
            continue
    return total


@contextmanager
def watched_memory(service: Service) -> Iterator[Callable[[], int]]:
    """Yield a function that tells how far the memory of all its processes has grown at most."""
    start, most, over = own_memory(service), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            most.append(own_memory(service))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: max(most) - start
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize("name", HOSTILE)
def test_one_costs_bounded_memory_and_its_sender_alone(small_service: Service, name: str) -> None:
    workers = small_service.worker_pids()
    with watched_memory(small_service) as growth, ThreadPoolExecutor(5) as callers:
        sent = [callers.submit(small_service.upload, distinct(HOSTILE[name], number)) for number in range(4)]
        other = callers.submit(small_service.upload, SAMPLES[1].read_bytes())
        while not all(answer.done() for answer in (*sent, other)):
            assert small_service.get("/healthz").status_code == 200
        statuses = {answer.result().status_code for answer in sent}
        assert statuses <= {200, 422}
        assert other.result().status_code == 200
        assert growth() < BOUND + MARGIN
    assert small_service.worker_pids() == workers


@pytest.mark.slow
def test_as_many_40_megapixel_pictures_as_are_let_in_stay_within_the_bounds(small_service: Service) -> None:
    workers = small_service.worker_pids()
    pngs = list(worst_pngs().values())
    at_once = int(SMALL["MAX_CONCURRENT_REQUESTS"])
    with watched_memory(small_service) as growth, ThreadPoolExecutor(at_once) as callers:
        answers = list(callers.map(small_service.upload, map(distinct, (pngs * at_once)[:at_once], count())))
        assert growth() < BOUND + MARGIN
    statuses = {answer.status_code for answer in answers}
    assert 200 in statuses
    assert statuses <= {200, 429, 504}
    assert small_service.worker_pids() == workers


PHOTOGRAPHS = {
    form: encoded(picture(4000, 3000), form, **options)
    for form, options in (("AVIF", {"speed": 10}), ("JPEG", {}), ("WEBP", {"method": 0}))
}


@pytest.mark.parametrize("form", PHOTOGRAPHS)
def test_an_ordinary_photograph_of_12_megapixels_is_captioned(small_service: Service, form: str) -> None:
    answer = small_service.upload(PHOTOGRAPHS[form])
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_decoder_process_killed_or_stopped_in_mid_picture_costs_nobody_a_caption(
    small_service: Service, number: signal.Signals
) -> None:
    slow, numbers = png(), count()
    (worker,) = small_service.worker_pids()
    small_service.upload(distinct(slow, next(numbers)))
    with ThreadPoolExecutor(2) as callers:
        answer = callers.submit(small_service.upload, distinct(slow, next(numbers)))
        known = decoder_processes(worker)
        wait_until(lambda: any(memory(pid).get("RssAnon", 0) > 80 * MIB for pid in known))
        busy = max(known, key=lambda pid: memory(pid)["RssAnon"])
        os.kill(busy, number)
        assert callers.submit(small_service.upload, SAMPLES[2].read_bytes()).result().status_code == 200
        assert answer.result().status_code == 200
    wait_until(lambda: busy not in decoder_processes(worker) and len(decoder_processes(worker)) == 2)
