"""The int8 engine against the torch engine and against transformers' own search, on the embedded model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from captioning.errors import InvalidParameter
from captioning.model.engine import Generation, GenerationOptions, Pixels
from captioning.model.int8 import sessions
from captioning.model.int8.beam_search import BeamSearch
from captioning.model.int8.engine import Int8Engine
from captioning.model.torch_engine import TorchEngine
from captioning.pictures.decoder import open_image
from tests.conftest import EMOJI_MODEL, ROOT, SAMPLES, Service

OPTIONS = [
    GenerationOptions(),
    GenerationOptions(max_new_tokens=1),
    GenerationOptions(max_new_tokens=5),
    GenerationOptions(prompt="a picture of"),
    GenerationOptions(num_beams=2),
    GenerationOptions(num_beams=3, prompt="a picture of"),
    GenerationOptions(num_beams=5, max_new_tokens=7),
]


def best_texts(generation: Generation) -> list[str]:
    return [best.text for best, *_ in generation.candidates]


@pytest.fixture(scope="module")
def int8(int8_folder: Path) -> Int8Engine:
    return Int8Engine(int8_folder, num_threads=1)


@pytest.fixture(scope="module")
def reference() -> TorchEngine:
    return TorchEngine(EMOJI_MODEL, num_threads=1)


@pytest.fixture(scope="module")
def pictures(int8: Int8Engine) -> Pixels:
    opened = [open_image(sample.read_bytes(), target_size=max(int8.preprocessor.size)) for sample in SAMPLES]
    return np.stack([int8.preprocessor(picture.decode()) for picture in opened])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_captions_are_the_torch_engines_alone_and_in_batches(
    int8: Int8Engine, reference: TorchEngine, pictures: Pixels, options: GenerationOptions
) -> None:
    generated = reference.caption(pictures, options)
    expected = best_texts(generated)
    alone = [int8.caption(picture[None], options) for picture in pictures]
    assert [text for one in alone for text in best_texts(one)] == expected
    assert sum(one.tokens for one in alone) == generated.tokens
    assert best_texts(int8.caption(pictures[:5], options)) + best_texts(int8.caption(pictures[5:], options)) == expected


def test_tokens_are_those_of_the_caption_without_its_prompt(
    int8: Int8Engine, reference: TorchEngine, pictures: Pixels
) -> None:
    for engine in (int8, reference):
        for prompt in ("", "a picture of"):
            generation = engine.caption(pictures[:3], GenerationOptions(prompt=prompt))
            words = [caption.removeprefix(prompt).split() for caption in best_texts(generation)]
            assert generation.tokens == sum(map(len, words))  # the embedded model has a token for each of its words
            assert generation.encode_s > 0
            assert generation.decode_tokens_s > 0


def test_neighbours_in_a_batch_change_nothing(int8: Int8Engine, pictures: Pixels) -> None:
    # Pictures unlike any other, whose activations are far larger.
    strange = np.concatenate([pictures * 10, -pictures])
    alone = [best_texts(int8.caption(picture[None], GenerationOptions()))[0] for picture in pictures]
    among = best_texts(int8.caption(np.concatenate([strange, pictures]), GenerationOptions()))[len(strange) :]
    assert among == alone


def test_captions_are_the_torch_engines_on_the_path_of_cpus_without_vnni(
    int8_folder: Path, reference: TorchEngine, pictures: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_cpu", lambda: "flags: avx2")
    monkeypatch.setattr(sessions, "_prepack", lambda folder, target: False)  # another process, which knows its CPU
    engine = Int8Engine(int8_folder, num_threads=1)
    got = [best_texts(engine.caption(picture[None], GenerationOptions()))[0] for picture in pictures]
    assert got == best_texts(reference.caption(pictures, GenerationOptions()))


def test_refuses_a_prompt_that_the_model_has_no_room_for(int8: Int8Engine, reference: TorchEngine) -> None:
    fits = GenerationOptions(prompt="a " * 42, max_new_tokens=20)  # with [CLS] and [SEP], 64 positions
    int8.check(fits)
    for engine in (int8, reference):
        with pytest.raises(InvalidParameter, match=r"prompt is too long: .* room for 19 new tokens"):
            engine.check(GenerationOptions(prompt="a " * 43, max_new_tokens=20))
        with pytest.raises(InvalidParameter, match="maxNewTokens: this model has room for at most 62"):
            engine.check(GenerationOptions(max_new_tokens=63))


def random_decoder(seed: int, end: int) -> Any:
    """Make a text decoder of random weights, which ends captions often."""
    torch.manual_seed(seed)
    config = BlipTextConfig(
        vocab_size=12,
        hidden_size=16,
        encoder_hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=1,
        eos_token_id=end,
        sep_token_id=end,
        pad_token_id=0,
        initializer_range=0.5,
    )
    return BlipTextLMHeadModel(config).eval()


AGAINST: list[dict[str, Any]] = [
    {},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 1, "repetition_penalty": 0.7},
]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("against", AGAINST, ids=str)
@pytest.mark.parametrize(("beams", "max_new_tokens"), [(2, 1), (2, 12), (3, 6), (5, 12)])
def test_beam_search_is_that_of_transformers(
    seed: int, beams: int, max_new_tokens: int, against: dict[str, Any]
) -> None:
    end = 3
    model = random_decoder(seed, end)
    start = torch.tensor([[1, 5], [1, 7], [1, 9]])
    image = torch.randn(3, 4, 16)  # what cross-attention looks at
    with torch.inference_mode():
        expected: Any = model.generate(
            input_ids=start,
            encoder_hidden_states=image,
            encoder_attention_mask=torch.ones(3, 4),
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
            **against,
        )
        certain = model.compute_transition_scores(
            expected.sequences, expected.logits, expected.beam_indices, normalize_logits=True
        )
        options = GenerationOptions(num_beams=beams, max_new_tokens=max_new_tokens, **against)
        search = BeamSearch(start.numpy(), options, end=end)
        sequences = start[:, None].repeat(1, beams, 1)  # [B, K, T]
        while not search.done:
            answer = model(
                input_ids=sequences.flatten(0, 1),
                encoder_hidden_states=image.repeat_interleave(beams, 0),
                use_cache=False,
            )
            logits = answer.logits[:, -1].unflatten(0, (3, beams)).numpy()
            chosen, parents = (torch.from_numpy(part) for part in search.step(logits))
            sequences = torch.cat([sequences.take_along_dim(parents[..., None], 1), chosen[..., None]], 2)
    found = [beam for beams in search.best() for beam in beams]
    for beam, wanted, score, steps in zip(
        found, expected.sequences[:, 2:].tolist(), expected.sequences_scores, certain, strict=True
    ):
        length = wanted.index(end) + 1 if end in wanted else len(wanted)
        assert beam.tokens == wanted[:length]
        assert beam.score == pytest.approx(score.item(), abs=1e-5)
        assert beam.log_probabilities == pytest.approx(steps[:length].tolist(), abs=1e-4)


def test_process_that_captions_never_imports_torch(int8_folder: Path) -> None:
    program = f"""
import os, sys
os.environ.update(ENGINE="int8", MODEL_ID={str(int8_folder)!r}, NUM_THREADS="1")
from captioning.settings import load_settings
from model_loader import load_engine
load_engine(load_settings())  # captions a picture to warm up
print(sorted({{"torch", "transformers", "onnx", "huggingface_hub"}} & set(sys.modules)))
"""
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.stdout.strip() == "[]", finished.stderr


def test_real_worker_captions_without_torch(
    int8_folder: Path,
    int8: Int8Engine,
    pictures: Pixels,
    start_service: Callable[..., Service],
    tmp_path: Path,
) -> None:
    modules = tmp_path / "modules"
    config = tmp_path / "gunicorn.conf.py"
    config.write_text(
        f"""
exec(open({str(ROOT / "gunicorn.conf.py")!r}).read())

import sys
imported = open({str(modules)!r}, "a", buffering=1)
sys.addaudithook(lambda event, arguments: event == "import" and print(arguments[0], file=imported))
"""
    )
    service = start_service(ENGINE="int8", MODEL_ID=str(int8_folder), GUNICORN_CMD_ARGS=f"--config {config}")
    service.wait_until_ready()
    answers = [service.upload(sample.read_bytes()).json()["output"] for sample in SAMPLES]
    assert answers == [best_texts(int8.caption(picture[None], GenerationOptions()))[0] for picture in pictures]
    assert service.get("/readyz").json()["engine"] == "int8"
    fidelity = int8.manifest.fidelity
    assert fidelity is not None
    assert service.get("/readyz?verbose").json()["fidelity"] == fidelity.model_dump(by_alias=True, mode="json")
    assert str(fidelity) in service.log.read_text()
    assert service.stop() == 0
    imported = modules.read_text().split()
    assert "onnxruntime" in imported
    assert not {"torch", "transformers", "onnx"} & set(imported)
