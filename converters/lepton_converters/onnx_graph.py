"""tf2onnx on a frozen graph: with each weight in memory once, and with the same result each time."""

import copy
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import onnx

from lepton_converters.frozen_graph import FrozenGraph
from lepton_converters.memory import release_memory
from lepton_converters.onnx_operators import HANDLERS
from lepton_converters.quiet import quiet_tensorflow, reason_of
from lepton_converters.replaced import replaced
from lepton_runtime.errors import UnsupportedError


def fold_constants(graph: FrozenGraph) -> FrozenGraph:
    """The graph as tf2onnx takes it, with what depends on constants alone computed.

    Raises:
        UnsupportedError: TensorFlow cannot optimize the graph.
    """
    import tensorflow as tf
    import tf2onnx

    try:
        with quiet_tensorflow(), tf.Graph().as_default():
            definition = tf2onnx.tf_loader.tf_optimize(list(graph.inputs), list(graph.outputs), graph.definition)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UnsupportedError(f"TensorFlow must be able to fold the graph's constants: {reason_of(error)}") from error
    release_memory(graph.weights_bytes)
    return replace(graph, definition=definition)


def convert_graph(graph: FrozenGraph, opset: int) -> onnx.ModelProto:
    """The ONNX graph of a folded one; what tf2onnx cannot map, it leaves as it is, or raises."""
    import tf2onnx

    names = {"input_names": list(graph.inputs), "output_names": list(graph.outputs)}
    with quiet_tensorflow(), _frugal_tf2onnx():
        imported, _, _ = graph.imported()
        with imported.as_default():
            converted = tf2onnx.tfonnx.process_tf_graph(imported, continue_on_error=True, opset=opset, custom_op_handlers=HANDLERS, **names)
        del imported
        model: onnx.ModelProto = tf2onnx.optimizer.optimize_graph(converted).make_model("model")
    return model


def convert_tflite(path: str, opset: int) -> onnx.ModelProto:
    """The ONNX graph of a TFLite file; likewise."""
    import tf2onnx

    with quiet_tensorflow(), _frugal_tf2onnx():
        model: onnx.ModelProto = tf2onnx.convert.from_tflite(path, opset=opset)[0]
    return model


@contextmanager
def _frugal_tf2onnx() -> Iterator[None]:
    """Mend what costs tf2onnx memory, and what it leaves to chance.

    It copies the whole graph before each of its passes, and keeps the values of each constant twice. It takes the nodes
    that are needed, and those that take a value, from sets, so that their order, on which later passes depend, changes from
    process to process. Its pass over transpositions gives up on a graph that adds a single number to what a convolution
    gives, as a hard-swish does: all of them stay.
    Source: tf2onnx 1.17, optimizer/__init__.py, graph.py, optimizer/transpose_optimizer.py (``max(numpy_val.shape)``).
    """
    import tf2onnx

    update_proto = tf2onnx.graph.Node.update_proto
    find_needed, find_takers = tf2onnx.graph.Graph.extract_sub_graph_nodes, tf2onnx.graph.Graph.find_output_consumers

    def update_unless_constant(node: Any, storage: Any = None) -> None:  # what writes the graph takes the values from elsewhere
        if not node.is_const():
            update_proto(node, storage)

    def needed_in_order(graph: Any, *arguments: Any, **settings: Any) -> list[Any]:
        needed = set(find_needed(graph, *arguments, **settings))
        return [node for node in dict.fromkeys(graph.get_nodes()) if node in needed]

    def takers_in_order(graph: Any, name: str) -> list[Any]:
        return sorted(find_takers(graph, name), key=lambda node: _with_numbers(node.name))

    optimizer = tf2onnx.optimizer.transpose_optimizer.TransposeOptimizer
    add_to_convolution = optimizer._add_handler

    def add_unless_number(self: Any, transpose: Any, node: Any) -> bool:
        addend = node.inputs[1]
        if addend.is_const() and addend.get_tensor_value(as_list=False).ndim == 0:
            return bool(self._handle_node_having_branches(transpose, node))
        return bool(add_to_convolution(self, transpose, node))

    functions = [
        (optimizer, "_add_handler", add_unless_number),
        (tf2onnx.graph.Graph, "find_output_consumers", takers_in_order),
        (tf2onnx.optimizer, "copy", SimpleNamespace(deepcopy=_copy_but_constants)),
        (tf2onnx.graph.Node, "update_proto", update_unless_constant),
        (tf2onnx.graph.Graph, "extract_sub_graph_nodes", needed_in_order),
    ]
    with replaced(functions):
        yield


def _with_numbers(name: str) -> list[str | int]:
    """A name's parts, to sort ``x__9`` before ``x__10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _copy_but_constants(given: Any) -> Any:  # a graph, or a count of its nodes
    """A copy in which constants are the same objects: a pass puts another in the place of one, and changes none."""
    constants = [node for node in given.get_nodes() if node.is_const()] if hasattr(given, "get_nodes") else []
    for node in constants:
        del node._op.attribute[:]
    values = [node.attr["value"] for node in constants if "value" in node.attr]
    release_memory(sum(4 * math.prod(value.t.dims) for value in values))
    return copy.deepcopy(given, {id(value): value for value in values})
