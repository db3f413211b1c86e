"""The form of a frozen TensorFlow graph that TFLite computes well in 8 bits.

A softmax is masked by a number that 8 bits can hold beside others, instead of Keras' -1e9. Numbers are made of truth values by a
choice: TFLite takes a cast 1 for its own smallest step. Instead of dividing, it is multiplied by reciprocals: TFLite's 8-bit
quotients are wrong where a divisor is small beside the others. A batch normalization that stands by itself is a convolution. A
hard-swish is products and a sum, which XNNPACK computes in 8 bits.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_converters.graph_def import add_constant, readers_of, shapes_of, source_of

_MASK = 1e8
_MIXING = ("Add", "AddV2", "Sub", "Select", "SelectV2", "Minimum", "Maximum")
_MASKING = (*_MIXING, "Mul", "Neg", "Identity", "Cast", "Reshape", "ExpandDims", "Squeeze", "Transpose", "BroadcastTo")
_SHIFT = 3.0  # of a hard-swish
_SOFT_MASK = 32.0  # its exponential is 1e-14 of that of an equal score without it
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput")
_ELEMENTWISE = ("AddV2", "Identity", "Mul", "Neg", "Rsqrt", "Sub")


def needs_8_bit_form(graph_def: Any) -> bool:
    """Whether a graph that was frozen for floats has what 8 bits need in another form."""
    return any(find(graph_def) for find, _ in _BEYOND_8_BITS)


def take_8_bit_form(graph_def: Any) -> None:
    """Give a ``GraphDef`` that form, in place."""
    for find, mend in _BEYOND_8_BITS:
        for node in find(graph_def):
            mend(node, graph_def)


def _softmax_masks(graph_def: Any) -> list[Any]:
    """The constants of a graph that mask a softmax: beside their values, 8 bits hold no others."""
    import tensorflow as tf

    readers = readers_of(graph_def)

    def masks(constant: Any) -> bool:
        """Whether all that comes of it is added to, or chosen among, what a softmax takes."""
        pending, seen = [(reader, False) for reader in readers.get(constant.name, [])], set()
        while pending:
            node, is_beside = pending.pop()
            if node.op == "Softmax" and is_beside:
                continue
            if node.op not in _MASKING or node.name not in readers:
                return False
            is_beside = is_beside or node.op in _MIXING
            if (node.name, is_beside) not in seen:
                seen.add((node.name, is_beside))
                pending.extend((reader, is_beside) for reader in readers[node.name])
        return bool(seen)

    constants = [node for node in graph_def.node if node.op == "Const" and node.attr["dtype"].type == tf.float32.as_datatype_enum]
    # The walk is cheap, the values are all of the network's weights.
    return [node for node in constants if masks(node) and np.abs(tf.make_ndarray(node.attr["value"].tensor)).max(initial=0) >= _MASK]


def _truth_casts(graph_def: Any) -> list[Any]:
    """The operators of a graph that make float32 numbers of truth values."""
    import tensorflow as tf

    types = tf.bool.as_datatype_enum, tf.float32.as_datatype_enum
    return [node for node in graph_def.node if node.op == "Cast" and (node.attr["SrcT"].type, node.attr["DstT"].type) == types]


def _choose(node: Any, graph_def: Any) -> None:
    """Put a choice of 1 and 0 in the place of a cast."""
    import tensorflow as tf

    node.op = "SelectV2"
    node.input.extend(add_constant(graph_def, f"{node.name}/{value}", np.float32(value)) for value in (1, 0))
    node.attr.clear()
    node.attr["T"].type = tf.float32.as_datatype_enum


def _quotients(graph_def: Any) -> list[Any]:
    """The divisions of a graph of which neither operand is constant, of float32 numbers."""
    import tensorflow as tf

    constants = {node.name for node in graph_def.node if node.op == "Const"}
    divisions = [node for node in graph_def.node if node.op == "RealDiv" and node.attr["T"].type == tf.float32.as_datatype_enum]
    return [node for node in divisions if not {name.partition(":")[0] for name in node.input} & constants]


def _multiply(node: Any, graph_def: Any) -> None:
    """Put a product with the reciprocal in the place of a division."""
    reciprocal = graph_def.node.add(name=f"{node.name}/reciprocal", op="Reciprocal", input=[node.input[1]])
    reciprocal.attr["T"].CopyFrom(node.attr["T"])
    node.op = "Mul"
    node.input[1] = reciprocal.name


def _soften(node: Any, graph_def: Any) -> None:
    """Mask by a number that 8 bits can hold beside others."""
    import tensorflow as tf

    values = tf.make_ndarray(node.attr["value"].tensor)
    softened = np.where(np.abs(values) >= _MASK, np.sign(values) * _SOFT_MASK, values)
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(softened.astype(np.float32)))


def _lone_normalizations(graph_def: Any) -> list[Any]:
    """The sums of a graph that end a batch normalization of a picture, if no convolution in front of it can take it in."""
    import tensorflow as tf

    nodes = {node.name: node for node in graph_def.node}
    readers = Counter(source_of(name) for node in graph_def.node for name in node.input)
    shapes: dict[str, list[int | None]] = {}

    def is_picture(name: str, channels: int) -> bool:
        """Whether a tensor has four axes, and so many channels."""
        if not shapes:
            shapes.update(shapes_of(graph_def))
        shape = shapes.get(name.removesuffix(":0"), [])
        return len(shape) == 4 and shape[3] == channels

    def is_lone(total: Any) -> bool:
        if total.op != "AddV2" or total.attr["T"].type != tf.float32.as_datatype_enum:
            return False
        product, channels = nodes[source_of(total.input[0])], _channels(total.input[1], nodes)
        if channels in (None, 1) or product.op != "Mul" or readers[product.name] > 1 or _channels(product.input[1], nodes) != channels:
            return False
        before = nodes[source_of(product.input[0])]
        if before.op == "BiasAdd":
            before = nodes[source_of(before.input[0])]
        takes_in = before.op in _CONVOLUTIONS and readers[source_of(product.input[0])] == 1
        return not takes_in and is_picture(product.input[0], channels)

    return [node for node in graph_def.node if is_lone(node)]


def _channels(name: str, nodes: Mapping[str, Any]) -> int | None:
    """The length of a vector that is computed from constants alone, element by element; ``None`` for all else."""
    node = nodes[source_of(name)]
    if node.op == "Const":
        shape = node.attr["value"].tensor.tensor_shape.dim
        return None if len(shape) > 1 else shape[0].size if shape else 1
    if node.op not in _ELEMENTWISE:
        return None
    length = 1
    for one in node.input:
        found = _channels(one, nodes)
        if found is None or (found != length and 1 not in (found, length)):
            return None
        length = max(length, found)
    return length


def _as_convolution(total: Any, graph_def: Any) -> None:
    """Put one convolution of each channel by itself in the place of a product and a sum.

    The product, rounded to 8 bits by itself, wastes half of them on what a ReLU takes away; a weight a channel has no rounding error.
    """
    import tensorflow as tf

    product = next(node for node in graph_def.node if node.name == source_of(total.input[0]))
    shape, weights = add_constant(graph_def, f"{product.name}/shape", np.array([1, 1, -1, 1], np.int32)), f"{product.name}/weights"
    reshaped = graph_def.node.add(name=weights, op="Reshape", input=[product.input[1], shape])
    reshaped.attr["T"].CopyFrom(product.attr["T"])
    reshaped.attr["Tshape"].type = tf.int32.as_datatype_enum
    product.op, total.op = "DepthwiseConv2dNative", "BiasAdd"
    product.input[1] = weights
    for node in (product, total):
        kind = node.attr["T"].type
        node.attr.clear()
        node.attr["T"].type = kind
        node.attr["data_format"].s = b"NHWC"
    for name in ("strides", "dilations"):
        product.attr[name].list.i.extend([1, 1, 1, 1])
    product.attr["padding"].s = b"VALID"


def _hard_swishes(graph_def: Any) -> list[Any]:
    """The sums ``x + 3`` of a graph that begin a hard-swish: ``x * (relu6(x + 3) / 6)``, or the share of 6 last or as a factor."""
    nodes, readers = {node.name: node for node in graph_def.node}, readers_of(graph_def)

    def only_reader(node: Any, *ops: str) -> Any:
        """The one operator that takes what a node gives, if it is one of those."""
        found = readers.get(node.name, []) if node is not None else []
        return found[0] if len(found) == 1 and found[0].op in ops else None

    def begins_one(total: Any) -> bool:
        place = _shift_place(total, nodes) if total.op == "AddV2" else None
        if place is None:
            return False
        shifted = total.input[1 - place]
        product = only_reader(only_reader(total, "Relu6"), "Mul", "RealDiv")
        if product is not None and shifted not in product.input:
            product = only_reader(product, "Mul")
        return product is not None and shifted in product.input

    return [node for node in graph_def.node if begins_one(node)]


def _shift_place(total: Any, nodes: Mapping[str, Any]) -> int | None:
    """Which input of a sum is the 3 of a hard-swish; ``None`` if none is."""
    return next((place for place in (0, 1) if _scalar(nodes[source_of(total.input[place])]) == _SHIFT), None)


def _scalar(node: Any) -> float | None:
    """The value of a constant that is a single float32 number; ``None`` for all else."""
    import tensorflow as tf

    if node.op != "Const" or node.attr["dtype"].type != tf.float32.as_datatype_enum:
        return None
    tensor = node.attr["value"].tensor
    return float(tf.make_ndarray(tensor)) if not tensor.tensor_shape.dim else None


def _shift_a_little_more(total: Any, graph_def: Any) -> None:
    """Add the next number above 3, so that TensorFlow does not see a hard-swish.

    It would make one operator of it, which XNNPACK has for float32 only: the file fell into parts, with TFLite's own operator between
    them, and took six times as long as float32.
    """
    place = _shift_place(total, {node.name: node for node in graph_def.node})
    assert place is not None
    total.input[place] = add_constant(graph_def, f"{total.name}/shift", np.nextafter(np.float32(_SHIFT), np.float32(4)))


_BEYOND_8_BITS = (
    (_softmax_masks, _soften),
    (_truth_casts, _choose),
    (_quotients, _multiply),
    (_lone_normalizations, _as_convolution),
    (_hard_swishes, _shift_a_little_more),
)
"""What finds the nodes that TFLite computes wrong or badly in 8 bits, and what mends one."""
