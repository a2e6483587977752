"""The installed command: from an empty virtual environment, run in `/`, with the model that comes with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from tests.conftest import EMOJI_MODEL, ROOT, SAMPLES

CAPTIONS: dict[str, str] = json.loads((EMOJI_MODEL / "samples" / "captions.json").read_text())


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the project into a new virtual environment; return its folder of packages.

    What it depends on is borrowed from the tests' own environment, where pip finds it: its versions are the same.
    """
    folder = tmp_path_factory.mktemp("installed")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.split("\0")[:-1]:
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    [found] = (folder / "venv" / "lib").glob("python3*/site-packages")
    (found / "borrowed.pth").write_text("\n".join(site.getsitepackages()))
    install: list[str | Path] = [folder / "venv" / "bin" / "pip", "install", folder / "source"]
    installed = subprocess.run(install, capture_output=True, text=True, timeout=180)
    assert installed.returncode == 0, installed.stderr
    # Nothing was missing but setuptools, which torch wants newer than venv brings it.
    last = installed.stdout.splitlines()[-1]
    assert re.fullmatch(r"Successfully installed( setuptools-\S+)? smartscan-captioning-\S+", last)
    return found


def run(packages: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [packages.parents[2] / "bin" / "smartscan-caption", *arguments]
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MODEL_ID")}
    return subprocess.run(
        command, cwd="/", env={**inherited, **environment}, capture_output=True, text=True, timeout=120
    )


def test_it_captions_from_any_folder_with_the_model_that_comes_with_it(packages: Path) -> None:
    for ran in (
        run(packages, SAMPLES[0], "--model", "models/blip-emoji"),
        run(packages, SAMPLES[0], MODEL_ID="models/blip-emoji"),
    ):
        assert (ran.returncode, ran.stdout) == (0, f"{SAMPLES[0]}\t{CAPTIONS[SAMPLES[0].name]}\n"), ran.stderr


def test_its_page_and_its_decoder_processes_are_there(packages: Path, tmp_path: Path) -> None:
    ran = run(packages, SAMPLES[0], "--model", "models/blip-emoji", "--html", tmp_path / "report.html")
    assert ran.returncode == 0, ran.stderr
    assert "data:image/jpeg;base64," in (tmp_path / "report.html").read_text()


def test_its_help_shows_how_it_is_called(packages: Path) -> None:
    ran = run(packages, "--help")
    assert ran.returncode == 0
    assert ran.stdout.startswith("Usage: smartscan-caption [OPTIONS] PATH_OR_URL...")
    assert "\n    smartscan-caption --model models/blip-emoji drawing.png\n" in ran.stdout


def test_a_bad_setting_is_named(packages: Path) -> None:
    ran = run(packages, SAMPLES[0], NUM_BEAMS="many")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.fullmatch(r"[^\n]*NUM_BEAMS[^\n]+\.\n", ran.stderr)


def test_it_consists_of_the_whole_package_and_depends_on_what_the_tests_have(packages: Path) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "captioning").rglob("*.py")}
    assert modules <= {str(path.relative_to(packages)) for path in packages.rglob("*.py")}
    [metadata] = packages.glob("smartscan_captioning-*.dist-info")
    pinned = re.findall(r"^[a-z0-9.-]+==\S+$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert Distribution.at(metadata).requires == pinned
    assert {"LICENSE", "NOTICE"} <= {path.name for path in metadata.rglob("*")}
    assert not (packages / "app.py").exists()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert json.loads((ROOT / "clients" / "node" / "package.json").read_text())["version"] == version
