"""Even out the channels of a BLIP before its weights and activations are quantised; in float32 it stays the same.

One scale a tensor serves badly where some channels are a hundred times as large as the rest, which they are in trained
vision encoders. Two things are done about it, where a channel is written (a LayerNorm's gain and bias, the rows of a
matrix) and where it is read (the columns of a matrix, its bias).

*Centres*: what a channel is on average is taken away where it is written, and what comes of it is added to the bias of
each matrix that reads it. A channel that is large always, and hardly varies, needs no steps of its own then.

*Factors*: a channel is made smaller where it is written and its column larger where it is read. SmoothQuant
(arXiv:2211.10438, equation 4) gives the factor: with X the channel's largest value and W the size of its column,
s = X**alpha / W**(1 - alpha). Whatever factor a channel was planted with, s takes all of it back: X grows by it and W
shrinks by it. In the paper W is a column's largest weight, and one large row, of a neuron that is an outlier itself,
would hide all others. Here it is `column_sizes`.

All s are powers of two: they change no bits. Centres are coarse, too, so that runs whose activations differ in the last
bits nearly always make the same export.

Where nothing that is written can be changed, the graphs subtract and multiply: in front of the second matrix of an MLP,
and where a LayerNorm's output is the decoder's residual, too. There, it is done only if there are outliers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tools.blip_sizes import Array, Sizes, Weights
from tools.int8_calibration import Channels

ALPHA = 0.5
# A hidden neuron may be silent on all calibration pictures. What it does on others is told by its weights: LayerNorm
# makes inputs of variance 1, so the neuron's are about normal with the norm of its row as standard deviation.
DEVIATIONS = 6
OUTLIER = 8  # times the channel in the middle; beyond that, one more operator for all channels pays
GELU_LEAST = 0.17  # gelu(x) is never below -0.17


@dataclass(frozen=True)
class Balanced:
    """Hold a model's balanced weights, to be had by their names in the checkpoint."""

    weights: Weights
    factors: Mapping[str, Array]  # of a matrix' columns; its input is divided by them
    divisors: Mapping[str, Array]  # of a LayerNorm's gain and bias, or of a matrix' rows and bias
    centres: Mapping[str, Array]  # of a matrix' input; they are taken away from it, and what comes of them is its bias'
    lowered: Mapping[str, Array]  # of a LayerNorm's or a matrix' bias, before it is divided

    def __call__(self, name: str) -> Array:
        """Return a tensor.

        ``<matrix>.input_centre`` and ``<matrix>.input_factor`` are what is to be taken away from the matrix' input, and
        what it is to be multiplied by then, where nothing before it does so.
        """
        owner, _, part = name.rpartition(".")
        if part == "input_factor":
            return np.float32(1) / self.factors.get(owner, np.ones(1, np.float32))
        if part == "input_centre":
            return self.centres.get(owner, np.zeros(1, np.float32))
        tensor = self.weights(name)
        if owner in self.factors and part == "weight":
            tensor = tensor * self.factors[owner]
        if part == "bias":
            if owner in self.centres:
                tensor = tensor + self.weights(f"{owner}.weight") @ self.centres[owner]
            if owner in self.lowered:
                tensor = tensor - self.lowered[owner]
        if owner in self.divisors:
            tensor = tensor / self.divisors[owner].reshape(-1, *[1] * (tensor.ndim - 1))
        return tensor


def balance(weights: Weights, sizes: Sizes, seen: Mapping[str, Channels]) -> Balanced:
    """Balance a model; ``seen`` holds what was seen in each channel of a matrix' input."""
    factors: dict[str, Array] = {}
    divisors: dict[str, Array] = {}
    centres: dict[str, Array] = {}
    lowered: dict[str, Array] = {}

    def centre(*matrices: str) -> Array:
        """Choose what is taken away from the channels that these matrices read."""
        chosen = seen[matrices[0]].middle
        centres.update(dict.fromkeys(matrices, chosen))
        return chosen

    def share(largest: Array, *matrices: str) -> Array:
        """Choose the factors for matrices that read the same channels."""
        columns = np.max([column_sizes(weights(f"{matrix}.weight")) for matrix in matrices], axis=0)
        chosen = powers_of_two(largest, columns)
        factors.update(dict.fromkeys(matrices, chosen))
        return chosen

    def share_outliers(*matrices: str) -> Array | float:
        """Choose factors as `share` does where they are worth a product; matrices without outliers have none."""
        largest = seen[matrices[0]].largest(centres[matrices[0]])
        return share(largest, *matrices) if largest.max() > OUTLIER * np.median(largest) else 1

    def norm(name: str, *matrices: str) -> None:
        lowered[name] = centre(*matrices)
        divisors[name] = share(seen[matrices[0]].largest(lowered[name]), *matrices)

    def values(name: str, output: str, before: int = 0) -> None:
        """Treat attention's values; ``before`` rows of their matrix are others'."""
        centred = centre(output)
        factor = share(seen[output].largest(centred), output)
        lowered[name] = np.concatenate([np.zeros(before, np.float32), centred])
        divisors[name] = np.concatenate([np.ones(before, np.float32), factor])

    def mlp(norm: str, first: str, second: str) -> None:
        gain, shift = weights(f"{norm}.weight"), weights(f"{norm}.bias")
        rows = weights(f"{first}.weight")  # [inner, D]
        mean = rows @ shift + weights(f"{first}.bias")
        unseen = mean + DEVIATIONS * np.linalg.norm(rows * gain, axis=1)
        channels = seen[second]
        never_small = (channels.low > channels.high / 2) & (channels.low > OUTLIER * np.median(channels.largest()))
        steady = np.where(never_small, channels.middle, 0)
        if steady.any():
            centres[second] = steady
        share(np.maximum(channels.largest(steady), np.maximum(unseen - steady, GELU_LEAST)), second)

    for layer in range(sizes.vision_layers):
        prefix = f"vision_model.encoder.layers.{layer}."
        qkv, fc1 = prefix + "self_attn.qkv", prefix + "mlp.fc1"
        norm(prefix + "layer_norm1", qkv)
        values(qkv, prefix + "self_attn.projection", before=2 * sizes.vision_width)
        norm(prefix + "layer_norm2", fc1)
        mlp(prefix + "layer_norm2", fc1, prefix + "mlp.fc2")
    layers = [f"text_decoder.bert.encoder.layer.{layer}." for layer in range(sizes.text_layers)]
    norm(
        "vision_model.post_layernorm",
        *(f"{prefix}crossattention.self.{part}" for prefix in layers for part in ("key", "value")),
    )

    written = "text_decoder.bert.embeddings.LayerNorm"  # what the residual consists of

    def read(*matrices: str, added: str) -> None:
        """Centre what is read by matrices and by a sum, where another matrix' bias makes up for it."""
        nonlocal written
        lowered[written] = centre(*matrices)
        lowered[added] = -lowered[written]
        share_outliers(*matrices)
        written = added.removesuffix("dense") + "LayerNorm"

    for prefix in layers:
        for attention in ("attention", "crossattention"):
            values(f"{prefix}{attention}.self.value", f"{prefix}{attention}.output.dense")
        own, cross, inner = prefix + "attention.", prefix + "crossattention.", prefix + "intermediate.dense"
        read(*(f"{own}self.{part}" for part in ("query", "key", "value")), added=own + "output.dense")
        read(cross + "self.query", added=cross + "output.dense")
        read(inner, added=prefix + "output.dense")
        mlp(f"{prefix}crossattention.output.LayerNorm", inner, f"{prefix}output.dense")
    head = "text_decoder.cls.predictions."
    lowered[written] = centre(head + "transform.dense")
    share_outliers(head + "transform.dense")
    lowered[head + "transform.LayerNorm"] = centre(head + "decoder")
    divisors[head + "transform.LayerNorm"] = np.full(sizes.text_width, share_outliers(head + "decoder"), np.float32)
    return Balanced(weights, factors, divisors, centres, lowered)


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
