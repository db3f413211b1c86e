"""What a network does to its pictures first, folded into the convolution that sees them, in a frozen TensorFlow graph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_converters.graph_def import add_constant, readers_of, shapes_of, source_of
from lepton_runtime.tensors import Array

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
_SUMS = {"Add": 1.0, "AddV2": 1.0, "Sub": -1.0}
_PRODUCTS = {"Mul": 1.0, "RealDiv": -1.0}
_OF_CONSTANTS: dict[str, Callable[..., Array]] = {"Identity": np.array, "Sqrt": np.sqrt, "Maximum": np.maximum}
_ALIKE = 2.0  # factors of channels: 8 bits for all of them together lose one bit at most


@dataclass(frozen=True)
class _Line:
    """What a chain of sums and products with constants does to a picture: ``factor * x + offset``, one number a channel each, or one.

    Attributes:
        source: The name of the tensor that it takes.
        factor: In float64.
        offset: Likewise.
    """

    source: str
    factor: Array
    offset: Array


def are_alike(factors: Array) -> bool:
    """Whether 8 bits hold all channels well when each is multiplied by its factor."""
    sizes = np.abs(factors)
    return bool(np.isfinite(sizes).all() and 0 < sizes.max() <= _ALIKE * sizes.min())


def fits_16_bits(weights: Array, summed: tuple[int, ...]) -> bool:
    """Whether weights keep their precision in float16: the largest of each channel is a normal number of that type.

    Args:
        weights: Of a convolution.
        summed: The axes that one channel of its answer runs over.
    """
    largest, limits = np.abs(weights).max(axis=summed), np.finfo(np.float16)
    return bool(((largest == 0) | (largest >= limits.smallest_normal) & (largest <= limits.max)).all())


def fold_preprocessing(graph_def: Any) -> None:
    """Fold the rescaling and normalization of pictures into the weights behind them, in place; at most one sum stays.

    ``factor * x + offset`` becomes ``x + offset / factor`` in front of a convolution whose weights are multiplied by the factor. The
    sum stays, since what lies beyond the border of a picture is zero behind it. Channels of unlike factors are left alone: in 8 bits
    they would share one scale that is too coarse for some. So is what would make numbers too small or too large for float16.
    """
    nodes, readers = {node.name: node for node in graph_def.node}, readers_of(graph_def)
    shapes: dict[str, list[int | None]] = {}
    for conv in [node for node in graph_def.node if node.op in _CONVOLUTIONS and node.attr["data_format"].s == b"NHWC"]:
        before = nodes[source_of(conv.input[0])]
        reader = before if before.op == "Pad" and len(readers[before.name]) == 1 else conv
        line, weights = _line_before(reader.input[0], nodes, readers), _value_of(conv.input[1], nodes)
        if line is None or weights is None:
            continue
        shapes = shapes or shapes_of(graph_def)
        if shapes.get(line.source.removesuffix(":0"), [])[3:] != [weights.shape[2]] or not are_alike(line.factor):
            continue
        with np.errstate(over="ignore"):
            folded = (weights * np.broadcast_to(line.factor, weights.shape[2])[:, None]).astype(np.float32)
            shift = (line.offset / line.factor).astype(np.float32)
        summed = (0, 1, 2) if conv.op == "Conv2D" else (0, 1)
        if not fits_16_bits(folded, summed) or not (np.abs(shift) <= np.finfo(np.float16).max).all():
            continue
        conv.input[1] = add_constant(graph_def, f"{conv.name}/folded", folded)
        reader.input[0] = line.source
        if shift.any():
            total = graph_def.node.add(name=f"{conv.name}/shifted", op="AddV2")
            total.input.extend([line.source, add_constant(graph_def, f"{conv.name}/shift", shift)])
            total.attr["T"].CopyFrom(conv.attr["T"])
            reader.input[0] = total.name


def _line_before(name: str, nodes: Mapping[str, Any], readers: Mapping[str, list[Any]]) -> _Line | None:
    """The chain that ends in a tensor; ``None`` if there is no product in it."""
    factor, offset, has_product = np.ones(1), np.zeros(1), False
    while len(readers[source_of(name)]) == 1:
        node = nodes[source_of(name)]
        operands = _operands(node, nodes)
        if operands is None:
            break
        name, constant = operands
        # Behind the node the chain is factor * y + offset, and y is what the node makes of its value.
        with np.errstate(all="ignore"):  # what is not finite is not folded
            if node.op in _SUMS:
                offset = offset + factor * (_SUMS[node.op] * constant)
            else:
                factor, has_product = factor * constant ** _PRODUCTS[node.op], True
    return _Line(name, factor, offset) if has_product else None


def _operands(node: Any, nodes: Mapping[str, Any]) -> tuple[str, Array] | None:
    """What a sum or product of a value and a constant takes, and the constant as one number a channel, or one, in float64."""
    if node.op not in (*_SUMS, *_PRODUCTS):
        return None
    places = (1,) if node.op in ("Sub", "RealDiv") else (1, 0)
    place, constant = next(((at, found) for at in places if (found := _value_of(node.input[at], nodes)) is not None), (0, None))
    if constant is None or constant.size != (constant.shape[-1] if constant.ndim else 1) or (node.op == "RealDiv" and not constant.all()):
        return None
    return node.input[1 - place], constant.astype(np.float64).reshape(-1)


def _value_of(name: str, nodes: Mapping[str, Any]) -> Array | None:
    """The value of a tensor that is computed from float32 constants alone."""
    import tensorflow as tf

    node = nodes[source_of(name)]
    if node.op == "Const":
        is_float = node.attr["dtype"].type == tf.float32.as_datatype_enum
        return np.asarray(tf.make_ndarray(node.attr["value"].tensor)) if is_float else None
    if node.op not in _OF_CONSTANTS:
        return None
    values = [_value_of(given, nodes) for given in node.input]
    return None if any(value is None for value in values) else np.asarray(_OF_CONSTANTS[node.op](*values))
