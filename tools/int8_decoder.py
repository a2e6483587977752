"""BLIP's text decoder as an ONNX graph: token ids, past and cross-attention's keys and values -> the next token.

Shapes are in the terms of transformers' BlipConfig: D is a hidden size, H heads of width W, S the image's tokens, T the
new tokens, P the past ones. The weights are balanced ones (tools/int8_balance.py), of 8 bits in blocks along the input.
Activations are quantised per row and block, which costs less accuracy and makes no row depend on its neighbours.
Matrices named in ``exact`` stay float32.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from tools.blip_sizes import Array, Sizes, Weights
from tools.int8_quantize import quantize_blocks
from tools.onnx_graph import MICROSOFT, Graph, centred, layer_norm, product, scaled, value_info


def build_decoder(folder: Path, sizes: Sizes, weights: Weights, exact: Collection[str] = ()) -> None:
    """Write decoder.onnx: token_ids ``[N, T]``, positions ``[T]``, past and cross keys and values -> what comes next.

    Past keys and values are ``[N, H, P, W]`` and come out as present ones, ``[N, H, P + T, W]``; cross ones are what
    the encoder wrote, for B pictures. Cross-attention masks nothing, so the N / B beams of a picture stand side by side
    as queries over its one set of keys and values: beams cost no copies of them. The logits ``[N, V]`` are the last
    token's.

    Cross-attention is `GroupQueryAttention`, which reads int8 keys and values: as past ones, to which nothing is added.
    Their present outputs are to be bound to the inputs' own memory, else they are copied. It takes more than one query
    a picture (beams, a prompt's tokens) only where B is 1.
    Source: transformers/models/blip/modeling_blip_text.py, BlipTextLMHeadModel.
    """
    g = Graph("decoder", folder)
    width, heads = sizes.text_width, sizes.text_heads

    def dense(x: str, name: str, *parts: str, shift: Array | None = None) -> str:
        """Multiply ``x``, or ``x`` and a constant shift, with the named matrices, one under the other."""
        parts = parts or (name,)
        matrix, bias = (np.concatenate([weights(f"{part}.{kind}") for part in parts]) for kind in ("weight", "bias"))
        if shift is not None:
            bias = bias + matrix @ shift
        if not set(parts).isdisjoint(exact):
            return product(g, x, name, matrix, bias)
        return matmul(x, name, *quantize_blocks(matrix), bias)

    def matmul(x: str, name: str, quantized: NDArray[np.uint8], scale: Array, bias: Array) -> str:
        rows, blocks, block = quantized.shape
        return g(
            "MatMulNBits",
            x,
            g.weight(f"{name}.weight", quantized),
            g.weight(f"{name}.scale", scale),
            "",
            "",
            g.weight(f"{name}.bias", bias),
            domain=MICROSOFT,
            K=blocks * block,
            N=rows,
            bits=8,
            block_size=block,
            accuracy_level=4,
        )

    def read(x: str, name: str) -> str:
        return dense(scaled(g, x, name, weights), name)

    def norm(x: str, name: str) -> str:
        return layer_norm(g, x, name, weights, sizes.text_epsilon)

    embeddings, head = "text_decoder.bert.embeddings.", "text_decoder.cls.predictions."
    quantized, scale = quantize_blocks(weights(head + "decoder.weight"))  # and the word embeddings
    g.weight("head.weight", quantized)
    words = g(
        "GatherBlockQuantized",
        g.weight("words", quantized.reshape(-1, width), same_data_as="head.weight"),
        "token_ids",
        g.weight("head.scale", scale),
        domain=MICROSOFT,
        bits=8,
        block_size=quantized.shape[2],
        gather_axis=0,
        quantize_axis=1,
    )  # [N, T, D]
    words = scaled(g, words, head + "decoder", weights)
    places = g("Gather", g.weight("places", weights(embeddings + "position_embeddings.weight")), "positions")
    x = norm(g("Add", words, places), embeddings + "LayerNorm")

    batch = g("Shape", "cross_key_0", start=0, end=1)
    side_by_side = g("Concat", batch, g.integers(-1, width), axis=0)
    none_new = g("ConstantOfShape", g("Concat", batch, g.integers(0, width), axis=0))  # [B, 0, D], float32
    tokens = np.array(sizes.image_tokens, np.int32)
    total, last_tokens = g.weight("tokens", tokens), g("Expand", g.weight("last_token", tokens - 1), batch)  # [], [B]
    one = g.weight("one", np.ones(1, np.float32))
    post_shift = weights("vision_model.post_layernorm.bias")
    one_by_one = g("Shape", x)
    keys_and_values = []
    presents = []
    for layer in range(sizes.text_layers):
        prefix = f"text_decoder.bert.encoder.layer.{layer}."
        own = prefix + "attention.self."
        qkv = [f"{part}_{layer}" for part in ("query", "key", "value")]  # [N, T, D] each
        g(
            "Split",
            dense(
                scaled(g, x, own + "query", weights), own + "qkv", *(own + part for part in ("query", "key", "value"))
            ),
            out=qkv,
            axis=2,
            num_outputs=3,
        )
        past = [f"past_{part}_{layer}" for part in ("key", "value")]
        present = [f"present_{part}_{layer}" for part in ("key", "value")]
        attended = g(
            "MultiHeadAttention",
            *(*qkv, "", "", "", *past),
            out=["", *present],
            domain=MICROSOFT,
            num_heads=heads,
            unidirectional=1,
        )  # [N, T, D]
        x = norm(g("Add", x, dense(attended, prefix + "attention.output.dense")), prefix + "attention.output.LayerNorm")

        cross = [f"cross_{part}_{layer}" for part in ("key", "value")]
        scales = [f"{name}_scale" for name in cross]
        query = g("Reshape", read(x, prefix + "crossattention.self.query"), side_by_side)  # [B, N / B * T, D]
        attended = g(
            "GroupQueryAttention",
            *(g("Mul", query, scales[0]), none_new, none_new, *cross, last_tokens, total),
            *("", "", "", "", "", one, one),
            out=["", *(f"{name}_present" for name in cross)],
            domain=MICROSOFT,
            num_heads=heads,
            kv_num_heads=heads,
            causal=0,
            k_quant_type="PER_TENSOR",
            v_quant_type="PER_TENSOR",
            kv_cache_bit_width=8,
        )
        attended = g("Reshape", g("Mul", attended, scales[1]), one_by_one)
        value = prefix + "crossattention.self.value"
        constant = weights(f"{value}.weight") @ post_shift + weights(f"{value}.bias")
        dense_out = dense(attended, prefix + "crossattention.output.dense", shift=constant)
        x = norm(g("Add", x, dense_out), prefix + "crossattention.output.LayerNorm")

        inner = g("Gelu", read(x, prefix + "intermediate.dense"), domain=MICROSOFT)
        inner = centred(g, inner, prefix + "output.dense", weights)
        x = norm(g("Add", x, read(inner, prefix + "output.dense")), prefix + "output.LayerNorm")
        keys_and_values += [value_info(name, TensorProto.FLOAT, "N", heads, "P", sizes.head_width) for name in past]
        cross_shape = ("B", heads, sizes.image_tokens, sizes.head_width)
        keys_and_values += [value_info(name, TensorProto.INT8, *cross_shape) for name in cross]
        keys_and_values += [value_info(name, TensorProto.FLOAT, "B", 1, width) for name in scales]
        presents += [value_info(name, TensorProto.FLOAT, "N", heads, "P+T", sizes.head_width) for name in present]
        presents += [value_info(f"{name}_present", TensorProto.INT8, *cross_shape) for name in cross]

    last = g("Gather", x, g.weight("last", np.array(-1, np.int64)), axis=1)  # [N, D]
    last = g("Gelu", read(last, head + "transform.dense"), domain=MICROSOFT)
    last = norm(last, head + "transform.LayerNorm")
    logits = matmul(last, "head", quantized, scale, weights(head + "decoder.bias"))
    g("Identity", logits, out="logits")
    token_ids, positions = (
        value_info("token_ids", TensorProto.INT64, "N", "T"),
        value_info("positions", TensorProto.INT64, "T"),
    )
    g.save(
        [token_ids, positions, *keys_and_values],
        [value_info("logits", TensorProto.FLOAT, "N", sizes.vocab_size), *presents],
    )
