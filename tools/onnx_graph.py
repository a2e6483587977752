"""An ONNX graph that is built node by node, and the nodes that both of BLIP's graphs have.

The operators are ONNX's and ONNX Runtime's own (domain com.microsoft, documented in its docs/ContribOperators.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tools.blip_sizes import Array, Weights

MICROSOFT = "com.microsoft"
PAGE = 4096  # external data starts on a page, so that ONNX Runtime can map it


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


def product(g: Graph, x: str, name: str, matrix: Array, bias: Array) -> str:
    """Multiply in float32, and add the bias."""
    product = g("MatMul", x, g.weight(f"{name}.weight", matrix.T))
    return g("Add", product, g.weight(f"{name}.bias", bias))


def centred(g: Graph, x: str, matrix: str, weights: Weights) -> str:
    """Take away what the inputs of a matrix are on average, where the export wants that."""
    centre = weights(f"{matrix}.input_centre")
    return g("Sub", x, g.weight(f"{matrix}.input_centre", centre)) if centre.any() else x


def scaled(g: Graph, x: str, matrix: str, weights: Weights) -> str:
    """Multiply the inputs of a matrix by their factors, where the export has any."""
    factor = weights(f"{matrix}.input_factor")
    return g("Mul", x, g.weight(f"{matrix}.input_factor", factor)) if (factor != 1).any() else x


def layer_norm(g: Graph, x: str, name: str, weights: Weights, epsilon: float) -> str:
    """Normalise the last axis."""
    scale, bias = (g.weight(f"{name}.{part}", weights(f"{name}.{part}")) for part in ("weight", "bias"))
    return g("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)


def value_info(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    """Describe an input or output of a graph."""
    return helper.make_tensor_value_info(name, kind, shape)
