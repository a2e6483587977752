"""Captions refused while workers are replaced: requests come at a steady rate, whatever becomes of them.

python -m benchmarks.reload --model models/blip-emoji
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.server import Server, gunicorn
from benchmarks.steady_load import Load, counted


class Reloaded:
    """A gunicorn whose workers are replaced, and its log."""

    def __init__(self, server: Server, log: Path) -> None:
        """Watch a server that writes to ``log``."""
        self.master = server.process
        self._log = log

    def children(self) -> set[int]:
        """Return the process ids of its workers, and of a new master beside it."""
        pid = self.master.pid
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def wait_for_models(self, count: int) -> None:
        """Wait until that many models have been loaded since the start."""
        self.wait(lambda: self._log.read_text().count("The model is ready") >= count)

    def wait(self, condition: Callable[[], bool], timeout_s: float = 120) -> None:
        """Wait for a state.

        Raises:
            SystemExit: it has not come in time.
        """
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise SystemExit("The workers were not replaced:\n" + self._log.read_text()[-2000:])
            time.sleep(0.05)


def hang_up(server: Reloaded) -> None:
    """Replace all workers, as after a change of settings."""
    old = server.children()
    server.master.send_signal(signal.SIGHUP)
    server.wait(lambda: not old & server.children())


def one_more_and_one_less(server: Reloaded) -> None:
    """Start a second worker, and stop the first when the second is ready."""
    old = server.children()
    server.master.send_signal(signal.SIGTTIN)
    server.wait_for_models(2)
    server.master.send_signal(signal.SIGTTOU)
    server.wait(lambda: not old & server.children())


def new_master(server: Reloaded) -> None:
    """Start a new master beside the old one, and stop the old one when the new one's worker is ready."""
    server.master.send_signal(signal.SIGUSR2)
    server.wait_for_models(2)
    server.master.terminate()
    server.master.wait()


def their_share(server: Reloaded) -> None:
    """Let a worker serve as many requests as it may."""
    old = server.children()
    server.wait(lambda: not old & server.children())


RELOADS: dict[str, tuple[Callable[[Reloaded], None], tuple[str, ...]]] = {
    "HUP": (hang_up, ()),
    "TTIN, then TTOU": (one_more_and_one_less, ()),
    "USR2, then TERM": (new_master, ()),
    "--max-requests 50": (their_share, ("--max-requests", "50")),
}


def measure(name: str, *, rate: float, settings: dict[str, str]) -> Counter[str]:
    """Return the outcomes of a steady rate of requests from before a reload until after it."""
    reload, arguments = RELOADS[name]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        pidfile = Path(folder) / "pid"
        with gunicorn(settings=settings, arguments=(*arguments, "--pid", str(pidfile)), log=log) as server:
            reloaded = Reloaded(server, log)
            with Load(server.url, rate) as load:
                time.sleep(2)
                reload(reloaded)
                time.sleep(2)
            if server.process.poll() is not None:
                os.kill(int(pidfile.read_text()), signal.SIGTERM)
    return counted(load.outcomes)


def main() -> None:
    """Measure each kind of reload and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--rate", type=float, default=20, help="captions a second")
    parser.add_argument("--only", choices=RELOADS, nargs="*", default=list(RELOADS))
    arguments = parser.parse_args()
    settings = {"MODEL_ID": arguments.model, "ENGINE": arguments.engine, "CACHE_MAX_ENTRIES": "0"}
    print("| reload | captions | refused or lost |")
    print("|---|---|---|")
    for name in arguments.only:
        outcomes = measure(name, rate=arguments.rate, settings=settings)
        lost = {code: count for code, count in outcomes.most_common() if code != "200"}
        told = ", ".join(f"{count} x `{code}`" for code, count in lost.items())
        print(f"| {name} | {outcomes['200']:,} | {told or 0} |", flush=True)


if __name__ == "__main__":
    main()
