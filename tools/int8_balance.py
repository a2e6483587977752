"""Even out the channels of a BLIP before its weights and activations are quantised; in float32 it stays the same.

One scale a tensor serves badly where some channels are a hundred times as large as the rest, which they are in trained
vision encoders. Such a channel can be made smaller where it is written (a LayerNorm's gain and bias, the rows of a
matrix) and its column larger where it is read. SmoothQuant (arXiv:2211.10438, equation 4) gives the factor: with X the
channel's largest value and W the size of its column, s = X**alpha / W**(1 - alpha). Whatever factor a channel was
planted with, s takes all of it back: X grows by it and W shrinks by it. In the paper W is a column's largest weight,
and one large row, of a neuron that is an outlier itself, would hide all others. Here it is `column_sizes`.

All s are powers of two, so the balanced model is not merely close to the original: it computes the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tools.int8_graphs import Array, Sizes, Weights

ALPHA = 0.5
# A hidden neuron may be silent on all calibration pictures. What it does on others is told by its weights: LayerNorm
# makes inputs of variance 1, so the neuron's are about normal with the norm of its row as standard deviation.
DEVIATIONS = 6
GELU_LEAST = 0.17  # gelu(x) is never below -0.17


@dataclass(frozen=True)
class Balanced:
    """Hold a model's balanced weights, to be had by their names in the checkpoint."""

    weights: Weights
    factors: Mapping[str, Array]  # of a matrix' columns; its input is divided by them
    divisors: Mapping[str, Array]  # of a LayerNorm's gain and bias, or of a matrix' rows and bias

    def __call__(self, name: str) -> Array:
        """Return a tensor; ``<matrix>.input_factor`` is what the matrix' input is to be multiplied by."""
        owner, _, part = name.rpartition(".")
        if part == "input_factor":
            return np.float32(1) / self.factors[owner]
        tensor = self.weights(name)
        if owner in self.factors and part == "weight":
            tensor = tensor * self.factors[owner]
        if owner in self.divisors:
            tensor = tensor / self.divisors[owner].reshape(-1, *[1] * (tensor.ndim - 1))
        return tensor


def balance(weights: Weights, sizes: Sizes, largest: Mapping[str, Array]) -> Balanced:
    """Balance a model; ``largest`` holds what was seen at most in each channel of a matrix' input.

    What goes into the second matrix of an MLP comes out of a GELU, which no factor passes: the graphs multiply there.
    """
    factors: dict[str, Array] = {}
    divisors: dict[str, Array] = {}

    def share(seen: Array, *matrices: str) -> Array:
        """Choose the factors for matrices that read the same channels."""
        columns = np.max([column_sizes(weights(f"{matrix}.weight")) for matrix in matrices], axis=0)
        chosen = powers_of_two(seen, columns)
        factors.update(dict.fromkeys(matrices, chosen))
        return chosen

    def mlp(norm: str, first: str, second: str) -> None:
        gain, shift = weights(f"{norm}.weight"), weights(f"{norm}.bias")
        rows = weights(f"{first}.weight")  # [inner, D]
        mean = rows @ shift + weights(f"{first}.bias")
        unseen = mean + DEVIATIONS * np.linalg.norm(rows * gain, axis=1)
        share(np.maximum(largest[second], np.maximum(unseen, GELU_LEAST)), second)

    for layer in range(sizes.vision_layers):
        prefix = f"vision_model.encoder.layers.{layer}."
        qkv, projection, fc1 = prefix + "self_attn.qkv", prefix + "self_attn.projection", prefix + "mlp.fc1"
        divisors[prefix + "layer_norm1"] = share(largest[qkv], qkv)
        divisors[prefix + "layer_norm2"] = share(largest[fc1], fc1)
        values = share(largest[projection], projection)
        divisors[qkv] = np.concatenate([np.ones(2 * sizes.vision_width, np.float32), values])
        mlp(prefix + "layer_norm2", fc1, prefix + "mlp.fc2")
    layers = [f"text_decoder.bert.encoder.layer.{layer}." for layer in range(sizes.text_layers)]
    cross = [f"{prefix}crossattention.self.{part}" for prefix in layers for part in ("key", "value")]
    divisors["vision_model.post_layernorm"] = share(largest[cross[0]], *cross)
    for prefix in layers:
        for attention in ("attention", "crossattention"):
            output = f"{prefix}{attention}.output.dense"
            divisors[f"{prefix}{attention}.self.value"] = share(largest[output], output)
        mlp(f"{prefix}crossattention.output.LayerNorm", f"{prefix}intermediate.dense", f"{prefix}output.dense")

    return Balanced(weights, factors, divisors)


def column_sizes(weight: Array) -> Array:
    """Return the root mean square of each column of ``[N, K]``, its entries taken as shares of their rows' largest.

    Every row is quantised with a scale of its own, so a row that is large as a whole says nothing of the columns.
    """
    shares = weight / np.maximum(np.abs(weight).max(axis=1, keepdims=True), 1e-30)
    sizes: Array = np.sqrt(np.square(shares).mean(axis=0))
    return sizes


def powers_of_two(seen: Array, columns: Sequence[float] | Array) -> Array:
    """Return each channel's factor, 1 for the one in the middle."""
    seen, columns = (np.maximum(each, 1e-6 * np.max(each) + 1e-30) for each in (seen, np.asarray(columns)))  # no zeros
    exponent = ALPHA * np.log2(seen) - (1 - ALPHA) * np.log2(columns)
    rounded: Array = np.exp2(np.rint(exponent - np.median(exponent))).astype(np.float32)
    return rounded
