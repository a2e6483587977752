"""BLIP as two ONNX graphs with 8-bit weights, built node by node from a checkpoint's tensors.

`build_encoder` makes pixels -> the keys and values that every decoder layer's cross-attention needs; `build_decoder`
makes token ids and those -> the next token. Shapes are in the terms of transformers' BlipConfig: D is a hidden size,
H heads of width W, S the image's tokens (patches and the class token), T the decoder's new tokens, P its past ones.

The weights are balanced ones (tools/int8_balance.py). The operators are ONNX's and ONNX Runtime's own (domain
com.microsoft, documented in its docs/ContribOperators.md).
The encoder quantises activations as it runs, a tensor at a time, against int8 weights with a scale per output
channel. The decoder's weights are 8 bits in blocks along the input, and its activations are quantised per row and
block, which costs less accuracy and makes no row depend on its neighbours. Matrices named in ``exact`` stay float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

Array = NDArray[np.float32]
Weights = Callable[[str], Array]  # tensor by its name in the checkpoint, float32

MICROSOFT = "com.microsoft"
PAGE = 4096  # external data starts on a page, so that ONNX Runtime can map it
LARGEST_BLOCK = 128  # of 32 to 256: as quick as 256 and a fifth more exact; docs/performance.md has the figures


@dataclass(frozen=True)
class Sizes:
    """Hold what of BlipConfig shapes the graphs."""

    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    vision_epsilon: float
    text_width: int
    text_layers: int
    text_heads: int
    text_epsilon: float
    vocab_size: int

    @classmethod
    def of(cls, config: Any) -> Self:
        """Read them from a BlipConfig."""
        text, vision = config.text_config, config.vision_config
        return cls(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            vision_width=vision.hidden_size,
            vision_layers=vision.num_hidden_layers,
            vision_heads=vision.num_attention_heads,
            vision_epsilon=vision.layer_norm_eps,
            text_width=text.hidden_size,
            text_layers=text.num_hidden_layers,
            text_heads=text.num_attention_heads,
            text_epsilon=text.layer_norm_eps,
            vocab_size=text.vocab_size,
        )

    @property
    def image_tokens(self) -> int:
        """Return S: the patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def head_width(self) -> int:
        """Return W of the decoder."""
        return self.text_width // self.text_heads


class Graph:
    """Collect nodes; large weights go to a file next to the graph as they come, so that few are in memory at once."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._data: BinaryIO = (folder / f"{name}.weights").open("wb")
        self._digest = hashlib.sha256()
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, TensorProto] = {}

    def __call__(
        self, op: str, *inputs: str, out: str | Sequence[str] = "", domain: str = "", **attributes: Any
    ) -> str:
        """Add a node; return its (first) output, named after the node's number unless ``out`` says otherwise."""
        number = len(self._nodes)
        outputs = [out] if isinstance(out, str) else list(out)
        outputs[0] = outputs[0] or f"{op}_{number}"
        self._nodes.append(
            helper.make_node(op, list(inputs), outputs, name=f"{op}_{number}", domain=domain, **attributes)
        )
        return outputs[0]

    def weight(self, name: str, array: NDArray[np.generic], *, same_data_as: str = "") -> str:
        """Add a constant; ``same_data_as`` names one with the same bytes in another shape."""
        if name in self._weights:
            return name
        array = np.asarray(array, order="C")
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        if same_data_as:
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.extend(self._weights[same_data_as].external_data)
        elif array.nbytes < PAGE:
            tensor.raw_data = array.tobytes()
        else:
            self._data.write(b"\0" * (-self._data.tell() % PAGE))
            place = {"location": f"{self._name}.weights", "offset": self._data.tell(), "length": array.nbytes}
            self._data.write(array.data)
            self._digest.update(array.data)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
        self._weights[name] = tensor
        return name

    def integers(self, *values: int) -> str:
        """Add a constant vector of int64."""
        return self.weight("_".join(["integers", *map(str, values)]), np.array(values, np.int64))

    def save(self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> None:
        """Write the graph, the same bytes for the same calls."""
        self._data.close()
        graph = helper.make_graph(self._nodes, self._name, inputs, outputs, list(self._weights.values()))
        model = helper.make_model(
            graph,
            ir_version=10,
            opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)],
            producer_name="captioning",
            doc_string=f"weights: sha256 {self._digest.hexdigest()}",  # the graph's bytes tell the weights', too
        )
        (self._folder / f"{self._name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def quantize_channels(weight: Array) -> tuple[NDArray[np.int8], Array]:
    """Quantise ``[N, K]`` to int8 ``[K, N]`` with a scale for each output channel, ``[N]``."""
    largest = np.abs(weight).max(axis=1)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)  # an all-zero row would divide by zero
    return np.rint(weight / scale[:, None]).astype(np.int8).T, scale


def quantize_blocks(weight: Array) -> tuple[NDArray[np.uint8], Array]:
    """Quantise ``[N, K]`` to uint8 ``[N, K / block, block]`` around 128, with scales ``[N, K / block]``."""
    block = block_size(weight.shape[1])
    blocks = weight.reshape(len(weight), -1, block)
    largest = np.abs(blocks).max(axis=2)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return (np.rint(blocks / scale[..., None]) + 128).astype(np.uint8), scale


def block_size(width: int) -> int:
    """Return the largest power of two, up to 128, that divides the width."""
    return min(LARGEST_BLOCK, width & -width)


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
            return _product(g, x, name, matrix, bias)
        quantized, scale = quantize_channels(matrix)
        inputs = [g.weight(f"{name}.{part}", array) for part, array in (("weight", quantized), ("scale", scale))]
        return g("DynamicQuantizeMatMul", x, *inputs, "", g.weight(f"{name}.bias", bias), domain=MICROSOFT)

    def norm(x: str, name: str) -> str:
        return _layer_norm(g, x, name, weights, sizes.vision_epsilon)

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
        inner = _scaled(g, _centred(g, inner, prefix + "mlp.fc2", weights), prefix + "mlp.fc2", weights)
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
            outputs.append(_value(kept, TensorProto.INT8, 1, *heads))
            outputs.append(_value(scale, TensorProto.FLOAT, 1, 1, sizes.text_width))
    g.save([_value("pixel_values", TensorProto.FLOAT, 1, 3, side, side)], outputs)


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
            return _product(g, x, name, matrix, bias)
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
        return dense(_scaled(g, x, name, weights), name)

    def norm(x: str, name: str) -> str:
        return _layer_norm(g, x, name, weights, sizes.text_epsilon)

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
    words = _scaled(g, words, head + "decoder", weights)
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
                _scaled(g, x, own + "query", weights), own + "qkv", *(own + part for part in ("query", "key", "value"))
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
        inner = _centred(g, inner, prefix + "output.dense", weights)
        x = norm(g("Add", x, read(inner, prefix + "output.dense")), prefix + "output.LayerNorm")
        keys_and_values += [_value(name, TensorProto.FLOAT, "N", heads, "P", sizes.head_width) for name in past]
        cross_shape = ("B", heads, sizes.image_tokens, sizes.head_width)
        keys_and_values += [_value(name, TensorProto.INT8, *cross_shape) for name in cross]
        keys_and_values += [_value(name, TensorProto.FLOAT, "B", 1, width) for name in scales]
        presents += [_value(name, TensorProto.FLOAT, "N", heads, "P+T", sizes.head_width) for name in present]
        presents += [_value(f"{name}_present", TensorProto.INT8, *cross_shape) for name in cross]

    last = g("Gather", x, g.weight("last", np.array(-1, np.int64)), axis=1)  # [N, D]
    last = g("Gelu", read(last, head + "transform.dense"), domain=MICROSOFT)
    last = norm(last, head + "transform.LayerNorm")
    logits = matmul(last, "head", quantized, scale, weights(head + "decoder.bias"))
    g("Identity", logits, out="logits")
    token_ids, positions = _value("token_ids", TensorProto.INT64, "N", "T"), _value("positions", TensorProto.INT64, "T")
    g.save(
        [token_ids, positions, *keys_and_values],
        [_value("logits", TensorProto.FLOAT, "N", sizes.vocab_size), *presents],
    )


def _product(g: Graph, x: str, name: str, matrix: Array, bias: Array) -> str:
    product = g("MatMul", x, g.weight(f"{name}.weight", matrix.T))
    return g("Add", product, g.weight(f"{name}.bias", bias))


def _centred(g: Graph, x: str, matrix: str, weights: Weights) -> str:
    centre = weights(f"{matrix}.input_centre")
    return g("Sub", x, g.weight(f"{matrix}.input_centre", centre)) if centre.any() else x


def _scaled(g: Graph, x: str, matrix: str, weights: Weights) -> str:
    factor = weights(f"{matrix}.input_factor")
    return g("Mul", x, g.weight(f"{matrix}.input_factor", factor)) if (factor != 1).any() else x


def _layer_norm(g: Graph, x: str, name: str, weights: Weights, epsilon: float) -> str:
    scale, bias = (g.weight(f"{name}.{part}", weights(f"{name}.{part}")) for part in ("weight", "bias"))
    return g("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)


def _value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
