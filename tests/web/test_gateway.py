"""The gateway in examples/gateway: real Node in front of the real service, overload and restarts included."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.bad_servers import BadServer, say_nothing
from tests.conftest import ROOT, SAMPLES, Service, free_port, required_program, wait_until

GATEWAY = ROOT / "examples" / "gateway"
CAPACITY = 8
PATIENT = {"CAPTION_TIMEOUT_MS": "120000", "CAPTION_MAX_ATTEMPTS": "1000"}
SHOWN = re.findall(r"```console\n\$ (curl .*?)\n(.*?)\n```", (GATEWAY / "README.md").read_text(), re.DOTALL)


class Gateway:
    """Run `node server.mjs` and speak to it."""

    def __init__(self, node: str, log: Path, service_url: str, **environment: str) -> None:
        self.log = log
        defaults = {"PORT": "0", "CAPTION_SERVICE_URL": service_url, "CAPTION_API_KEY": "secret"}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [node, "server.mjs"],
                cwd=GATEWAY,
                env={**os.environ, **defaults, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.port = int(self.wait_for(event="listening")["port"])
        self.url = f"http://127.0.0.1:{self.port}"

    def entries(self) -> list[dict[str, Any]]:
        """Return what is logged so far; every line is JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, **fields: object) -> dict[str, Any]:
        """Wait for a line of the log with these fields."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for entry in self.entries():
                if fields.items() <= entry.items():
                    return entry
            time.sleep(0.02)
        raise AssertionError(f"no {fields} in:\n{self.log.read_text()}")

    def post(self, **kwargs: Any) -> requests.Response:
        return requests.post(self.url + "/captions", timeout=180, **kwargs)

    def upload(self, picture: bytes) -> requests.Response:
        return self.post(data=picture, headers={"Content-Type": "image/jpeg"})

    def state(self) -> dict[str, Any]:
        answer: dict[str, Any] = requests.get(self.url + "/healthz", timeout=60).json()
        return answer

    def accepted(self) -> int:
        """Return how many captions run or wait for their turn."""
        state = self.state()
        return int(state["running"]) + int(state["waiting"])


StartGateway = Callable[..., Gateway]


@pytest.fixture(scope="module", autouse=True)
def installed_gateway(node: str) -> None:
    """Link clients/node into the gateway, as `npm install` does; it takes nothing from elsewhere."""
    npm = [required_program("npm"), "ci", "--offline", "--no-audit", "--no-fund"]
    subprocess.run(npm, cwd=GATEWAY, capture_output=True, check=True, timeout=60)


@pytest.fixture(scope="module")
def start_gateway(node: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """Start gateways, and stop those that the tests did not."""
    started: list[Gateway] = []

    def start(service_url: str, **environment: str) -> Gateway:
        started.append(Gateway(node, tmp_path_factory.mktemp("gateway") / "log", service_url, **environment))
        return started[-1]

    yield start
    for gateway in started:
        gateway.process.kill()
        gateway.process.wait()


@pytest.fixture(scope="module")
def start_small_service(start_service: Callable[..., Service], int8_folder: Path) -> Callable[..., Service]:
    """Start services of little capacity that may fetch from loopback, on the engine that starts sooner."""
    fetching = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*", "FETCH_TIMEOUT_S": "2"}
    small = {"API_KEYS": "secret", "MAX_CONCURRENT_REQUESTS": str(CAPACITY), "CACHE_MAX_ENTRIES": "0"}
    return partial(start_service, ENGINE="int8", MODEL_ID=str(int8_folder), **fetching, **small)


@pytest.fixture(scope="module")
def small_service(node: str, start_small_service: Callable[..., Service]) -> Service:
    """The service that most tests share."""
    return start_small_service().wait_until_ready()


@pytest.fixture(scope="module")
def gateway(start_gateway: StartGateway, small_service: Service) -> Gateway:
    """The gateway that most tests share."""
    return start_gateway(small_service.url, **PATIENT)


@pytest.fixture(scope="module")
def captions(small_service: Service) -> dict[Path, str]:
    """What the service says of each sample, asked alone."""
    alone = {sample: captioned_alone(small_service, sample) for sample in SAMPLES}
    assert len(set(alone.values())) == len(SAMPLES)  # so that a caption of another picture would be seen
    return alone


def captioned_alone(service: Service, sample: Path) -> str:
    headers = {"Content-Type": "image/jpeg", "Authorization": "Bearer secret"}
    return str(service.post(data=sample.read_bytes(), headers=headers).json()["output"])


def with_comment(picture: bytes, comment: str) -> bytes:
    """Return the same JPEG in other bytes, which no cache knows: with a comment (marker COM) after its start."""
    return picture[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment.encode() + picture[2:]


class Callers:
    """Send many distinct pictures through a gateway at once."""

    def __init__(self, gateway: Gateway, count: int, name: str) -> None:
        self.samples = list(islice(cycle(SAMPLES), count))
        self._pool = ThreadPoolExecutor(count)
        self.answers: list[Future[requests.Response]] = [
            self._pool.submit(gateway.upload, with_comment(sample.read_bytes(), f"{name} {number}"))
            for number, sample in enumerate(self.samples)
        ]

    def answered(self) -> int:
        """Return how many are answered so far."""
        return sum(answer.done() for answer in self.answers)

    def check(self, captions: dict[Path, str]) -> None:
        """See that each is answered, with the caption of its own picture."""
        answers = [answer.result() for answer in self.answers]
        self._pool.shutdown()
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        assert [answer.json()["output"] for answer in answers] == [captions[sample] for sample in self.samples]


class SteadyCallers:
    """Send distinct pictures through a gateway, one after another and several at once, until `check` is called."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self._enough = threading.Event()
        self._numbers = count()
        self._answers: list[tuple[Path, requests.Response]] = []
        self._pool = ThreadPoolExecutor(2 * CAPACITY)
        self._callers = [self._pool.submit(self._send, gateway, name) for _ in range(2 * CAPACITY)]

    def _send(self, gateway: Gateway, name: str) -> None:
        while not self._enough.is_set():
            number = next(self._numbers)
            sample = SAMPLES[number % len(SAMPLES)]
            self._answers.append((sample, gateway.upload(with_comment(sample.read_bytes(), f"{name} {number}"))))

    def wait_for_more(self, answers: int) -> None:
        """Wait until so many more are answered."""
        enough = len(self._answers) + answers
        wait_until(lambda: len(self._answers) >= enough, timeout_s=120)

    def check(self, captions: dict[Path, str]) -> None:
        """Send no more, and see that each is answered with the caption of its own picture."""
        self._enough.set()
        for caller in self._callers:
            caller.result()
        assert {answer.status_code for _, answer in self._answers} == {200}
        assert all(answer.json()["output"] == captions[sample] for sample, answer in self._answers)


def test_the_modules_pass_their_own_tests(node: str) -> None:
    ran = subprocess.run(
        [node, "--test", "--test-reporter=tap"], cwd=GATEWAY, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"^# pass [1-9]\d*$", ran.stdout, re.MULTILINE)
    assert re.search(r"^# skipped 0$", ran.stdout, re.MULTILINE)


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=range(len(SHOWN)))
def test_a_command_of_its_readme_prints_what_is_shown(gateway: Gateway, command: str, output: str) -> None:
    arguments = shlex.split(command.replace("localhost:3000", f"127.0.0.1:{gateway.port}"))
    ran = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == output


def test_a_caption_by_url_and_by_upload_is_the_services_own(
    gateway: Gateway, captions: dict[Path, str], image_server: str
) -> None:
    for sample, caption in islice(captions.items(), 3):
        by_url = gateway.post(json={"imageUrl": f"{image_server}/samples/{sample.name}"})
        by_upload = gateway.upload(sample.read_bytes())
        assert [by_url.json(), by_upload.json()] == [{"output": caption}] * 2


def test_options_reach_the_service(gateway: Gateway, image_server: str) -> None:
    sample = SAMPLES[0]
    image = {"data": sample.read_bytes(), "headers": {"Content-Type": "image/jpeg"}}
    options = {"prompt": "a picture of", "maxNewTokens": 3, "numBeams": 2}
    by_url = gateway.post(json={"imageUrl": f"{image_server}/samples/{sample.name}", **options})
    by_upload = gateway.post(params=options, **image)
    assert by_url.json() == by_upload.json()
    assert re.fullmatch(r"a picture of( \S+){1,3}", by_url.json()["output"])


def test_a_request_id_is_found_in_both_answers_and_both_logs(gateway: Gateway, small_service: Service) -> None:
    headers = {"Content-Type": "image/jpeg", "X-Request-Id": "the-callers-own:1"}
    answer = gateway.post(data=SAMPLES[0].read_bytes(), headers=headers)
    assert answer.headers["X-Request-Id"] == "the-callers-own:1"
    entry = gateway.wait_for(requestId="the-callers-own:1")
    assert entry["status"] == 200
    assert entry["timings"]["generate"] > 0
    assert "the-callers-own:1" in small_service.log.read_text()
    refused = gateway.post(data=b"no picture", headers={**headers, "X-Request-Id": "two words"})
    made = refused.headers["X-Request-Id"]
    assert refused.json()["requestId"] == made != "two words"
    assert made in small_service.log.read_text()


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"json": {"imageUrl": "ftp://example.com/a.png"}}, 400, "invalid_image_url"),
        ({"json": {"imageUrl": "IMAGES/samples/one-1.jpg", "numBeams": 6}}, 400, "invalid_parameter"),
        ({"json": {"imageUrl": "IMAGES/samples/one-1.jpg", "numBeams": ["6"]}}, 400, "invalid_parameter"),
        ({"json": {"url": "IMAGES/samples/one-1.jpg"}}, 400, "invalid_json"),
        ({"json": ["IMAGES/samples/one-1.jpg"]}, 400, "invalid_json"),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "invalid_json"),
        ({"json": {"imageUrl": "IMAGES/status/404"}}, 422, "image_not_found"),
        ({"json": {"imageUrl": "IMAGES/status/500"}}, 502, "image_fetch_failed"),
        ({"json": {"imageUrl": "SILENT/"}}, 504, "image_fetch_timeout"),
        ({"data": SAMPLES[0].read_bytes()[:900], "headers": {"Content-Type": "image/jpeg"}}, 422, "corrupt_image"),
        ({"data": b"picture", "headers": {"Content-Type": "Image/PNG"}}, 422, "unsupported_image"),
        ({"data": b"picture", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_content_type"),
        ({"data": bytes(10_485_761), "headers": {"Content-Type": "image/png"}}, 413, "body_too_large"),
    ],
)
def test_a_failure_is_the_callers_or_not(
    gateway: Gateway, image_server: str, sent: dict[str, Any], status: int, code: str
) -> None:
    with BadServer(say_nothing) as silent:
        if "json" in sent:
            named = json.dumps(sent["json"]).replace("IMAGES", image_server).replace("SILENT/", silent.url())
            sent = {"json": json.loads(named)}
        answer = gateway.post(**sent)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json().keys() == {"error", "code", "requestId"}
    assert ("Retry-After" in answer.headers) == (status >= 500)


def test_a_wrong_key_is_not_the_callers_fault(start_gateway: StartGateway, small_service: Service) -> None:
    host_and_port = small_service.url.removeprefix("http://")  # as platforms name it
    gateway = start_gateway(host_and_port, CAPTION_API_KEY="wrong")
    answer = gateway.upload(SAMPLES[0].read_bytes())
    assert (answer.status_code, answer.json()["code"]) == (502, "caption_service_failed")
    assert "key" not in answer.text
    assert "A valid API key is needed" in gateway.wait_for(status=502)["cause"]


def test_without_a_service_the_answer_comes_all_the_same(start_gateway: StartGateway) -> None:
    gateway = start_gateway(f"http://127.0.0.1:{free_port()}", CAPTION_MAX_ATTEMPTS="2")
    answer = gateway.upload(SAMPLES[0].read_bytes())
    assert (answer.status_code, answer.json()["code"]) == (502, "connection_failed")
    assert answer.headers["Retry-After"] == "1"
    assert re.search(r"failed: .*ECONNREFUSED 127\.0\.0\.1:\d+\.$", gateway.wait_for(status=502)["cause"])


def test_a_port_that_is_taken_is_said_in_one_line(node: str, gateway: Gateway) -> None:
    environment = {**os.environ, "PORT": str(gateway.port)}
    ran = subprocess.run([node, "server.mjs"], cwd=GATEWAY, env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"PORT: {gateway.port} is taken; set another one.\n"


@pytest.mark.parametrize("name", ["PORT", "MAX_CONCURRENT", "CAPTION_TIMEOUT_MS", "CAPTION_SERVICE_URL"])
def test_a_bad_setting_ends_the_start_and_is_named(node: str, name: str) -> None:
    environment = {**os.environ, name: "-1"}
    ran = subprocess.run([node, "server.mjs"], cwd=GATEWAY, env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"{name}: ")


def test_when_as_many_wait_as_may_the_next_is_turned_away_at_once(start_gateway: StartGateway) -> None:
    with BadServer(say_nothing) as silent, ThreadPoolExecutor(2) as callers:
        gateway = start_gateway(silent.url(), MAX_CONCURRENT="1", MAX_WAITING="1", CAPTION_TIMEOUT_MS="3000")
        picture = SAMPLES[0].read_bytes()
        others = [callers.submit(gateway.upload, picture) for _ in range(2)]
        wait_until(lambda: gateway.state() == {"status": "ok", "running": 1, "waiting": 1})
        refused = gateway.upload(picture)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert refused.headers["Retry-After"] == "1"
        # The time in line counts.
        assert {other.result().json()["code"] for other in others} == {"deadline_exceeded"}
        assert {other.result().status_code for other in others} == {504}


def test_a_caller_that_goes_away_stops_the_work_upstream(start_gateway: StartGateway) -> None:
    hung_up = []

    def wait_for_the_end(connection: Any) -> None:
        connection.read_request()
        while connection.client.recv(65_536):
            pass
        hung_up.append(True)

    with BadServer(wait_for_the_end) as slow:
        gateway = start_gateway(slow.url(), MAX_CONCURRENT="1", **PATIENT)
        head = b"POST /captions HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 1\r\n\r\n"
        for _ in range(2):  # the second one waits for its turn
            with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
                caller.sendall(head + b"x")
                wait_until(lambda: slow.connections == len(hung_up) + 1)
        wait_until(lambda: gateway.state() == {"status": "ok", "running": 0, "waiting": 0})
        wait_until(lambda: len(hung_up) == 2)
        assert [entry["code"] for entry in gateway.entries()[1:]] == ["caller_gone", "caller_gone"]


def test_at_four_times_the_capacity_all_are_answered_and_none_wrongly(
    start_gateway: StartGateway, small_service: Service, captions: dict[Path, str]
) -> None:
    gateway = start_gateway(small_service.url, MAX_CONCURRENT=str(4 * CAPACITY), MAX_WAITING="200", **PATIENT)
    Callers(gateway, 200, "overload").check(captions)
    answered = [entry for entry in gateway.entries() if entry.get("status") == 200]
    assert len(answered) == 200
    assert max(entry["attempts"] for entry in answered) > 1, "the service was never full"


def test_a_service_that_is_restarted_loses_nothing(
    start_gateway: StartGateway, start_small_service: Callable[..., Service], captions: dict[Path, str]
) -> None:
    first = start_small_service().wait_until_ready()
    gateway = start_gateway(first.url, MAX_CONCURRENT=str(CAPACITY), **PATIENT)
    callers = SteadyCallers(gateway, "restart")
    callers.wait_for_more(5)
    assert first.stop() == 0
    start_small_service(PORT=str(first.port))
    callers.wait_for_more(3 * CAPACITY)  # more than were under way
    callers.check(captions)
    assert asked_again(gateway)


def test_a_worker_that_is_killed_loses_nothing(
    start_gateway: StartGateway, small_service: Service, captions: dict[Path, str]
) -> None:
    gateway = start_gateway(small_service.url, MAX_CONCURRENT=str(CAPACITY), **PATIENT)
    callers = SteadyCallers(gateway, "kill")
    callers.wait_for_more(5)
    for worker in small_service.worker_pids():
        os.kill(worker, signal.SIGKILL)
    callers.wait_for_more(3 * CAPACITY)
    callers.check(captions)
    assert asked_again(gateway)


def asked_again(gateway: Gateway) -> bool:
    return any(entry["attempts"] > 1 for entry in gateway.entries() if entry.get("status") == 200)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_gateway_that_is_stopped_answers_whom_it_let_in(
    start_gateway: StartGateway, small_service: Service, captions: dict[Path, str], ending: signal.Signals
) -> None:
    small_service.wait_until_ready()
    gateway = start_gateway(small_service.url, MAX_CONCURRENT="2", **PATIENT)
    # Neither a kept connection nor half a request keeps the process.
    idle = requests.Session()
    assert idle.get(gateway.url + "/healthz", timeout=60).headers["Connection"] == "keep-alive"
    half = socket.create_connection(("127.0.0.1", gateway.port))
    half.sendall(b"POST /captions HTTP/1.1\r\nHost: a")
    callers = Callers(gateway, 40, f"stop {ending.name}")
    wait_until(lambda: callers.answered() + gateway.accepted() == 40)
    assert callers.answered() < 40
    gateway.process.send_signal(ending)
    gateway.wait_for(event="stopping")
    with pytest.raises(requests.ConnectionError):
        gateway.state()
    callers.check(captions)
    assert gateway.process.wait(timeout=60) == 0
    half.close()
    idle.close()
