"""ONNX graphs whose weights are stored in fewer bits than they compute in."""

from collections.abc import Callable

import numpy as np
import onnx

from lepton_runtime.tensors import Array

_SMALLEST_STORED = 32  # values; below that a cast node is larger than what it saves


def store_weights_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its weights in float16, computing in float32.

    Half the size at the speed of float32: onnxruntime turns the weights back when it loads them. It has next to
    no float16 kernels for CPUs; a graph of float16 operators runs slower there, between casts.
    Source: onnxruntime issue 25824.
    """
    limit = np.finfo(np.float16).max

    def store(_: str, values: Array) -> tuple[Array, Array | None] | None:
        return (values.astype(np.float16), None) if np.abs(values).max() <= limit else None

    return stored_smaller(model, store)


def stored_smaller(model: onnx.ModelProto, store: Callable[[str, Array], tuple[Array, Array | None] | None]) -> onnx.ModelProto:
    """The graph with float32 initializers kept in a smaller type, cast (and scaled) back by constant nodes."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        is_weight = values.dtype == np.float32 and values.size >= _SMALLEST_STORED
        stored = store(tensor.name, values) if is_weight else None
        if stored is None:
            tensors.append(tensor)
            continue
        small, scale = stored
        name = tensor.name
        tensors.append(onnx.numpy_helper.from_array(small, f"{name}/stored"))
        cast = name if scale is None else f"{name}/cast"
        nodes.append(onnx.helper.make_node("Cast", [f"{name}/stored"], [cast], to=onnx.TensorProto.FLOAT))
        if scale is not None:
            tensors.append(onnx.numpy_helper.from_array(scale, f"{name}/scale"))
            nodes.append(onnx.helper.make_node("Mul", [cast, f"{name}/scale"], [name]))
    nodes.extend(graph.node)
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(ordered)
    return result
