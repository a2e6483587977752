"""BLIP's vision tower as an ONNX graph: pixels -> the keys and values that each decoder layer's cross-attention needs.

Shapes are in the terms of transformers' BlipConfig: D is a hidden size, H heads of width W, S the image's tokens
(patches and the class token). The weights are balanced ones (tools/int8_balance.py). Activations are quantised as the
graph runs, a tensor at a time, against int8 weights with a scale per output channel. Matrices named in ``exact`` stay
float32.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from onnx import TensorProto

from tools.blip_sizes import Array, Sizes, Weights
from tools.int8_quantize import quantize_channels
from tools.onnx_graph import MICROSOFT, Graph, centred, layer_norm, product, scaled, value_info


def build_encoder(folder: Path, sizes: Sizes, weights: Weights, exact: Collection[str] = ()) -> None:
    """Write encoder.onnx: pixel_values ``[1, 3, side, side]`` -> each decoder layer's cross-attention keys and values.

    These are int8 ``cross_key_i``, ``cross_value_i`` ``[1, H, S, W]``, each with its ``_scale_i`` ``[1, 1, D]``. They
    lack what is the same for all tokens: to softmax that is nothing in the keys, and in the values the decoder adds it.

    One picture at a time: activations are quantised a whole tensor at a time, so in a batch each picture's caption
    would depend on its neighbours, and a batch is no faster: one picture's hundreds of tokens fill the CPU.
    Source: transformers/models/blip/modeling_blip.py, BlipVisionModel; modeling_blip_text.py, BlipTextSelfAttention.
    """
    g = Graph("encoder", folder)
    width, side = sizes.vision_width, sizes.image_size

    def dense(x: str, name: str) -> str:
        return matmul(x, name, weights(f"{name}.weight"), weights(f"{name}.bias"))

    def matmul(x: str, name: str, matrix: Array, bias: Array) -> str:
        if name in exact:
            return product(g, x, name, matrix, bias)
        quantized, scale = quantize_channels(matrix)
        inputs = [g.weight(f"{name}.{part}", array) for part, array in (("weight", quantized), ("scale", scale))]
        return g("DynamicQuantizeMatMul", x, *inputs, "", g.weight(f"{name}.bias", bias), domain=MICROSOFT)

    def norm(x: str, name: str) -> str:
        return layer_norm(g, x, name, weights, sizes.vision_epsilon)

    prefix = "vision_model.embeddings."
    position = weights(prefix + "position_embedding")  # [1, S, D]
    patches = g(
        "Conv",
        "pixel_values",
        g.weight("patch.weight", weights(prefix + "patch_embedding.weight")),  # [D, 3, patch, patch]
        g.weight("patch.bias", weights(prefix + "patch_embedding.bias")),
        strides=[sizes.patch_size] * 2,
    )  # [1, D, side / patch, side / patch]
    patches = g("Transpose", g("Reshape", patches, g.integers(1, width, -1)), perm=[0, 2, 1])  # [1, S - 1, D]
    patches = g("Add", patches, g.weight("patch.position", position[:, 1:]))
    first = g.weight("class.embedding", weights(prefix + "class_embedding") + position[:, :1])  # [1, 1, D]
    x = g("Concat", first, patches, axis=1)  # [1, S, D]
    for layer in range(sizes.vision_layers):
        prefix = f"vision_model.encoder.layers.{layer}."
        qkv = [f"{part}_{layer}" for part in ("query", "key", "value")]  # [1, S, D] each
        g("Split", dense(norm(x, prefix + "layer_norm1"), prefix + "self_attn.qkv"), out=qkv, axis=2, num_outputs=3)
        attended = g("MultiHeadAttention", *qkv, domain=MICROSOFT, num_heads=sizes.vision_heads)
        x = g("Add", x, dense(attended, prefix + "self_attn.projection"))
        inner = g("Gelu", dense(norm(x, prefix + "layer_norm2"), prefix + "mlp.fc1"), domain=MICROSOFT)
        inner = scaled(g, centred(g, inner, prefix + "mlp.fc2", weights), prefix + "mlp.fc2", weights)
        x = g("Add", x, dense(inner, prefix + "mlp.fc2"), out=f"hidden_{layer}")
    x = norm(x, "vision_model.post_layernorm")

    gain, shift = (weights(f"vision_model.post_layernorm.{part}") for part in ("weight", "bias"))
    heads = (sizes.text_heads, sizes.image_tokens, sizes.head_width)
    outputs = []
    for layer in range(sizes.text_layers):
        for part in ("key", "value"):
            name = f"text_decoder.bert.encoder.layer.{layer}.crossattention.self.{part}"
            rows = weights(f"{name}.weight")  # [D, vision's D]
            # What LayerNorm lets vary has a variance of 1, so this is about each channel's standard deviation.
            deviation = np.maximum(np.linalg.norm(rows * gain, axis=1), 1e-12)
            rows = rows / deviation[:, None]
            varying = matmul(x, name, rows, -rows @ shift)  # [1, S, D], all channels about alike
            largest = g("Max", g("ReduceMax", varying, keepdims=0), g("Neg", g("ReduceMin", varying, keepdims=0)))
            step = g(
                "Max",
                g("Div", largest, g.weight("127", np.array(127, np.float32))),
                g.weight("least", np.array(1e-12, np.float32)),
            )
            rounded = g("QuantizeLinear", varying, step, g.weight("zero", np.array(0, np.int8)))
            split = g("Reshape", rounded, g.integers(1, sizes.image_tokens, sizes.text_heads, sizes.head_width))
            kept = g("Transpose", split, out=f"cross_{part}_{layer}", perm=[0, 2, 1, 3])  # [1, H, S, W]
            deviations = g.weight(f"{name}.deviation", deviation[None, None].astype(np.float32))
            scale = g("Mul", step, deviations, out=f"cross_{part}_{layer}_scale")
            outputs.append(value_info(kept, TensorProto.INT8, 1, *heads))
            outputs.append(value_info(scale, TensorProto.FLOAT, 1, 1, sizes.text_width))
    g.save([value_info("pixel_values", TensorProto.FLOAT, 1, 3, side, side)], outputs)
