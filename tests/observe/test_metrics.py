"""Metrics: right over several workers, also over dead ones; bounded, explained, and used as they are."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPResponse
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from app import create_app
from captioning.byte_budget import ByteBudget
from captioning.deadline import Deadline
from captioning.lifecycle import Readiness
from captioning.limits import Limits, Permits, Slots
from captioning.model.batcher import Batcher
from captioning.model.engine import GenerationOptions
from captioning.observe.metrics import Metrics
from captioning.settings import Settings
from captioning.trace import Trace
from tests.bad_servers import BadServer, Connection
from tests.conftest import EMOJI_MODEL, ROOT, SAMPLES, Service, wait_until

PICTURE = SAMPLES[0].read_bytes()
FOLDERS = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp")
DASHBOARD = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
ALERTS = [
    rule for group in yaml.safe_load((ROOT / "docs" / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]


class Scrape:
    """Hold what /metrics answered."""

    def __init__(self, text: str) -> None:
        self.families: dict[str, Metric] = {family.name: family for family in text_string_to_metric_families(text)}
        samples = [sample for family in self.families.values() for sample in family.samples]
        self.series = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}

    def value(self, name: str, **labels: str) -> float:
        """Add up the series of that name with at least these labels."""
        wanted = set(labels.items())
        return sum(
            value for (found, has), value in self.series.items() if found == f"captioning_{name}" and wanted <= has
        )

    def labels(self, name: str, label: str) -> set[str]:
        return {dict(has)[label] for found, has in self.series if found == f"captioning_{name}"}

    def names(self) -> set[str]:
        """Return the metrics' names as one writes them in a query, histograms without their suffixes."""
        return {name + "_total" * (family.type == "counter") for name, family in self.families.items()}


def scrape(service: Service) -> Scrape:
    answer = service.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(answer.text)


def wait_for(service: Service, condition: Callable[[Scrape], bool]) -> Scrape:
    end = time.monotonic() + 60
    while not condition(seen := scrape(service)):
        assert time.monotonic() < end, seen.series
        time.sleep(0.1)
    return seen


@pytest.fixture(scope="module")
def pair(start_service: Callable[..., Service]) -> Service:
    """Two workers, both ready, after some captions."""
    fetching = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*", "MAX_CONCURRENT_REQUESTS": "8"}
    service = start_service(WEB_CONCURRENCY="2", NUM_THREADS="1", **fetching).wait_until_ready()
    wait_for(service, lambda seen: seen.value("model_state", status="ready") == 2)
    service.get("/healthz")
    return service


def test_counts_add_up_over_workers(pair: Service) -> None:
    before = scrape(pair)
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda number: pair.upload(PICTURE + bytes([number])), range(40)))
    for number in range(5):
        pair.post(data=b"{", headers={"Content-Type": "application/json", "X-Request-Id": f"bad-{number}"})
    after = scrape(pair)

    def grown(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    statuses = Counter(answer.status_code for answer in answers)
    captioned = statuses[200]
    assert captioned >= 16  # a worker that all of them came to refuses some
    route = {"route": "/local-caption", "method": "POST"}
    assert grown("requests_total", status="200", code="none", **route) == captioned
    assert grown("requests_total", status="429", code="overloaded", **route) == statuses[429]
    assert grown("requests_total", status="400", code="invalid_json", **route) == 5
    assert grown("request_seconds_count", route="/local-caption", status_class="2xx") == captioned
    assert grown("batch_pictures_sum") == captioned
    for stage in ("decode", "queue"):
        assert grown("stage_seconds_count", stage=stage) == captioned
    for stage in ("encode", "decode_tokens"):
        assert grown("stage_seconds_count", stage=stage) == grown("batch_pictures_count")
        assert 0 < grown("stage_seconds_sum", stage=stage) < grown("request_seconds_sum", route="/local-caption")
    assert grown("generated_tokens_total") == captioned * len(answers[0].json()["output"].split())
    lines = [json.loads(line) for line in pair.log.read_text().splitlines()]
    assert len({line["pid"] for line in lines if line["logger"] == "captioning.requests"}) == 2


def test_what_is_held_is_seen_in_every_worker_and_given_back(pair: Service) -> None:
    go_on = threading.Event()

    def answer_late(connection: Connection) -> None:
        connection.read_request()
        go_on.wait(30)

    with BadServer(answer_late) as slow, ThreadPoolExecutor(4) as callers:
        waiting = [callers.submit(pair.post, json={"imageUrl": slow.url("/a.png")}) for _ in range(4)]
        wait_for(pair, lambda seen: seen.value("permits_in_use") == 4 and seen.value("downloads_in_use") == 4)
        go_on.set()
        assert {future.result().status_code for future in waiting} == {502}
    wait_for(pair, lambda seen: seen.value("permits_in_use") == 0 and seen.value("downloads_in_use") == 0)


def test_no_label_grows_with_what_strangers_send(pair: Service) -> None:
    def be_strange(seed: int) -> None:
        for number in range(seed, seed + 12):
            raw(pair, f"BREW{number} /{number}/%0A?a={number} HTTP/1.1\r\nHost: h{number}.example")
            raw(pair, f"GET /{number} HTTP/1.1\r\nHost: \\{number}\r\nX-Request-Id: {number}\r\nUser-Agent: {number}")
            raw(pair, f"OPTIONS /local-caption/{number} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {number}")
            raw(pair, f"X{number} /metrics HTTP/1.1\r\nHost: a\r\nX-Cache: {number}")
            pair.post(json={"imageUrl": f"http://h{number}.invalid/{number}", "prompt": f"{number}"})
            pair.post(json={"imageUrl": f"x{number}://{number}"})
            pair.post(json={"imageUrl": f"data:,{number}"}, headers={"Authorization": f"Bearer {number}"})
            pair.post(data=b"a", headers={"Content-Type": f"text/x{number}"})

    def series() -> set[object]:
        return {key for key in scrape(pair).series if key[0] != "captioning_worker_memory_bytes"}

    be_strange(7100)
    known = series()
    be_strange(7200)
    assert series() == known
    seen = scrape(pair)
    assert seen.labels("requests_total", "method") <= {"GET", "POST", "OPTIONS", "other"}
    rules = {"/", "/local-caption", "/local-captions", "/healthz", "/readyz", "/metrics", "unmatched"}
    assert seen.labels("requests_total", "route") <= rules
    assert not re.search(r"7[12]\d\d|example|invalid/", " ".join(str(key) for key in known))


def test_a_killed_workers_counts_stay_and_what_it_held_goes(pair: Service) -> None:
    pair.upload(PICTURE)
    before = scrape(pair)
    assert before.value("permits_limit") == 16
    victim, survivor = pair.worker_pids()
    os.kill(victim, signal.SIGKILL)
    after = wait_for(pair, lambda seen: seen.value("worker_starts_total") == before.value("worker_starts_total") + 1)
    after = wait_for(pair, lambda seen: seen.value("model_state", status="ready") == 2)
    for name in ("generated_tokens_total", "batch_pictures_sum", "batch_pictures_count"):
        assert after.value(name) == before.value(name) > 0
    for key, value in before.series.items():
        if key[0] == "captioning_requests_total":
            assert after.series[key] >= value
    assert after.value("permits_limit") == 16
    workers = after.labels("worker_memory_bytes", "worker")
    assert str(victim) not in workers
    assert workers == set(map(str, pair.worker_pids()))
    assert str(survivor) in workers


def test_memory_is_that_of_each_worker(pair: Service) -> None:
    seen = scrape(pair)
    for pid in pair.worker_pids():
        status = Path(f"/proc/{pid}/status").read_text()
        for kind in ("anon", "file"):
            [size] = re.findall(rf"Rss{kind}:\s+(\d+) kB", status, re.IGNORECASE)
            told = seen.value("worker_memory_bytes", worker=str(pid), kind=kind)
            assert told == pytest.approx(int(size) * 1024, rel=0.2)


def test_the_documents_explain_what_is_exported_and_nothing_else(pair: Service) -> None:
    rows = re.findall(r"^\| `(captioning_\w+)` \|", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(scrape(pair).names())


QUERIES = {
    **{rule["alert"]: rule["expr"] for rule in ALERTS},
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    },
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_queries_use_metrics_and_labels_that_exist(pair: Service, query: str) -> None:
    seen = scrape(pair)
    exported = {name for name, _ in seen.series}
    used = re.findall(r"(captioning_\w+)(?:\{(.*?)\})?", query)
    assert used
    for name, matchers in used:
        assert name in exported
        labels = {label for found, has in seen.series if found == name for label in dict(has)}
        for label, value in re.findall(r'(\w+)=~?"(.*?)"', matchers):
            if label in ("job", "instance"):
                continue  # Prometheus adds them
            assert label in labels
            if label in ("route", "stage", "result", "kind") and not value.startswith("$"):
                assert set(value.split("|")) <= seen.labels(name.removeprefix("captioning_"), label)
    assert query.count("(") == query.count(")")


def test_every_alert_says_why_and_what_to_do() -> None:
    guide = (ROOT / "docs" / "operations.md").read_text()
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert f"`{rule['alert']}`" in guide


def test_the_folder_goes_with_the_master(start_service: Callable[..., Service]) -> None:
    service = start_service(MODEL_ID=str(EMOJI_MODEL))
    pattern = f"captioning-metrics-{service.process.pid}-*"
    wait_until(lambda: any(file for folder in FOLDERS.glob(pattern) for file in folder.iterdir()))
    assert service.stop() == 0
    assert not list(FOLDERS.glob(pattern))


def test_without_gunicorn_each_application_counts_for_itself() -> None:
    first, second = (create_app(Settings(_env_file=None)).test_client() for _ in range(2))
    first.get("/healthz")
    assert Scrape(first.get("/metrics").text).value("requests_total", route="/healthz") == 1
    seen = Scrape(second.get("/metrics").text)
    assert seen.value("requests_total") == 0
    assert seen.value("model_state", status="loading") == 1
    assert seen.value("worker_memory_bytes", worker=str(os.getpid()), kind="anon") > 0


def test_gauges_tell_what_is_held_and_who_waits() -> None:
    metrics = Metrics()
    limits = Limits(
        requests=Permits(5),
        urls=Permits(4),
        bodies=ByteBudget(1000, largest=1000),
        downloads=Slots(1),
        pictures=ByteBudget(100, largest=50),
        decoders=Slots(3),
    )
    batcher = Batcher(max_batch_size=1)
    states: list[Readiness] = ["loading", "draining"]
    metrics.watch(limits, batcher, lambda: states[0])
    deadline = Deadline.after(60)
    with ThreadPoolExecutor(2) as waiting, ExitStack() as held:
        for _ in range(2):
            held.enter_context(limits.requests.permit(float))
        held.enter_context(limits.bodies.hold()).grow(700, deadline)
        held.enter_context(limits.downloads.slot(deadline))
        for _ in range(3):
            batcher.submit(np.zeros((3, 1, 1), np.float32), GenerationOptions(), deadline)

        def wait_for_a_slot() -> None:
            with limits.downloads.slot(deadline):
                pass

        waiters = [waiting.submit(wait_for_a_slot) for _ in range(2)]
        wait_until(lambda: limits.downloads.waiting == 2)
        seen = Scrape(metrics.exposition().decode())
        held.close()
        assert all(waiter.result(60) is None for waiter in waiters)
    assert (seen.value("permits_in_use"), seen.value("permits_limit"), seen.value("permits_waiting")) == (2, 5, 0)
    assert (seen.value("downloads_in_use"), seen.value("downloads_limit"), seen.value("downloads_waiting")) == (1, 1, 2)
    assert (seen.value("body_bytes_in_use"), seen.value("body_bytes_limit")) == (700, 1000)
    assert (seen.value("picture_bytes_in_use"), seen.value("decoders_limit")) == (0, 3)
    assert seen.value("queue_pictures") == 3
    states.reverse()
    seen = Scrape(metrics.exposition().decode())
    assert (seen.value("permits_in_use"), seen.value("body_bytes_in_use"), seen.value("downloads_waiting")) == (0, 0, 0)
    assert (seen.value("model_state"), seen.value("model_state", status="draining")) == (1, 1)


def test_a_picture_that_reached_the_cache_is_counted_by_what_it_said() -> None:
    metrics = Metrics()
    for trace in (Trace(cache="hit"), Trace(cache="hit"), Trace(cache="miss"), Trace()):
        metrics.observe_picture(trace)
    seen = Scrape(metrics.exposition().decode())
    assert {result: seen.value("cache_lookups_total", result=result) for result in ("hit", "miss")} == {
        "hit": 2,
        "miss": 1,
    }


def raw(service: Service, head: str) -> int:
    """Send a request as it stands; return the status of its answer."""
    with closing(socket.create_connection(("127.0.0.1", service.port), timeout=20)) as connection:
        connection.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode())
        answer = HTTPResponse(connection)
        answer.begin()
        return answer.status
