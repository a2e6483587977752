"""Replicas on several machines: they come and go with the load, and die, and callers who try again lose nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import requests

from tests.bad_servers import BadServer, say_nothing
from tests.conftest import EMOJI_MODEL, SAMPLES
from tests.distributed.conftest import Cluster, RayService, wait_until

CAPTIONS = json.loads((EMOJI_MODEL / "samples" / "captions.json").read_text())
PERMITS = 4
CALLERS = 8
"""More than one replica should have, and fewer than Serve lets wait."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(start_cluster: Callable[..., Cluster]) -> RayService:
    """Two machines with room for a replica each; the first has the only proxy."""
    cluster = start_cluster(cpus=1)
    cluster.add(cpus=1)
    size = {"max_replicas": 2, "target_ongoing_requests": 2, "upscale_delay_s": 0, "downscale_delay_s": 2}
    return RayService(
        cluster,
        arguments=size,
        MAX_CONCURRENT_REQUESTS=str(PERMITS),
        CACHE_MAX_ENTRIES="0",
        NUM_BEAMS="5",
        FETCH_ALLOW_PRIVATE_ADDRESSES="true",
        FETCH_ALLOWED_PORTS="*",
        FETCH_TIMEOUT_S="300",
        REQUEST_TIMEOUT_S="300",
    ).wait_until_ready()


class Load:
    """Callers who ask for one caption after the other, and try again after a refusal."""

    def __init__(self, service: RayService, callers: int) -> None:
        self.answers: list[requests.Response] = []
        self.broken: list[Exception] = []
        self.stopped = threading.Event()
        self._service = service
        self._threads = [threading.Thread(target=self._ask) for _ in range(callers)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self.stopped.is_set():
            try:
                self.answers.append(self._service.upload(SAMPLES[0].read_bytes()))
            except requests.RequestException as error:
                self.broken.append(error)

    def wait_for(self, captions: int) -> None:
        """Wait for so many more captions."""
        wanted = self.statuses()[200] + captions
        wait_until(lambda: self.statuses()[200] >= wanted)

    def statuses(self) -> Counter[int]:
        return Counter(answer.status_code for answer in self.answers)

    def stop(self) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def load(service: RayService, callers: int) -> Iterator[Load]:
    callers_at_work = Load(service, callers)
    try:
        yield callers_at_work
    finally:
        callers_at_work.stop()
    assert callers_at_work.broken == []
    captions = {answer.json()["output"] for answer in callers_at_work.answers if answer.status_code == 200}
    assert captions == {CAPTIONS[SAMPLES[0].name]}
    for answer in callers_at_work.answers:
        if answer.status_code != 200:
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json()["requestId"] == answer.headers["X-Request-Id"]
            assert answer.json()["code"] in ("overloaded", "shutting_down")


def wait_for_replicas(service: RayService, count: int) -> list[int]:
    wait_until(lambda: len(service.cluster.running()) == count)
    return service.cluster.running()


def permits_in_use(service: RayService) -> str:
    (found,) = re.findall(r"^captioning_permits_in_use (\S+)$", service.get("/metrics").text, re.MULTILINE)
    return str(found)


def test_a_caller_who_hangs_up_frees_the_permit(service: RayService) -> None:
    with BadServer(say_nothing) as images:
        body = b'{"imageUrl": "%s"}' % images.url("/a.jpg").encode()
        head = (
            b"POST /local-caption HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", service.port)) as caller:
            caller.sendall(head % len(body) + body)
            wait_until(lambda: permits_in_use(service) == "1.0")
        wait_until(lambda: permits_in_use(service) == "0.0")


def test_under_overload_there_are_captions_and_polite_refusals_and_nothing_else(service: RayService) -> None:
    with load(service, callers=80) as callers:  # one replica takes 4, lets 16 be refused at once, and 20 wait
        callers.wait_for(captions=60)
    statuses = callers.statuses()
    assert set(statuses) == {200, 429}


def test_a_second_replica_comes_with_the_load_and_goes_after_it(service: RayService) -> None:
    wait_for_replicas(service, 1)
    with load(service, CALLERS) as callers:
        pids = wait_for_replicas(service, 2)
        callers.wait_for(captions=20)
        assert len({service.cluster.machine_of(pid) for pid in pids}) == 2
    wait_for_replicas(service, 1)
    assert set(callers.statuses()) <= {200, 429}


def test_a_killed_replica_costs_only_what_it_had(service: RayService) -> None:
    with load(service, CALLERS) as callers:
        pids = wait_for_replicas(service, 2)
        callers.wait_for(captions=10)
        os.kill(pids[0], signal.SIGKILL)
        callers.wait_for(captions=20)
        wait_until(lambda: pids[0] not in service.cluster.running())
        wait_for_replicas(service, 2)
    statuses = callers.statuses()
    assert set(statuses) <= {200, 429, 503}
    assert statuses[503] <= CALLERS


DIES_AFTER_THE_HEAD = """
import asyncio
from distributed.proxy import SameAnswers

async def replica(scope, receive, send):
    headers = [(b"content-length", b"54"), (b"x-content-type-options", b"nosniff")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

async def send(message):
    print(message.get("status", ""), message.get("body", b"").decode())

asyncio.run(SameAnswers(replica)({"type": "http", "path": "/local-caption", "headers": []}, None, send))
"""


def test_a_replica_that_dies_after_the_head_of_its_answer_is_one_that_answered_nothing(service: RayService) -> None:
    answered = service.cluster.run("-c", DIES_AFTER_THE_HEAD)
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.split()[0] == "503"
    assert '"code":"shutting_down"' in answered.stdout


def test_a_new_deploy_under_load_fails_nobody(service: RayService) -> None:
    with load(service, CALLERS) as callers:
        before = set(wait_for_replicas(service, 2))
        service.deploy(LOG_LEVEL="WARNING")
        wait_until(lambda: bool(service.cluster.running()) and not before & set(service.cluster.replicas()))
        callers.wait_for(captions=10)
    assert set(callers.statuses()) <= {200, 429}


def test_a_machine_that_dies_costs_only_what_it_had(service: RayService) -> None:
    with load(service, CALLERS) as callers:
        wait_for_replicas(service, 2)
        callers.wait_for(captions=10)
        machine = service.cluster.nodes.pop()
        machine.kill()
        callers.wait_for(captions=20)
    statuses = callers.statuses()
    assert set(statuses) <= {200, 429, 503}
    assert statuses[503] <= CALLERS
