"""The torch engine's memory: a long caption takes hardly more than a short one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import BlipConfig, BlipImageProcessorPil, BlipProcessor

from benchmarks.make_blip_base import make_model, make_tokenizer
from captioning.model.engine import GenerationOptions
from captioning.model.torch_engine import TorchEngine
from tests.peak_memory import peak_memory

BEAMS, TOKENS, WORDS = 5, 100, 30_524  # the last is BLIP-base's vocabulary
NARROW = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def engine(tmp_path: Path) -> TorchEngine:
    """A model that is small but for its vocabulary."""
    text = {**NARROW, "encoder_hidden_size": 32, "vocab_size": WORDS, "max_position_embeddings": 128}
    config = BlipConfig(text_config=text, vision_config={**NARROW, "image_size": 32, "patch_size": 16})
    make_model(config, seed=1).save_pretrained(tmp_path)
    processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    BlipProcessor(processor, make_tokenizer(tmp_path, config)).save_pretrained(tmp_path)
    return TorchEngine(tmp_path, num_threads=1)


def test_the_logits_of_all_steps_are_never_there_at_once(engine: TorchEngine) -> None:
    pixels = np.zeros((4, 3, 32, 32), np.float32)
    growths = []
    for tokens in (TOKENS, 3, TOKENS, TOKENS):  # the first call pays for what every later one finds loaded
        with peak_memory() as grown:
            generation = engine.caption(pixels, GenerationOptions(num_beams=BEAMS, max_new_tokens=tokens))
            growths.append(grown())
    assert [best.tokens for best, *_ in generation.candidates] == [TOKENS] * 4
    grew = min(growths[2:]) - growths[1]
    assert grew < 0.25 * 4 * BEAMS * TOKENS * WORDS * np.float32().nbytes  # of what all logits would take
