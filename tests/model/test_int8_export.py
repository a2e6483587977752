"""The export command: what it writes, twice the same, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from captioning.model.engine import GenerationOptions
from captioning.model.hub import ModelLoadError
from captioning.model.int8.engine import Int8Engine
from captioning.model.int8.manifest import FORMAT_VERSION, Manifest
from captioning.settings import Settings
from model_loader import load_engine
from tests.conftest import EMOJI_MODEL, ROOT


def run_export(model: Path | str, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.export_int8", "--model", str(model), "--out", str(out), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the embedded model to break."""
    return shutil.copytree(EMOJI_MODEL, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("samples"))


def test_same_bytes_again_and_from_pickled_weights(checkpoint: Path, int8_folder: Path, tmp_path: Path) -> None:
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    finished = run_export(checkpoint, tmp_path / "out")
    assert finished.returncode == 0, finished.stderr
    assert "peaked at" in finished.stdout
    again, first = contents(tmp_path / "out"), contents(int8_folder)
    manifests = [json.loads(files.pop("int8.json")) for files in (again, first)]
    assert again == first
    # The float32 model adds up in another order where its weights lie at other addresses: the last digits may differ.
    logits = [manifest.pop("fidelity")["logits_error_median"] for manifest in manifests]
    assert logits[0] == pytest.approx(logits[1], abs=2e-4)
    differing = {key for key in manifests[0] if manifests[0][key] != manifests[1][key]}
    assert differing == {"source", "weights_sha256"}


def test_manifest_says_what_was_exported(int8_folder: Path) -> None:
    manifest = Manifest.read(int8_folder)
    config = json.loads((EMOJI_MODEL / "config.json").read_bytes())
    assert manifest.source == str(EMOJI_MODEL)
    assert manifest.bos_token_id == config["text_config"]["bos_token_id"]
    assert manifest.sep_token_id == config["text_config"]["sep_token_id"]


def test_large_weights_start_on_a_page(int8_folder: Path) -> None:
    for name in ("encoder", "decoder"):
        model = onnx.load(int8_folder / f"{name}.onnx", load_external_data=False)
        external = [tensor for tensor in model.graph.initializer if tensor.external_data]
        assert external
        for tensor in external:
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert int(place["offset"]) % 4096 == 0


def test_rows_of_zeros_do_no_harm(checkpoint: Path, tmp_path: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    weights["text_decoder.bert.embeddings.word_embeddings.weight"][7] = 0
    weights["vision_model.encoder.layers.0.mlp.fc1.weight"][3] = 0
    save_file(weights, checkpoint / "model.safetensors")
    assert run_export(checkpoint, tmp_path / "out").returncode == 0
    engine = Int8Engine(tmp_path / "out", num_threads=1)
    picture = np.zeros((1, 3, *engine.preprocessor.size), np.float32)
    assert engine.caption(picture, GenerationOptions(max_new_tokens=3)).candidates[0][0].text


@pytest.mark.parametrize(
    ("file", "key", "value", "sentence"),
    [
        ("config.json", "model_type", "bert", "holds a bert model"),
        ("config.json", "architectures", ["BlipForQuestionAnswering"], "BlipForQuestionAnswering"),
        ("config.json", "tie_word_embeddings", False, "sets tie_word_embeddings to False"),
        ("processor_config.json", "image_processor", {"size": 224}, "makes pictures of (224, 224)"),
        ("processor_config.json", "image_processor", {"image_processor_type": "ViTImageProcessor"}, "is not BLIP's"),
    ],
)
def test_refuses_another_model(
    checkpoint: Path, tmp_path: Path, file: str, key: str, value: object, sentence: str
) -> None:
    config = json.loads((checkpoint / file).read_bytes())
    (checkpoint / file).write_text(json.dumps({**config, key: value}))
    assert_refused(checkpoint, tmp_path, sentence)


def test_refuses_a_checkpoint_without_all_weights(checkpoint: Path, tmp_path: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    del weights["text_decoder.bert.encoder.layer.1.crossattention.self.key.weight"]
    save_file(weights, checkpoint / "model.safetensors")
    assert_refused(checkpoint, tmp_path, "text_decoder.bert.encoder.layer.1.crossattention.self.key.weight among them")
    (checkpoint / "model.safetensors").unlink()
    assert_refused(checkpoint, tmp_path, "neither model.safetensors nor pytorch_model.bin")


def test_refuses_an_export(int8_folder: Path, tmp_path: Path) -> None:
    assert_refused(int8_folder, tmp_path, "holds no config.json")


def assert_refused(model: Path, tmp_path: Path, sentence: str) -> None:
    finished = run_export(model, tmp_path / "out")
    assert finished.returncode == 1
    assert sentence in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "out" / "int8.json").exists()


@pytest.mark.parametrize("file", ["int8.json", "encoder.onnx", "decoder.weights", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_service_refuses_a_damaged_export(int8_folder: Path, tmp_path: Path, file: str, damage: str) -> None:
    folder = shutil.copytree(int8_folder, tmp_path / "export", ignore=shutil.ignore_patterns("prepacked"))
    if damage == "missing":
        (folder / file).unlink()
    else:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelLoadError, match=r"cannot be loaded.*make export"):
        load_engine(Settings(engine="int8", model_id=str(folder), num_threads=1))


@pytest.mark.parametrize("damage", ["none at all", "another machine's", "cut", "read-only"])
def test_prepacked_weights_are_made_anew_where_they_do_not_fit(int8_folder: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(int8_folder, tmp_path / "export")
    [prepacked] = (folder / "prepacked").iterdir()
    if damage == "none at all":
        shutil.rmtree(folder / "prepacked")
    elif damage == "another machine's":
        prepacked.rename(prepacked.with_name("0123456789abcdef"))
    elif damage == "cut":
        os.truncate(prepacked / "decoder.weights", 4096)
    else:
        shutil.rmtree(folder / "prepacked")
        (folder / "prepacked").write_text("a folder cannot be made here")
    engine = Int8Engine(folder, num_threads=1)
    picture = np.zeros((1, 3, *engine.preprocessor.size), np.float32)
    sound = Int8Engine(int8_folder, num_threads=1)
    assert (
        engine.caption(picture, GenerationOptions()).candidates
        == sound.caption(picture, GenerationOptions()).candidates
    )
    if damage != "read-only":
        assert [made.name for made in (folder / "prepacked").iterdir()] == [prepacked.name]
        assert (prepacked / "decoder.weights").stat().st_size > 4096


def test_service_refuses_another_format_by_its_number(int8_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(int8_folder, tmp_path / "export")
    manifest = {**json.loads((folder / "int8.json").read_bytes()), "format_version": 99}
    (folder / "int8.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelLoadError, match=f"of format 99.* reads format {FORMAT_VERSION}"):
        load_engine(Settings(engine="int8", model_id=str(folder)))


def test_service_refuses_a_checkpoint() -> None:
    with pytest.raises(ModelLoadError, match=r"not an int8 export.*make export"):
        load_engine(Settings(engine="int8", model_id=str(EMOJI_MODEL)))
