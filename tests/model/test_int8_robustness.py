"""Outliers planted in the embedded model, such as trained vision encoders have: the export does as its model does."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

import tools.int8_fidelity
from captioning.model.engine import GenerationOptions
from captioning.model.int8.engine import Int8Engine
from captioning.model.int8.manifest import MANIFEST, Manifest
from captioning.model.preprocessor import Preprocessor
from captioning.model.torch_engine import load_model
from tests.conftest import EMOJI_MODEL, SAMPLES
from tools.blip_sizes import Array, Sizes
from tools.export_int8 import ExportError, export
from tools.int8_balance import balance, column_sizes
from tools.int8_calibration import Channels, listening, refer, views
from tools.int8_fidelity import logits_error
from tools.plant_outliers import plant


def compare(model: Path, int8: Path) -> tuple[float, list[float]]:
    """Return the share of identical captions and the logits' errors, on the samples as they are and mirrored."""
    engine = Int8Engine(int8, num_threads=2)
    reference, tokenizer = load_model(model), AutoTokenizer.from_pretrained(model)
    same, errors = [], []
    for sample in SAMPLES:
        pixels = engine.preprocessor(Image.open(sample).convert("RGB"))[None]
        for picture in (pixels, np.ascontiguousarray(pixels[..., ::-1])):
            expected = refer(reference, tokenizer, picture)
            [(best, *_)] = engine.caption(picture, GenerationOptions()).candidates
            same.append(best.text == expected.caption)
            errors.append(logits_error(engine, picture, expected))
    return sum(same) / len(same), errors


@pytest.mark.parametrize(
    ("kinds", "factor", "seed"),
    [
        (("channels",), 120, 41),
        (("channels", "hidden", "values"), 120, 42),
        (("tokens",), 60, 43),
        (("channels", "hidden", "tokens"), 120, 44),
        (("channels", "values", "queries", "biases", "value_biases", "steady"), 120, 47),
        (("patches", "attended", "text_norms"), 40, 48),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else str(value),
)
def test_planted_outliers_cost_nothing(tmp_path: Path, kinds: tuple[str, ...], factor: float, seed: int) -> None:
    planted = plant(EMOJI_MODEL, tmp_path / "planted", kinds, factor, seed)
    export(str(planted), None, tmp_path / "int8")
    same, errors = compare(planted, tmp_path / "int8")
    assert same > 0.95  # of 24 captions, one may differ
    assert median(errors) < 0.025
    assert max(errors) < 0.1


def test_neurons_that_no_calibration_picture_woke_cost_nothing(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (64, 64), "gray").save(pictures / "grey.png")
    (pictures / "SOURCES.md").write_text("Not a picture: passed over.")
    planted = plant(EMOJI_MODEL, tmp_path / "planted", ("hidden", "channels"), 120, seed=45)
    export(str(planted), None, tmp_path / "int8", calibration=pictures)
    same, errors = compare(planted, tmp_path / "int8")
    assert same > 0.95
    assert median(errors) < 0.03
    assert max(errors) < 0.1


def test_a_row_that_is_large_as_a_whole_hides_no_small_column() -> None:
    weight = np.random.default_rng(46).standard_normal((64, 32)).astype(np.float32)
    weight[:, 5] /= 128
    planted = weight.copy()
    planted[[3, 40]] *= 128
    assert np.array_equal(column_sizes(planted), column_sizes(weight))
    assert column_sizes(weight).argmin() == 5


def test_the_balanced_model_is_the_same_function() -> None:
    model, tokenizer = load_model(EMOJI_MODEL), AutoTokenizer.from_pretrained(EMOJI_MODEL)
    pictures = views(SAMPLES[0].parent, Preprocessor.from_folder(EMOJI_MODEL))[:6]
    seen: dict[str, Channels] = {}

    def note(name: str, x: Array) -> None:
        seen[name] = seen[name] | Channels.of(x) if name in seen else Channels.of(x)

    with listening(model, note):
        expected = [refer(model, tokenizer, pixels) for pixels in pictures]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    balanced = balance(lambda name: state[name].numpy(), Sizes.of(model.config), seen)
    for name, tensor in model.state_dict().items():
        tensor.copy_(torch.from_numpy(balanced(name)))
    for name, module in model.named_modules():
        if name.endswith("mlp.fc2") or (name.endswith("output.dense") and "attention" not in name):
            centre, factor = (torch.from_numpy(balanced(f"{name}.input_{part}")) for part in ("centre", "factor"))
            module.register_forward_pre_hook(lambda _, inputs, c=centre, f=factor: ((inputs[0] - c) * f,))
    assert any(not torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    for pixels, before in zip(pictures, expected, strict=True):
        assert np.allclose(refer(model, tokenizer, pixels).logits, before.logits, rtol=1e-5, atol=1e-5)


def test_matrices_that_int8_serves_badly_stay_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.int8_fidelity, "LARGEST_PRODUCT_ERROR", 0)
    export(str(EMOJI_MODEL), None, tmp_path)
    fidelity = Manifest.read(tmp_path).fidelity
    assert fidelity is not None
    assert all(layer.exact for layer in fidelity.layers)
    assert max(layer.hidden_error or 0 for layer in fidelity.layers) < 1e-4
    assert fidelity.logits_error_median < 0.01  # the words stay in 8 bits


def test_an_export_too_far_from_its_model_is_refused_unless_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools.int8_fidelity, "LARGEST_MEDIAN_ERROR", 0.0001)
    with pytest.raises(ExportError, match=r"is not served: .* captions are float32's.*--accept"):
        export(str(EMOJI_MODEL), None, tmp_path)
    assert not (tmp_path / MANIFEST).exists()
    export(str(EMOJI_MODEL), None, tmp_path, accept=True)
    assert Manifest.read(tmp_path).fidelity
