"""Options against repetition and what is told of a caption: both engines, both searches, against `generate`."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import BlipForConditionalGeneration
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from captioning.model.engine import Caption, Engine, GenerationOptions, Pixels
from captioning.model.int8.engine import Int8Engine
from captioning.model.int8.logits import against_repetition
from captioning.model.torch_engine import TorchEngine
from captioning.pictures.decoder import open_image
from tests.conftest import EMOJI_MODEL, SAMPLES

LOOPING = "a a a red red"  # a prompt that already repeats itself
OPTIONS = [
    GenerationOptions(),
    GenerationOptions(num_beams=3),
    GenerationOptions(max_new_tokens=2),
    GenerationOptions(num_beams=2, max_new_tokens=3),
    GenerationOptions(no_repeat_ngram_size=1),
    GenerationOptions(no_repeat_ngram_size=2, prompt=LOOPING),
    GenerationOptions(no_repeat_ngram_size=2, num_beams=3),
    GenerationOptions(no_repeat_ngram_size=1, num_beams=5, prompt=LOOPING),
    GenerationOptions(repetition_penalty=1.5),
    GenerationOptions(repetition_penalty=5.0, prompt=LOOPING),
    GenerationOptions(repetition_penalty=2.0, num_beams=3),
    GenerationOptions(repetition_penalty=0.5, num_beams=2, max_new_tokens=12),
    GenerationOptions(repetition_penalty=1.3, no_repeat_ngram_size=3, num_beams=4, prompt=LOOPING),
]


@pytest.fixture(scope="module")
def torch_engine() -> TorchEngine:
    return TorchEngine(EMOJI_MODEL, num_threads=1)


@pytest.fixture(scope="module")
def int8_engine(int8_folder: Path) -> Int8Engine:
    return Int8Engine(int8_folder, num_threads=1)


@pytest.fixture(scope="module")
def pictures(torch_engine: TorchEngine) -> Pixels:
    opened = [open_image(sample.read_bytes(), target_size=max(torch_engine.preprocessor.size)) for sample in SAMPLES]
    return np.stack([torch_engine.preprocessor(picture.decode()) for picture in opened])


@pytest.fixture(scope="module")
def model() -> Any:
    return BlipForConditionalGeneration.from_pretrained(EMOJI_MODEL).eval()


@torch.inference_mode()
def generated(model: Any, engine: TorchEngine, pictures: Pixels, options: GenerationOptions) -> list[list[Caption]]:
    """Return what `generate` itself says, summed up by transformers' own functions."""
    inputs: dict[str, Any] = {}
    prompt_tokens = 1
    if options.prompt:
        ids = torch.tensor([engine._input_ids(options.prompt)] * len(pictures))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        prompt_tokens = ids.shape[1] - 1
    answer: Any = model.generate(
        pixel_values=torch.from_numpy(pictures),
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        num_return_sequences=options.num_beams,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        repetition_penalty=options.repetition_penalty,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **inputs,
    )
    beams = {"beam_indices": answer.beam_indices} if options.num_beams > 1 else {}
    steps = model.text_decoder.compute_transition_scores(
        answer.sequences, answer.logits, normalize_logits=True, **beams
    )
    end = model.config.text_config.sep_token_id
    captions = []
    for number, (sequence, certainties) in enumerate(zip(answer.sequences, steps, strict=True)):
        new = sequence[prompt_tokens:].tolist()
        length = new.index(end) + 1 if end in new else len(new)
        certain = certainties[:length].double().mean().item()
        captions.append(
            Caption(
                str(engine._tokenizer.decode(sequence, skip_special_tokens=True)).strip(),
                confidence=math.exp(certain),
                score=answer.sequences_scores[number].item() if options.num_beams > 1 else certain,
                tokens=length - (end in new),
                finish_reason="end" if end in new else "length",
            )
        )
    return [captions[first : first + options.num_beams] for first in range(0, len(captions), options.num_beams)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_captions_and_what_is_told_of_them_are_those_of_generate(
    torch_engine: TorchEngine, model: Any, pictures: Pixels, options: GenerationOptions
) -> None:
    expected = generated(model, torch_engine, pictures, options)
    assert_alike(list(map(list, torch_engine.caption(pictures, options).candidates)), expected, tolerance=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_int8_engine_says_the_same(
    int8_engine: Int8Engine, torch_engine: TorchEngine, pictures: Pixels, options: GenerationOptions
) -> None:
    """Its probabilities are those of weights in 8 bits; the searches are compared below, on equal logits."""
    ours, theirs = (engine.caption(pictures, options).candidates for engine in (int8_engine, torch_engine))
    best = [[candidates[0] for candidates in captions] for captions in (ours, theirs)]
    alike = [one.text == other.text for one, other in zip(*best, strict=True)]
    assert sum(alike) >= 10
    for one, other in zip(*best, strict=True):
        if one.text == other.text:
            assert (one.tokens, one.finish_reason) == (other.tokens, other.finish_reason)
            assert one.confidence == pytest.approx(other.confidence, abs=0.1)
    assert [len(candidates) for candidates in ours] == [options.num_beams] * len(pictures)


def assert_alike(ours: list[list[Caption]], theirs: list[list[Caption]], *, tolerance: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert [caption.text for caption in one] == [caption.text for caption in other]
        assert [caption.tokens for caption in one] == [caption.tokens for caption in other]
        assert [caption.finish_reason for caption in one] == [caption.finish_reason for caption in other]
        for name in ("confidence", "score"):
            ours_, theirs_ = ([getattr(caption, name) for caption in captions] for captions in (one, other))
            assert ours_ == pytest.approx(theirs_, abs=tolerance)


@pytest.mark.parametrize("engine_name", ["torch_engine", "int8_engine"])
def test_the_options_do_what_they_are_for(request: pytest.FixtureRequest, engine_name: str, pictures: Pixels) -> None:
    engine: Engine = request.getfixturevalue(engine_name)
    free = engine.caption(pictures, GenerationOptions(prompt=LOOPING)).candidates
    assert any(has_repeated_pair(caption.text) for caption, *_ in free)
    for options in (
        GenerationOptions(no_repeat_ngram_size=1),
        GenerationOptions(no_repeat_ngram_size=1, num_beams=3),
    ):
        for candidates in engine.caption(pictures, options).candidates:
            for caption in candidates:
                words = caption.text.split()
                assert len(words) == len(set(words))


def has_repeated_pair(text: str) -> bool:
    words = text.split()
    pairs = list(itertools.pairwise(words))
    return len(pairs) > len(set(pairs))


@pytest.mark.parametrize("seed", range(20))
def test_the_processors_are_those_of_transformers(seed: int) -> None:
    chance = np.random.default_rng(seed)
    tokens: NDArray[np.int64] = chance.integers(0, 9, (5, seed + 1))
    scores = chance.normal(0, 3, (5, 9)).astype(np.float32)
    penalty, size = float(chance.choice([0.5, 1.0, 1.2, 3.0])), int(chance.integers(0, 5))
    expected = torch.from_numpy(scores.copy())
    if penalty != 1:
        expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.from_numpy(tokens), expected)
    if size:
        expected = NoRepeatNGramLogitsProcessor(size)(torch.from_numpy(tokens), expected)
    before = scores.copy()
    options = GenerationOptions(repetition_penalty=penalty, no_repeat_ngram_size=size)
    assert np.array_equal(against_repetition(scores, tokens, options), expected.numpy())
    assert np.array_equal(scores, before)
