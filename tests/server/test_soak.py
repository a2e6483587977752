"""Memory in the long run and at its worst; the long run at full length is benchmarks/soak.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import EMOJI_MODEL, ROOT


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "int8"])
def test_memory_does_not_grow_with_mixed_requests(engine: str, int8_folder: Path, tmp_path: Path) -> None:
    model = EMOJI_MODEL if engine == "torch" else int8_folder
    size = ["--requests", "300", "--settled", "100", "--bound", "0.08", "--max-pixels", "2000000"]
    command = [sys.executable, "-m", "benchmarks.soak", "--engine", engine, "--model", str(model), *size]
    command += ["--out", str(tmp_path / "soak.json"), "--plot", str(tmp_path / "soak.png")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert (tmp_path / "soak.png").stat().st_size > 10_000
