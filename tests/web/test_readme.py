"""The documents' commands do what they show, and what they point to is there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Service, free_port, required_program

README = ROOT / "README.md"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
# A block of this kind is one command and exactly what it prints.
SHOWN = [
    pytest.param(block, id=f"{document.stem}-{number}")
    for document in DOCUMENTS
    for number, block in enumerate(
        re.findall(r"^```console\n(.*?)\n```", document.read_text(), re.DOTALL | re.MULTILINE)
    )
]


@pytest.fixture(scope="module")
def documented_service(start_service: Callable[..., Service]) -> Service:
    """The service as the README starts it: the model named as a path in the project."""
    return start_service(MODEL_ID="models/blip-emoji").wait_until_ready()


@pytest.mark.parametrize("block", SHOWN)
def test_a_command_prints_what_is_shown(documented_service: Service, block: str) -> None:
    command, _, output = block.partition("\n")
    assert command.startswith("$ ")
    arguments = shlex.split(command[2:].replace("localhost:8000", f"127.0.0.1:{documented_service.port}"))
    ran = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == output


def test_the_readmes_lines_for_node_print_what_they_say(documented_service: Service) -> None:
    [script] = re.findall(r"```js\n(.*?)```", README.read_text(), re.DOTALL)
    ran = subprocess.run(
        [required_program("node"), "--input-type=module"],
        input=script.replace("localhost:8000", f"127.0.0.1:{documented_service.port}").replace(
            "smartscan-captions", str(ROOT / "clients" / "node" / "src" / "index.js")
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert script.endswith(f"// {ran.stdout}")


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
        assert ran.stderr == ""
        assert any(line.startswith(f"Open http://127.0.0.1:{port}/ in a browser") for line in printed)
        os.killpg(demo.pid, signal.SIGINT)  # as Ctrl-C does
        assert demo.wait(timeout=60) == 0


def test_the_demo_says_first_that_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "examples/demo.py"]
        environment = {**os.environ, "PORT": str(port)}
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"Port {port} is taken: stop what listens there, or choose another one: PORT=8001 make demo\n"


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [(["3.13"], "python3.13"), (["3.12", "3.13"], "python3.12"), (["3.11", "3.12"], "python3.11"), ([], None)],
)
def test_make_takes_the_python_that_is_there(tmp_path: Path, installed: list[str], chosen: str | None) -> None:
    for name in ("bash", "grep", "sed", "echo", "make", "false"):
        (tmp_path / name).symlink_to(required_program(name))
    for version in installed:
        (tmp_path / f"python{version}").write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / f"python{version}").chmod(0o755)
    command = ["make", "--dry-run", "--always-make", "install"]
    environment = {"PATH": str(tmp_path)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    if chosen:
        assert f"{chosen} -m venv .venv" in ran.stdout
    else:
        assert ran.returncode != 0
        assert "Python 3.11, 3.12 or 3.13 is needed" in ran.stderr


def test_every_make_target_is_one_that_the_documents_may_name() -> None:
    made = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {line.split()[0] for line in made.splitlines()}
    named = {
        target
        for document in DOCUMENTS
        for code in re.findall(r"```.*?```|`[^`]+`", document.read_text(), re.DOTALL)
        for target in re.findall(r"\bmake ([a-z0-9-]+)", code)
    }
    assert named <= targets
    assert {"demo", "test", "run", "lint", "help"} <= targets


def test_the_tests_that_hold_the_guarantees_are_there() -> None:
    named = re.findall(r"^- `(tests/\S+\.py)::(\w+)`$", (ROOT / "docs" / "guarantees.md").read_text(), re.MULTILINE)
    missing = [(path, name) for path, name in named if f"\ndef {name}(" not in (ROOT / path).read_text()]
    assert named
    assert missing == []


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len(README.read_text().splitlines()) <= 120


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_to_what_is_there(document: Path) -> None:
    text = document.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    broken = [link for link in links if not is_external(link) and not leads_somewhere(document, link)]
    assert broken == []


def test_the_architecture_names_every_module() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", (ROOT / "docs" / "architecture.md").read_text()))
    package = ROOT / "captioning"
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert modules <= named
    assert named <= modules | {module.name for module in ROOT.glob("*.py")}


def test_the_documents_name_tests_that_are_there() -> None:
    named = {path for document in DOCUMENTS for path in re.findall(r"tests/[a-z0-9_/]+\.py", document.read_text())}
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def is_external(link: str) -> bool:
    return link.startswith(("https://", "http://"))


def leads_somewhere(document: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = document.parent / path if path else document
    return target.exists() and (not anchor or anchor in anchors(target.read_text()))


def anchors(text: str) -> set[str]:
    """Return what GitHub calls the headings: lower case, without marks, hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
