"""The one canonical form of an ONNX graph: its order and its names."""

import re
from collections import Counter
from collections.abc import Iterator

import onnx

_NUMBERED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def canonicalize(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in one order and with one set of names, and nothing in it that is not used.

    tf2onnx and the quantizer number and order things by hash and by what ran before; here the order is that of
    a walk from the outputs, and names are numbered along it. Input and output names stay.
    """
    names = _Names({value.name: value.name for value in (*model.graph.input, *model.graph.output)}, set())
    graph = _canonical_graph(model.graph, names)
    domains = {node.domain for node in _all_nodes(graph)}
    opsets = [opset for opset in model.opset_import if opset.domain in domains or opset.domain == ""]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version, producer_name="lepton-edge")


class _Names:
    """Old names to new ones; an inner graph sees the outer one's names."""

    def __init__(self, known: dict[str, str], taken: set[str]) -> None:
        self._known = known
        self._taken = taken | set(known.values())

    def rename(self, name: str, *, like: str = "") -> str:
        if not name:
            return ""
        if name not in self._known:
            stem = re.sub(r"(__\d+)+(?=$|[:_/])|:\d+$", "", like or name)
            number, candidate = 1, stem
            while candidate in self._taken:
                candidate, number = f"{stem}_{number}", number + 1
            self._known[name] = candidate
            self._taken.add(candidate)
        return self._known[name]

    def inner(self) -> "_Names":
        return _Names(dict(self._known), self._taken)


def _canonical_graph(graph: onnx.GraphProto, names: _Names) -> onnx.GraphProto:
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [_renamed(value, names) for value in graph.input]
    used: dict[str, onnx.TensorProto] = {}
    nodes = []
    readers = Counter(name for node in graph.node for name in node.input)
    for node in _walk(graph):
        if _is_numbered(node) and readers[node.input[1]] == 1:
            names.rename(node.output[0], like=node.input[1].removesuffix(":0").removesuffix("/merged_input"))
        for position, name in enumerate((*node.input, *_names_inside(node))):
            if name in initializers:
                # Of equal constants tf2onnx keeps one, by chance: it is named after what takes it first.
                like = f"{next(filter(None, node.output))}/{position}"
                used.setdefault(names.rename(name, like=like), initializers[name])
        nodes.append(_canonical_node(node, names))
    for value in graph.output:  # an output may be an initializer itself
        if value.name in initializers:
            used.setdefault(names.rename(value.name), initializers[value.name])
    tensors = [onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), name) for name, tensor in used.items()]
    outputs = [_renamed(value, names) for value in graph.output]
    return onnx.helper.make_graph(nodes, "model", inputs, outputs, tensors)


def _is_numbered(node: onnx.NodeProto) -> bool:
    """Whether tf2onnx made it of a convolution and a bias and named it after neither; its weights still have the layer's name."""
    return node.op_type in _NUMBERED and node.output[0].startswith(f"{node.op_type}__")


def _canonical_node(node: onnx.NodeProto, names: _Names) -> onnx.NodeProto:
    inputs = [names.rename(name) for name in node.input]
    outputs = [names.rename(name) for name in node.output]
    copy = onnx.helper.make_node(node.op_type, inputs, outputs, name=next(filter(None, outputs)), domain=node.domain)
    for attribute in sorted(node.attribute, key=lambda attribute: attribute.name):
        added = copy.attribute.add()
        added.CopyFrom(attribute)
        added.doc_string = ""
        if added.type == onnx.AttributeProto.GRAPH:
            added.g.CopyFrom(_canonical_graph(attribute.g, names.inner()))
            for value in (*added.g.input, *added.g.output):
                for axis in value.type.tensor_type.shape.dim:
                    axis.ClearField("dim_param")  # tf2onnx numbers what is unknown, on and on
    return copy


def _renamed(value: onnx.ValueInfoProto, names: _Names) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name, copy.doc_string = names.rename(value.name), ""
    return copy


def _walk(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes that the outputs need, each behind those that it needs."""
    nodes = list(graph.node)
    producer = {name: position for position, node in enumerate(nodes) for name in node.output if name}
    done: set[int] = set()
    stack = [(producer[value.name], False) for value in reversed(graph.output) if value.name in producer]
    while stack:
        position, is_ready = stack.pop()
        if position in done:
            continue
        if is_ready:
            done.add(position)
            yield nodes[position]
            continue
        stack.append((position, True))
        needed = [producer[name] for name in (*nodes[position].input, *_names_inside(nodes[position])) if name in producer]
        stack.extend((before, False) for before in reversed(needed))


def _names_inside(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the subgraphs of a node read."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from inner.input
                yield from _names_inside(inner)
            yield from (value.name for value in attribute.g.output)


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _all_nodes(attribute.g)
