"""Gunicorn as it is deployed, for the benchmarks: started, waited for, looked at, stopped."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Server:
    """Hold a gunicorn under way."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        """Return where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def worker(self) -> int:
        """Return the process id of its one worker."""
        master = self.process.pid
        return int(Path(f"/proc/{master}/task/{master}/children").read_text().split()[0])

    def wait_until(self, path: str, timeout_s: float = 300) -> None:
        """Wait until GET ``path`` is answered with 200.

        Raises:
            SystemExit: the server ended, or the time did.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise SystemExit("The server ended before it was ready.")
            try:
                if requests.get(self.url + path, timeout=10).ok:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.05)
        raise SystemExit(f"The server was not ready within {timeout_s} s.")


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def gunicorn(
    app: str = "wsgi:app",
    *,
    settings: Mapping[str, str],
    ready: str | None = "/readyz",
    arguments: tuple[str, ...] = (),
    box: Sequence[str] = (),
    log: Path | None = None,
    port: int | None = None,
) -> Iterator[Server]:
    """Serve ``app`` on loopback, on a free port unless told which, in the environment with ``settings`` on top.

    Waits until ``ready`` is answered with 200. ``box`` is a command that becomes the command behind it. ``log`` gets
    what the server says, which else goes where this process's own output goes.
    """
    port = free_port() if port is None else port
    command = [*box, str(Path(sys.executable).with_name("gunicorn")), "--bind", f"127.0.0.1:{port}", *arguments, app]
    environment = {**os.environ, **settings, "PORT": str(port)}
    output = None if log is None else log.open("wb")
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)  # noqa: S603
    server = Server(process, port)
    try:
        if ready is not None:
            server.wait_until(ready)
        yield server
    finally:
        process.terminate()
        process.wait()
        if output is not None:
            output.close()


def memory(process: int) -> dict[str, int]:
    """Return the kernel's figures for a process, in bytes: VmPeak and VmHWM (the peaks), VmRSS, RssAnon, RssFile."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    figures = (line.split() for line in lines if line.startswith(("VmPeak", "VmHWM", "VmRSS", "RssAnon", "RssFile")))
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in figures}


def cpu_s(process: int) -> float:
    """Return the seconds of processor time that a process has taken so far, all threads together."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime, proc(5)


def decoder_processes(parent: int) -> set[int]:
    """Return the process ids of the decoder processes that ``parent`` has started.

    A child that has not got to its own program yet is left out: until then the kernel shows it the parent's memory.
    """
    listed = [path.read_text().split() for path in Path(f"/proc/{parent}/task").glob("*/children")]
    return {int(pid) for pids in listed for pid in pids if _runs(pid, b"captioning.pictures.decoder_process")}


def _runs(pid: str, program: bytes) -> bool:
    try:
        return program in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False


def forget_peak(process: int) -> None:
    """Let VmHWM count from now on."""
    Path(f"/proc/{process}/clear_refs").write_text("5")
