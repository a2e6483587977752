"""The torch engine's numbers: bfloat16 captions as float32 does, and auto takes it only where it is quicker."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from captioning.model import torch_engine
from captioning.model.engine import GenerationOptions
from captioning.model.torch_engine import TorchEngine, choose_dtype
from tests.conftest import EMOJI_MODEL, SAMPLES


def test_bfloat16_captions_the_samples_as_float32_does() -> None:
    engines = [TorchEngine(EMOJI_MODEL, num_threads=2, dtype=dtype) for dtype in ("float32", "bfloat16")]
    pixels = np.stack([engines[0].preprocessor(Image.open(sample).convert("RGB")) for sample in SAMPLES])
    for options in (GenerationOptions(), GenerationOptions(num_beams=2, prompt="a picture of")):
        float32, bfloat16 = (engine.caption(pixels, options).candidates for engine in engines)
        assert [one[0].text for one in bfloat16] == [one[0].text for one in float32]
        certain, again = ([one[0].confidence for one in captions] for captions in (float32, bfloat16))
        assert certain != again
        assert np.allclose(certain, again, atol=0.05)


@pytest.mark.parametrize(("bfloat16_s", "chosen"), [(0.5, torch.bfloat16), (0.9, torch.float32), (50, torch.float32)])
def test_auto_takes_bfloat16_only_where_it_is_quicker(
    monkeypatch: pytest.MonkeyPatch, bfloat16_s: float, chosen: torch.dtype
) -> None:
    seconds = {torch.float32: 1.0, torch.bfloat16: bfloat16_s}
    monkeypatch.setattr(torch_engine, "_seconds_of_a_product", seconds.__getitem__)
    assert choose_dtype("auto") == chosen
    assert choose_dtype("float32") == torch.float32
    assert choose_dtype("bfloat16") == torch.bfloat16
