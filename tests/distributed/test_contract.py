# ruff: noqa: F401 - the tests that are imported run here, with this module's service
"""The contract's own tests, asked of Ray Serve: captions are those of transformers, errors those of the table."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.cache.conftest import CacheServer
from tests.conftest import SAMPLES, Service
from tests.distributed.conftest import Cluster, RayService, wait_until
from tests.web.test_bulk import (
    test_a_malformed_request_is_refused_as_a_whole,
    test_captions_and_errors_come_in_the_order_asked_for,
    test_files_are_answered_in_their_order,
    test_lines_come_as_soon_as_they_are_done,
)
from tests.web.test_details import test_details_come_however_they_are_asked_for_and_name_the_model
from tests.web.test_error_table import (
    test_a_chunked_body_is_limited_too,
    test_a_json_body_near_the_limit_is_captioned_whatever_its_prompt,
    test_malformed_json_is_the_callers_fault,
    test_other_bodies_are_not_read,
    test_the_image_servers_answers_are_told_apart,
    test_unknown_paths_and_methods_answer_json,
    test_unusable_pictures_are_refused,
)
from tests.web.test_local_caption import (
    test_a_caption_equals_transformers_own,
    test_answers_carry_ids_and_times,
    test_every_form_of_input_gives_the_same_caption,
    test_options_come_as_json_form_fields_or_query,
    test_readiness_names_the_model_that_answers,
    test_requests_that_share_batches_do_not_see_each_other,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(start_cluster: Callable[..., Cluster]) -> RayService:
    """Serve as the tests' gunicorn does, in the place of which these tests find it."""
    cluster = start_cluster(cpus=1)
    fetching = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*", "FETCH_TIMEOUT_S": "2"}
    return RayService(cluster, arguments={"max_replicas": 1}, **fetching, CACHE_MAX_ENTRIES="0").wait_until_ready()


def test_headers_are_those_of_the_service(service: Service, start_service: Callable[..., Service]) -> None:
    gunicorn = start_service(CACHE_MAX_ENTRIES="0").wait_until_ready()
    per_request = {"connection", "content-length", "date", "server", "server-timing", "x-request-id"}
    asks: list[Callable[[Service], requests.Response]] = [
        lambda at: at.upload(SAMPLES[0].read_bytes()),
        lambda at: at.post(data=b"{", headers={"Content-Type": "application/json"}),
        lambda at: at.get("/readyz"),
        lambda at: at.get("/nothing"),
        lambda at: at.get("/local-caption"),
    ]
    for ask in asks:
        here, there = ask(service).headers, ask(gunicorn).headers
        assert {name.lower() for name in here} - per_request == {name.lower() for name in there} - per_request
        for name in set(map(str.lower, here)) - per_request:
            assert sorted(here[name].split(", ")) == sorted(there[name].split(", "))


@pytest.mark.parametrize("given", ["mine:1", "not sane", "", 'quote"'])
def test_one_request_id_is_in_header_and_body(service: Service, given: str) -> None:
    response = service.post(data=b"{", headers={"Content-Type": "application/json", "X-Request-Id": given})
    assert response.headers["X-Request-Id"] == response.json()["requestId"]
    assert (response.headers["X-Request-Id"] == given) == (given == "mine:1")


def test_the_replicas_metrics_are_among_ray_s_own(service: RayService) -> None:
    assert service.upload(SAMPLES[0].read_bytes()).status_code == 200
    cluster = service.cluster
    wait_until(lambda: "ray_captioning_requests_total{" in cluster.metrics())
    lines = [line for line in cluster.metrics().splitlines() if line.startswith("ray_captioning_requests_total{")]
    assert any('route="/local-caption"' in line and 'deployment="Captioning"' in line for line in lines)


def test_int8_is_served_too_and_replicas_share_a_cache(service: RayService, int8_folder: Path, tmp_path: Path) -> None:
    def engine() -> str | None:
        answer = service.get("/readyz")
        return answer.json()["engine"] if answer.ok else None

    cache = CacheServer(tmp_path)
    try:
        service.deploy(ENGINE="int8", MODEL_ID=str(int8_folder), CACHE_URL=cache.url)
        wait_until(lambda: engine() == "int8")
        picture = SAMPLES[0].read_bytes()
        first = service.upload(picture)
        assert first.headers["X-Cache"] == "miss"
        wait_until(lambda: service.upload(picture).headers["X-Cache"] == "hit")
        (replica,) = service.cluster.running()
        os.kill(replica, signal.SIGKILL)
        wait_until(lambda: service.cluster.running() not in ([], [replica]))
        again = service.upload(picture)
        assert (again.headers["X-Cache"], again.json()) == ("hit", first.json())
    finally:
        cache.kill()


def test_a_cluster_answers_nobody_without_its_token(service: RayService) -> None:
    cluster = service.cluster
    for headers in ({}, {"Authorization": "Bearer " + "0" * 64}):
        for path in ("/api/serve/applications/", "/api/jobs/", "/nodes?view=summary"):
            assert requests.get(cluster.dashboard + path, headers=headers, timeout=60).status_code in (401, 403)
    code = "import ray; ray.init(logging_level='ERROR'); print('in')"
    assert "in" in cluster.run("-c", code).stdout
    for stranger in ({"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        refused = cluster.run("-c", code, **stranger)
        assert refused.returncode != 0
        assert "in\n" not in refused.stdout
