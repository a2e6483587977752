"""Break one thing at a time under a steady load, and say what callers see and how long it lasts.

    make bench-faults                                     # all of them, both engines: the table of docs/faults.md
    python -m benchmarks.faults 'DNS hangs' --engine int8
    python -m benchmarks.faults 'clock jumps' --reload    # in a HUP, half a second after the fault has begun

Needs root (mount namespaces, a memory cgroup, port 53 of a loopback address), redis-server and a C compiler.
Recovery counts from the end of the fault, or from the kill, to the moment from which every request is captioned.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

from benchmarks.memory import Cgroup
from benchmarks.server import ROOT, Server, free_port, gunicorn
from benchmarks.steady_load import Load, Outcome, counted
from benchmarks.surroundings import NAME_SERVER, NameServer, PictureServer, cache_server, compile_clock

LASTS_S, FROZEN_S = 10, 35
CLOCK = ROOT / "build" / "clock.so"
REDIS_PORT = free_port()


@dataclass
class Running:
    """Hold what a fault may break."""

    server: Server
    start_again: Callable[[], Server]
    names: NameServer
    cgroup: Cgroup
    folder: Path
    redis: subprocess.Popen[bytes]

    def processes(self, pid: int) -> list[int]:
        """Return a process and all below it."""
        children = [
            int(child) for tasks in Path(f"/proc/{pid}/task").glob("*/children") for child in tasks.read_text().split()
        ]
        return [pid, *(below for child in children for below in self.processes(child))]


def kill_a_worker(running: Running) -> float:
    """Kill the oldest worker."""
    os.kill(running.server.worker, signal.SIGKILL)
    return time.monotonic()


def kill_the_master(running: Running) -> float:
    """Kill the master, and start the service again as a platform does, until it stays."""
    killed = time.monotonic()
    running.server.process.kill()
    while True:
        try:
            running.start_again()
            return killed
        except SystemExit:
            time.sleep(1)


def use_up_memory(running: Running) -> float:
    """Let another process in the container take memory until the kernel kills the worker for it."""
    # The kernel kills whoever is named as the first to go; the other would grow larger than the worker.
    Path(f"/proc/{running.server.worker}/oom_score_adj").write_text("1000")
    hungry = "import time; taken = []\nwhile True: taken.append(b'1' * 2**22); time.sleep(0.005)"
    other = subprocess.Popen([*running.cgroup.box, sys.executable, "-c", hungry])  # noqa: S603
    while not running.cgroup.figures()["killed"] and other.poll() is None:
        time.sleep(0.01)
    killed = time.monotonic()
    other.kill()
    other.wait()
    return killed


def fill_the_disks(running: Running) -> float:
    """Fill /tmp and /dev/shm, kill the worker meanwhile, then make room."""
    files = [Path(f"/proc/{running.server.process.pid}/root/{folder}/fill") for folder in ("tmp", "dev/shm")]
    for file in files:
        with suppress(OSError), file.open("wb", buffering=0) as filled:  # until it is full
            while filled.write(bytes(4096)):
                pass
    os.kill(running.server.worker, signal.SIGKILL)
    killed = time.monotonic()
    time.sleep(LASTS_S)
    for file in files:
        file.unlink()
    return killed


def let_names_hang(running: Running) -> float:
    """Answer no question for a name."""
    running.names.hangs = True
    time.sleep(LASTS_S)
    running.names.hangs = False
    return time.monotonic()


def stop_the_cache(running: Running) -> float:
    """End the cache server; another takes its place later."""
    running.redis.kill()
    running.redis.wait()
    time.sleep(LASTS_S)
    running.redis = cache_server(REDIS_PORT)
    return time.monotonic()


def freeze_the_cache(running: Running) -> float:
    """Let the cache server stand still: it accepts connections and answers nothing."""
    running.redis.send_signal(signal.SIGSTOP)
    time.sleep(LASTS_S)
    running.redis.send_signal(signal.SIGCONT)
    return time.monotonic()


def set_the_clock(running: Running) -> float:
    """Set the wall clock an hour ahead, then an hour back from where it was."""
    for jump in ("3600", "-3600"):
        (running.folder / "clock").write_text(jump)
        time.sleep(LASTS_S / 2)
    return time.monotonic()


def send_slowly(running: Running) -> float:
    """Hold three hundred connections that send a byte a second, some of their heads, others of their bodies."""
    head = b"POST /local-caption HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 9999\r\n"
    connections = [socket.create_connection(("127.0.0.1", running.server.port)) for _ in range(300)]
    for number, connection in enumerate(connections):
        connection.sendall(head + b"\r\n" * (number % 2))
    for _ in range(LASTS_S):
        for connection in connections:
            with suppress(OSError):  # the service need not wait for it
                connection.sendall(b"x")
        time.sleep(1)
    for connection in connections:
        connection.close()
    return time.monotonic()


def freeze(running: Running) -> float:
    """Stop every process of the service, and let them go on."""
    everything = running.processes(running.server.process.pid)
    for pid in everything:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(FROZEN_S)
    for pid in reversed(everything):
        os.kill(pid, signal.SIGCONT)
    return time.monotonic()


@dataclass(frozen=True)
class Fault:
    """Hold how a fault is made, and what the service needs for it: shell commands that mount, and settings."""

    strike: Callable[[Running], float]
    mounts: str = "true"
    settings: dict[str, str] = field(default_factory=dict)
    by_url: bool = False


SHARED_CACHE = {"CACHE_URL": f"redis://127.0.0.1:{REDIS_PORT}", "CACHE_MAX_ENTRIES": "1000"}
FAULTS = {
    "worker killed": Fault(kill_a_worker),
    "one of two workers killed": Fault(kill_a_worker, settings={"WEB_CONCURRENCY": "2"}),
    "master killed, started again": Fault(kill_the_master),
    "memory used up by a neighbour": Fault(use_up_memory),
    "disks full, worker killed": Fault(
        fill_the_disks, "mount -t tmpfs -o size=16m fault /tmp && mount -t tmpfs -o size=4m fault /dev/shm"
    ),
    "disks read-only but /tmp, worker killed": Fault(
        kill_a_worker,
        "for at in / /dev/shm; do mount --bind $at $at && mount -o remount,bind,ro $at; done "
        "&& mount -t tmpfs fault /tmp",
    ),
    "DNS hangs": Fault(let_names_hang, by_url=True),
    "cache server gone": Fault(stop_the_cache, settings=SHARED_CACHE),
    "cache server hangs": Fault(freeze_the_cache, settings=SHARED_CACHE),
    "clock jumps": Fault(set_the_clock, settings={"LD_PRELOAD": str(CLOCK)}),
    "300 slow clients": Fault(send_slowly),
    f"frozen for {FROZEN_S} s": Fault(freeze),
}


def measure(
    fault: Fault, model: Path, engine: str, rate: float, names: NameServer, *, reload: bool
) -> tuple[list[Outcome], float]:
    """Return what became of the requests, and the moment from which recovery counts; ``reload`` adds a HUP."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        (folder / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\n")
        (folder / "clock").write_text("0")
        cgroup = Cgroup(2048)
        stack.callback(cgroup.remove)
        mounts = f"mount --bind {folder}/resolv.conf /etc/resolv.conf && {fault.mounts}"
        box = [*cgroup.box, "unshare", "--mount", "sh", "-c", f'{mounts} && exec "$0" "$@"']
        settings = {
            "MODEL_ID": str(model),
            "ENGINE": engine,
            "CACHE_MAX_ENTRIES": "0",
            "FETCH_ALLOW_PRIVATE_ADDRESSES": "true",
            "FETCH_ALLOWED_PORTS": "*",
            "CLOCK_SHIFT": f"{folder}/clock",
            **fault.settings,
        }

        def start(port: int | None = None) -> Server:
            log = ROOT / "build" / f"fault{'' if port is None else '-again'}.log"
            return stack.enter_context(gunicorn(settings=settings, box=box, log=log, port=port))

        pictures = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), PictureServer))
        threading.Thread(target=pictures.serve_forever, daemon=True).start()
        stack.callback(pictures.shutdown)
        server = start()
        running = Running(server, lambda: start(server.port), names, cgroup, folder, cache_server(REDIS_PORT))
        stack.callback(lambda: running.redis.kill())

        def image_url(number: int) -> str:
            return f"http://{number}.pictures.example:{pictures.server_port}/{number}.jpg"

        with Load(server.url, rate, image_url if fault.by_url else None) as load:
            time.sleep(3)
            if reload:
                threading.Timer(0.5, server.process.send_signal, [signal.SIGHUP]).start()
            ended = fault.strike(running)
            time.sleep(LASTS_S)
            while any(outcome.code != "200" for outcome in load.outcomes if outcome.due > time.monotonic() - 5):
                time.sleep(0.1)
    return load.outcomes, ended


def row(outcomes: list[Outcome], ended: float, rate: float) -> list[str]:
    """Word what became of the requests: captions, others, the slowest caption, seconds until all were captioned."""
    captioned = [outcome for outcome in outcomes if outcome.code == "200"]
    others = [outcome for outcome in outcomes if outcome.code != "200"]
    codes = counted(others).most_common()
    last = max((outcome.due for outcome in others), default=0.0) + 1 / rate
    return [
        str(len(captioned)),
        ", ".join(f"{count} x `{code}`" for code, count in codes) or "none",
        f"{max(outcome.seconds for outcome in captioned):.1f}",
        f"{max(0.0, last - ended):.1f}",
    ]


def main() -> None:
    """Measure each fault on each engine and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fault", nargs="*", help=f"of: {', '.join(FAULTS)}")
    parser.add_argument("--engine", choices=["torch", "int8"], action="append")
    parser.add_argument("--int8", type=Path, default=ROOT / "build" / "blip-emoji-int8", help="folder of the export")
    parser.add_argument("--reload", action="store_true", help="reload the workers half a second into the fault")
    parser.add_argument("--rate", type=float, default=5, help="captions a second")
    arguments = parser.parse_args()
    models = {"torch": ROOT / "models" / "blip-emoji", "int8": arguments.int8.resolve()}
    names = NameServer()
    names.start()
    compile_clock(CLOCK)
    print("| fault | engine | captioned | other answers | slowest caption, s | all captioned again after, s |")
    print("|---|---|---|---|---|---|")
    for name in arguments.fault or FAULTS:
        for engine in arguments.engine or models:
            measured = measure(FAULTS[name], models[engine], engine, arguments.rate, names, reload=arguments.reload)
            print(f"| {name} | {engine} | {' | '.join(row(*measured, arguments.rate))} |", flush=True)


if __name__ == "__main__":
    main()
