"""Ray clusters on loopback, started by the commands that distributed/README.md shows, with token authentication."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.conftest import EMOJI_MODEL, ROOT, Service, free_port
from tests.conftest import wait_until as wait_patiently

PYTHON = ROOT / ".venv-ray" / "bin" / "python"
PATIENCE_S = 300
"""For what takes Ray seconds: on a busy machine, minutes."""

_READ = """
import json, sys, pyarrow.dataset
print(json.dumps(pyarrow.dataset.dataset(sys.argv[1]).to_table().to_pylist(), default=len))
"""


def wait_until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait for a state of the cluster."""
    wait_patiently(condition, timeout_s)


def descendants(pid: int) -> list[int]:
    """Return a process and all that it and they started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(process for child in children for process in descendants(int(child)))]


def command_line(pid: int) -> str:
    """Return what a process is called; nothing if it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


class Node:
    """One machine of a cluster: `ray start --block` and all that it starts."""

    def __init__(self, cluster: Cluster, *options: str) -> None:
        self._process = cluster.start("-m", "ray.scripts.scripts", "start", "--block", *options)

    def processes(self, name: str = "") -> list[int]:
        """Return the processes whose command line has this in it."""
        return [pid for pid in descendants(self._process.pid) if name in command_line(pid)]

    def kill(self) -> None:
        """End all of it, as when a machine loses its power."""
        everything = self.processes()
        for pid in everything:
            os.kill(pid, signal.SIGSTOP)  # so that none starts another meanwhile
        for pid in everything:
            os.kill(pid, signal.SIGKILL)
        self._process.wait()


class Cluster:
    """Machines on loopback, with a token of their own."""

    def __init__(self, *, cpus: int) -> None:
        """Start the head, a machine with so many CPUs."""
        # The paths of Ray's sockets must not be longer than 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))
        self.dashboard = f"http://127.0.0.1:{(dashboard := free_port())}"
        self.address = f"127.0.0.1:{(port := free_port())}"
        self.token = secrets.token_hex(32)
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": self.address,
            "PYTHONPATH": str(ROOT),
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "distributed.proxy.middlewares",
            "MODEL_ID": str(EMOJI_MODEL),
            "PYTHONUNBUFFERED": "1",
        }
        self._metrics_port = free_port()
        head = [
            f"--metrics-export-port={self._metrics_port}",
            "--head",
            f"--port={port}",
            f"--temp-dir={self.folder}",
            "--node-ip-address=127.0.0.1",
        ]
        self.nodes = [Node(self, *head, f"--dashboard-port={dashboard}", *self._size(cpus))]
        wait_until(lambda: self.alive() == 1)

    def add(self, *, cpus: int) -> Node:
        """Start another machine."""
        self.nodes.append(Node(self, f"--address={self.address}", *self._size(cpus)))
        wait_until(lambda: self.alive() == len(self.nodes))
        return self.nodes[-1]

    def alive(self) -> int:
        """Return how many machines Ray knows."""
        listed = subprocess.run(
            [PYTHON, "-m", "ray.scripts.scripts", "status"], env=self.environment, capture_output=True, text=True
        )
        active = listed.stdout.partition("Active:")[2].partition("Pending:")[0]
        return active.count("1 node_")

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start Python in Ray's environment; its output goes to the file `log`."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [PYTHON, *command], cwd=ROOT, env={**self.environment, **environment}, stdout=log, stderr=log
            )

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python in Ray's environment to its end."""
        return subprocess.run(
            [PYTHON, *command],
            cwd=ROOT,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    @property
    def log(self) -> Path:
        """What the commands have written."""
        return self.folder / "log"

    def replicas(self) -> dict[int, str]:
        """Return the state of each replica of the application, by its process, as Serve knows it."""
        answer = requests.get(
            f"{self.dashboard}/api/serve/applications/", headers={"Authorization": f"Bearer {self.token}"}, timeout=60
        )
        applications = answer.json()["applications"]
        deployments = applications["captioning"]["deployments"] if "captioning" in applications else {}
        return {
            replica["pid"]: replica["state"]
            for deployment in deployments.values()
            for replica in deployment["replicas"]
            if replica.get("pid")  # one that waits for a machine has none
        }

    def metrics(self) -> str:
        """Return what the first machine shows Prometheus."""
        return requests.get(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=60).text

    def running(self) -> list[int]:
        """Return the processes of the replicas that answer."""
        return [pid for pid, state in self.replicas().items() if state == "RUNNING"]

    def machine_of(self, pid: int) -> Node:
        """Return the machine on which a process runs."""
        (machine,) = (node for node in self.nodes if pid in node.processes())
        return machine

    def processes(self, name: str) -> list[int]:
        """Return the processes of all machines whose command line has this in it."""
        return [pid for node in self.nodes for pid in node.processes(name)]

    def stop(self) -> None:
        """End all machines."""
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _size(cpus: int) -> list[str]:
        agent = f"--dashboard-agent-listen-port={free_port()}"
        return [f"--num-cpus={cpus}", "--num-gpus=0", f"--object-store-memory={200 * 2**20}", agent]


@pytest.fixture(scope="session")
def start_cluster() -> Iterator[Callable[..., Cluster]]:
    """Start clusters; they are stopped at the end of the run, unless the test stops them."""
    if not PYTHON.exists():
        reason = "Ray is not installed (make install-ray)"
        if os.environ.get("REQUIRE_ALL_TESTS"):
            pytest.fail(reason)
        pytest.skip(reason)
    started: list[Cluster] = []

    def start(*, cpus: int) -> Cluster:
        started.append(Cluster(cpus=cpus))
        return started[-1]

    yield start
    for cluster in started:
        cluster.stop()


class RayService(Service):
    """The application of distributed/serve.yaml on a cluster, with other arguments and settings."""

    def __init__(self, cluster: Cluster, *, arguments: dict[str, Any], **environment: str) -> None:
        """Deploy it; `wait_until_ready` waits for it."""
        self.cluster = cluster
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = cluster.log
        self.model = {"MODEL_ID": str(EMOJI_MODEL), "ENGINE": "torch", **environment}
        self._config = yaml.safe_load((ROOT / "distributed" / "serve.yaml").read_text())
        self._config["proxy_location"] = "HeadOnly"  # two of them on one address would want the same port
        self._config["http_options"] |= {"host": "127.0.0.1", "port": self.port}
        (application,) = self._config["applications"]
        application["args"] |= arguments
        application["runtime_env"] = {"env_vars": environment}
        self.deploy()

    def deploy(self, arguments: dict[str, Any] | None = None, **environment: str) -> None:
        """Deploy it as it is, or with other arguments and settings too."""
        (application,) = self._config["applications"]
        application["args"] |= arguments or {}
        application["runtime_env"]["env_vars"] |= environment
        file = self.cluster.folder / "serve.yaml"
        file.write_text(yaml.safe_dump(self._config))
        deployed = self.cluster.run("-m", "ray.serve.scripts", "deploy", "-a", self.cluster.dashboard, str(file))
        assert deployed.returncode == 0, deployed.stderr

    def wait_until_ready(self, timeout_s: float = PATIENCE_S) -> RayService:
        """Wait until the first replica answers."""

        def ready() -> bool:
            try:
                return self.get("/readyz").status_code == 200
            except requests.ConnectionError:
                return False  # the proxy has not started

        wait_until(ready, timeout_s)
        return self


def read_table(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a table of Parquet files."""
    finished = subprocess.run([PYTHON, "-c", _READ, folder], capture_output=True, text=True, check=True)
    rows: list[dict[str, Any]] = json.loads(finished.stdout)
    return rows
