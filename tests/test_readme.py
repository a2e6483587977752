"""The README's commands do what it shows."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import ROOT, Service, free_port

README = (ROOT / "README.md").read_text()
SHOWN = re.findall(r"```console\n\$ (.*?)\n(.*?)\n```", README, re.DOTALL)


@pytest.fixture(scope="module")
def documented_service(start_service: Callable[..., Service]) -> Service:
    """The service as the README starts it: the model named as a path in the project."""
    return start_service(MODEL_ID="models/blip-emoji").wait_until_ready()


@pytest.mark.parametrize(("command", "output"), SHOWN)
def test_a_command_prints_what_is_shown(documented_service: Service, command: str, output: str) -> None:
    arguments = shlex.split(command.replace("localhost:8000", f"127.0.0.1:{documented_service.port}"))
    ran = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == output


def test_the_demo_captions_its_samples_and_goes_on_serving() -> None:
    port = str(free_port())
    with subprocess.Popen(
        [sys.executable, "examples/demo.py"],
        cwd=ROOT,
        env={**os.environ, "PORT": port},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        printed = []
        for line in demo.stdout:
            printed.append(line)
            if line.startswith("  curl "):
                break
        rows = [line for line in printed if re.search(r"\.jpg +\S.* background +\d+ ms$", line)]
        assert len(rows) == 12
        ran = subprocess.run(shlex.split(printed[-1]), cwd=ROOT, capture_output=True, text=True, check=True)
        assert '"output"' in ran.stdout
        os.killpg(demo.pid, signal.SIGINT)  # as Ctrl-C does
        assert demo.wait(timeout=60) == 0


def test_every_make_target_is_one_that_the_readme_may_name() -> None:
    made = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {line.split()[0] for line in made.splitlines()}
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert named <= targets
    assert {"demo", "test", "run", "lint", "help"} <= targets
