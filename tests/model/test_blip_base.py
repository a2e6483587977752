"""The real architecture at its real size, with random weights: it becomes ready and answers as transformers does."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil, BlipProcessor

from tests.conftest import ROOT, SAMPLES, Service

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def blip_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blip-base")
    command = [sys.executable, "-m", "benchmarks.make_blip_base", "--out", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return folder


def test_the_service_serves_blip_base(start_service: Callable[..., Service], blip_base: Path) -> None:
    service = start_service(MODEL_ID=str(blip_base), REQUEST_TIMEOUT_S="120").wait_until_ready()
    answers = [
        service.upload(sample.read_bytes(), params={"maxNewTokens": 6}).json()["output"] for sample in SAMPLES[:2]
    ]
    assert service.stop() == 0
    processor = BlipProcessor(
        BlipImageProcessorPil.from_pretrained(blip_base), AutoTokenizer.from_pretrained(blip_base)
    )
    model = BlipForConditionalGeneration.from_pretrained(blip_base).eval()
    with torch.inference_mode():
        for sample, answer in zip(SAMPLES[:2], answers, strict=True):
            inputs = processor(images=Image.open(io.BytesIO(sample.read_bytes())).convert("RGB"), return_tensors="pt")
            tokens = model.generate(**inputs, max_new_tokens=6)
            assert answer == processor.decode(tokens[0], skip_special_tokens=True)
            assert len(answer.split()) > 2
