"""What rewrites of frozen TensorFlow graphs ask of one, and how they put new constants in."""

from typing import Any

import numpy as np

from lepton_runtime.tensors import Array


def source_of(name: str) -> str:
    """The node that gives a tensor."""
    return name.lstrip("^").partition(":")[0]


def readers_of(graph_def: Any) -> dict[str, list[Any]]:
    """By the name of each node that is read, those that read it."""
    readers: dict[str, list[Any]] = {}
    for node in graph_def.node:
        for name in node.input:
            readers.setdefault(source_of(name), []).append(node)
    return readers


def shapes_of(graph_def: Any) -> dict[str, list[int | None]]:
    """By the name of each tensor as nodes name it, its shape, where the number of its axes is known."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    ranked = [tensor for op in graph.get_operations() for tensor in op.outputs if tensor.shape.rank is not None]
    return {tensor.name.removesuffix(":0"): tensor.shape.as_list() for tensor in ranked}


def add_constant(graph_def: Any, name: str, value: Array | np.generic) -> str:
    """The name of a new constant, of the number type of its value."""
    import tensorflow as tf

    constant = graph_def.node.add(name=name, op="Const")
    constant.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return name
