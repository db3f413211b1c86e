"""What rewrites of ONNX graphs ask of a value, and how they put new constants and nodes in."""

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from lepton_runtime.tensors import Array

PICTURE_CHANNELS = 4  # at most
TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def constant_of(value: ir.Value | None) -> Array | None:
    """What a constant holds; ``None`` for all other values, and for the default of one that may be given."""
    return None if value is None or value.const_value is None or value.is_graph_input() else value.const_value.numpy()


def input_of(node: ir.Node, position: int) -> ir.Value | None:
    """One of the inputs of a node, those that it need not have included."""
    return node.inputs[position] if position < len(node.inputs) else None


def has_one_reader(value: ir.Value) -> bool:
    """Whether a value is taken once, and is no output of the graph."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def producer_of(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes a value for one reader alone, if it is one of these."""
    node = value.producer() if value is not None and has_one_reader(value) else None
    return node if node is not None and node.op_type in op_types and node.domain in ("", "ai.onnx") else None


def axes_of(value: ir.Value | None) -> list[int | None] | None:
    """The length of each axis, ``None`` for a free one; ``None`` if nothing is known."""
    if value is None or value.shape is None:
        return None
    return [axis if isinstance(axis, int) else None for axis in value.shape]


def operands_of(node: ir.Node) -> tuple[ir.Value, Array] | None:
    """What a sum or product of a value and a constant takes, in this order."""
    for value, other in (tuple(node.inputs), tuple(reversed(node.inputs))):
        constant = constant_of(other)
        if value is not None and value.const_value is None and constant is not None:
            return value, constant
    return None


def add_constant(graph: ir.Graph, name: str, values: Array) -> ir.Value:
    """A new constant of a graph, with a number behind its name where that is taken."""
    name = _free_name(graph, name)
    tensor = ir.tensor(values, name=name)
    made = ir.Value(name=name, const_value=tensor, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(made)
    return made


def _free_name(graph: ir.Graph, name: str) -> str:
    """The name, with a number behind it where a value has it already."""
    taken = {value.name for node in graph.all_nodes() for value in node.outputs} | {value.name for value in graph.inputs}
    taken |= {name for inner in (graph, *graph.subgraphs()) for name in inner.initializers}
    stem, number = name, 1
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    return name


def shaped(value: ir.Value, axes: Sequence[int | None]) -> ir.Value:
    """What a value of the same type and another shape is like."""
    return ir.Value(shape=ir.Shape(axes), type=value.type)


def put_before(
    graph: ir.Graph,
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    *,
    name: str | None,
    like: ir.Value,
    attributes: Mapping[str, ir.Attr] | None = None,
) -> ir.Value:
    """The output of a new node, put in front of another.

    Args:
        graph: That of the node.
        node: What the new one stands in front of.
        op_type: Which operator.
        inputs: What it takes.
        name: Of its output.
        like: A value with its shape and type.
        attributes: Of the operator.
    """
    made = ir.Node("", op_type, inputs, list((attributes or {}).values()), name=name)
    output = made.outputs[0]
    output.name, output.shape, output.type = _free_name(graph, name or op_type), like.shape, like.type
    graph.insert_before(node, made)
    return output


def ints_of(node: ir.Node, name: str, default: list[int]) -> list[int]:
    """A list of integers among the attributes of a node."""
    return list(node.attributes[name].as_ints()) if name in node.attributes else default


def has_given_pads(node: ir.Node) -> bool:
    """Whether the borders of a window are those that are given, or none, and not computed from the shapes."""
    return node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def sees_picture(conv: ir.Node, channels: int) -> bool:
    """Whether a convolution sees windows of neighboring pixels of a picture of so many channels, all of them at once."""
    is_whole = conv.attributes.get_int("group", 1) == 1 and set(ints_of(conv, "dilations", [1])) == {1}
    return is_whole and has_given_pads(conv) and 1 < channels <= PICTURE_CHANNELS


def first_reader(graph: ir.Graph, value: ir.Value) -> ir.Node | None:
    """The first node that reads a value, in the graph's order; ``None`` if nobody does, or a branch of the graph does."""
    is_here = all(use.node.graph is graph for use in value.uses())
    return next((node for node in graph if value in node.inputs), None) if is_here else None


def replace_node(graph: ir.Graph, node: ir.Node, made: ir.Value) -> None:
    """Let another value take the place of what a node gives, and its name, unless it is a door of the graph.

    The node is taken out, and with it what nobody else reads of that behind it.
    """
    old, behind = node.outputs[0], list(node.inputs)
    keeps_name = made.is_graph_input() or made.is_graph_output()
    ir.convenience.replace_all_uses_with(old, made, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    remove_unread(graph, behind)
    if not keeps_name:
        made.name = old.name


def remove_unread(graph: ir.Graph, values: Iterable[ir.Value | None]) -> None:
    """Take out the nodes that give these values, and those behind them, if nobody reads what they give."""
    for value in values:
        node = value.producer() if value is not None else None
        if node is None or node.graph is None or any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        behind = list(node.inputs)
        graph.remove(node, safe=True)
        remove_unread(graph, behind)
