"""The torch engine's memory: a long caption takes hardly more than a short one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import BlipConfig, BlipImageProcessorPil, BlipProcessor

from benchmarks.make_blip_base import make_model, make_tokenizer
from tests.conftest import ROOT

BEAMS, TOKENS, WORDS = 5, 100, 30_524  # the last is BLIP-base's vocabulary
NARROW = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}

# In a process of its own: what other tests left behind in this one grows and shrinks meanwhile.
_MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
from captioning.model.engine import GenerationOptions
from captioning.model.torch_engine import TorchEngine
from tests.peak_memory import peak_memory

folder, beams, *lengths = sys.argv[1:]
engine = TorchEngine(Path(folder), num_threads=1)
for tokens in map(int, lengths):
    with peak_memory() as grown:
        options = GenerationOptions(num_beams=int(beams), max_new_tokens=tokens)
        generation = engine.caption(np.zeros((4, 3, 32, 32), np.float32), options)
        print(json.dumps([grown(), *(best.tokens for best, *_ in generation.candidates)]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that is small but for its vocabulary."""
    text = {**NARROW, "encoder_hidden_size": 32, "vocab_size": WORDS, "max_position_embeddings": 128}
    config = BlipConfig(text_config=text, vision_config={**NARROW, "image_size": 32, "patch_size": 16})
    make_model(config, seed=1).save_pretrained(tmp_path)
    processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    BlipProcessor(processor, make_tokenizer(tmp_path, config)).save_pretrained(tmp_path)
    return tmp_path


def test_the_logits_of_all_steps_are_never_there_at_once(folder: Path) -> None:
    lengths = (TOKENS, 3, TOKENS, TOKENS)  # the first call pays for what every later one finds loaded
    command = [sys.executable, "-c", _MEASURE, str(folder), str(BEAMS), *map(str, lengths)]
    measured = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert measured.returncode == 0, measured.stderr
    _, short, *long = [json.loads(line) for line in measured.stdout.splitlines()]
    assert [tokens for _, *tokens in long] == [[TOKENS] * 4] * 2
    grew = min(grown for grown, *_ in long) - short[0]
    assert grew < 0.25 * 4 * BEAMS * TOKENS * WORDS * np.float32().nbytes  # of what all logits would take
