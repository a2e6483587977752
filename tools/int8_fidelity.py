"""How near an int8 export is to its float32 model: matrix by matrix, layer by layer, and in its captions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper

from captioning.model.engine import GenerationOptions, Pixels
from captioning.model.int8.engine import Int8Engine
from captioning.model.int8.manifest import Fidelity, LayerFidelity
from tools.blip_sizes import Array
from tools.int8_balance import Balanced
from tools.int8_calibration import MAX_NEW_TOKENS, Reference
from tools.int8_quantize import block_size, quantize_blocks, quantize_channels

WORDS = "text_decoder.cls.predictions.decoder"  # always 8 bits: the embeddings are looked up in it
LARGEST_PRODUCT_ERROR = 0.05  # a matrix whose product is worse stays float32
SAMPLE = 4  # pictures, of those that calibrated, on which single matrices and layers are measured
LARGEST_MEDIAN_ERROR, LARGEST_ERROR = 0.05, 0.25  # of the logits: an export that is worse is refused


class Products:
    """Note, of every matrix product that is heard, what its outliers are and what quantising it costs."""

    def __init__(self, balanced: Balanced) -> None:
        self._balanced = balanced
        self._worst: dict[str, Array] = {}

    def hear(self, name: str, x: Array) -> None:
        """Take a matrix' name and its input ``[M, K]``, as `listening` tells them."""
        rows = []
        factor = self._balanced.factors.get(name, np.float32(1))
        centre = self._balanced.centres.get(name, np.float32(0))
        for weights, scaled in ((self._balanced.weights, x), (self._balanced, (x - centre) / factor)):
            largest = np.abs(scaled).max(axis=0)
            error = product_error(
                scaled, weights(f"{name}.weight"), blocks=layer_of(name).startswith(("text", "words"))
            )
            rows.append((largest.max() / max(np.median(largest), 1e-30), error))
        noted = np.array(rows, np.float32).T  # [outliers and error, plain and balanced]
        self._worst[name] = np.maximum(noted, self._worst.get(name, noted))

    @property
    def inexact(self) -> frozenset[str]:
        """Return the matrices that are to stay float32."""
        return frozenset(
            name for name, noted in self._worst.items() if name != WORDS and noted[1, 1] > LARGEST_PRODUCT_ERROR
        )

    def layers(self, hidden_errors: Mapping[str, float]) -> tuple[LayerFidelity, ...]:
        """Sum up by layer: its worst matrix."""
        by_layer: dict[str, list[str]] = {}
        for name in self._worst:
            by_layer.setdefault(layer_of(name), []).append(name)
        made = []
        for layer, names in by_layer.items():
            (outliers, balanced), (plain, error) = np.max([self._worst[name] for name in names], axis=0).tolist()
            made.append(
                LayerFidelity(
                    layer=layer,
                    outliers=round(outliers, 1),
                    balanced_outliers=round(balanced, 1),
                    plain_error=round(plain, 4),
                    error=round(error, 4),
                    hidden_error=hidden_errors.get(layer),
                    exact=tuple(sorted(self.inexact.intersection(names))),
                )
            )
        return tuple(made)


def product_error(x: Array, weight: Array, *, blocks: bool) -> float:
    """Return the relative error of ``x @ weight.T`` as the graphs compute it: the decoder in blocks along the input."""
    quantize = _quantized_blocks if blocks else _quantized
    exact = torch.from_numpy(x) @ torch.from_numpy(weight).T
    got = torch.matmul(*map(torch.from_numpy, quantize(x, weight)))
    return float((got - exact).norm() / exact.norm().clamp(min=1e-30))


def _quantized(x: Array, weight: Array) -> tuple[Array, Array]:
    # ONNX' DynamicQuantizeLinear: one scale and one zero point in uint8, and 0 is always exact.
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = np.float32(max((high - low) / 255, 1e-30))
    zero = np.rint(-low / scale)
    matrix, scales = quantize_channels(weight)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale, matrix * scales


def _quantized_blocks(x: Array, weight: Array) -> tuple[Array, Array]:
    blocks = x.reshape(len(x), -1, block_size(x.shape[1]))
    scale = np.maximum(np.abs(blocks).max(axis=2, keepdims=True) / 127, 1e-30)
    matrix, scales = quantize_blocks(weight)
    dequantized = (matrix.astype(np.float32) - 128) * scales[..., None]
    return (np.rint(blocks / scale) * scale).reshape(x.shape), dequantized.reshape(weight.shape).T


def layer_of(matrix: str) -> str:
    """Name the layer that a matrix belongs to, in words for the table."""
    if matrix.endswith(("crossattention.self.key", "crossattention.self.value")):
        return "cross-attention"  # these, of all the decoder's layers, stand in the encoder's graph
    number = re.search(r"layers?\.(\d+)\.", matrix)
    tower = "text" if matrix.startswith("text_decoder.") else "vision"
    return f"{tower} {number[1]}" if number else "words"


def logits_error(engine: Int8Engine, pixels: Pixels, reference: Reference) -> float:
    """Return the relative error of the logits after the float32 caption's tokens, the worst of them."""
    got = engine.logits(pixels, reference.tokens)[0]  # [N, V]
    errors = np.linalg.norm(got - reference.logits, axis=1) / np.linalg.norm(reference.logits, axis=1)
    return float(errors.max())


def hidden_errors(folder: Path, model: Any, pictures: Sequence[Pixels]) -> dict[str, float]:
    """Return by vision layer how far the exported graph's hidden states are from the model's, the worst picture's."""
    kept: dict[str, Array] = {}

    def keep(name: str, _: object, __: object, output: torch.Tensor) -> None:
        kept[name] = output.numpy()

    layers = {f"hidden_{number}": layer for number, layer in enumerate(model.vision_model.encoder.layers)}
    hooks = [layer.register_forward_hook(partial(keep, name)) for name, layer in layers.items()]
    graph = onnx.load(folder / "encoder.onnx", load_external_data=False)
    graph.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in layers)
    listening_graph = folder / "encoder.measured.onnx"  # in this folder, where the weights are
    listening_graph.write_bytes(graph.SerializeToString())
    try:
        session = onnxruntime.InferenceSession(str(listening_graph), providers=["CPUExecutionProvider"])
        worst = np.zeros(len(layers))
        for pixels in pictures:
            with torch.inference_mode():
                model.vision_model(torch.from_numpy(pixels))
            got = session.run(list(layers), {"pixel_values": pixels})
            errors = [
                np.linalg.norm(mine - kept[name]) / np.linalg.norm(kept[name])
                for name, mine in zip(layers, got, strict=True)
            ]
            worst = np.maximum(worst, errors)
    finally:
        listening_graph.unlink()
        for hook in hooks:
            hook.remove()
    return {f"vision {number}": round(float(error), 4) for number, error in enumerate(worst)}


def measure(
    folder: Path, model: Any, products: Products, pictures: Sequence[Pixels], references: Sequence[Reference]
) -> Fidelity:
    """Run the export in ``folder`` on the pictures that the references are of, and compare."""
    engine = Int8Engine(folder, num_threads=torch.get_num_threads())
    options = GenerationOptions(max_new_tokens=MAX_NEW_TOKENS)
    captions = [engine.caption(pixels, options).candidates[0][0].text for pixels in pictures]
    errors = [logits_error(engine, pixels, one) for pixels, one in zip(pictures, references, strict=True)]
    return Fidelity(
        pictures=len(pictures),
        identical=sum(caption == one.caption for caption, one in zip(captions, references, strict=True)),
        logits_error_median=round(median(errors), 4),
        logits_error_worst=round(max(errors), 4),
        layers=products.layers(hidden_errors(folder, model, pictures[:SAMPLE])),
    )


def is_faithful(fidelity: Fidelity) -> bool:
    """Tell whether an export is near enough to be served without a word."""
    return fidelity.logits_error_median <= LARGEST_MEDIAN_ERROR and fidelity.logits_error_worst <= LARGEST_ERROR


def table(fidelity: Fidelity) -> str:
    """Word the layers as a Markdown table."""
    lines = [
        "| layer | outliers | balanced | product error | balanced | hidden states | in float32 |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in fidelity.layers:
        hidden = "" if one.hidden_error is None else f"{one.hidden_error:.2%}"
        cells = [one.layer, f"{one.outliers:.1f}", f"{one.balanced_outliers:.1f}"]
        cells += [f"{one.plain_error:.2%}", f"{one.error:.2%}", hidden, ", ".join(one.exact)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
