"""What an ONNX file may hold: looked for in its bytes, before an engine parses them.

Source: onnx.proto, field numbers and wire types.
"""

from collections.abc import Iterator

from lepton_runtime.errors import BundleError

_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_MOST_DEPTH = 16  # of graphs in graphs
# The fields that a model of ours has, with their wire types: its version, who made it, the graph, operator sets, remarks. Nothing else, and
# nothing that another reader could take for a file of its own format; no functions and no training.
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2}
_GRAPH = 7  # of a model
_NODE, _INITIALIZER, _SPARSE_INITIALIZER = 1, 5, 15  # of a graph
_ATTRIBUTE, _DOMAIN, _KIND = 5, 7, 4  # of a node
_TENSORS, _GRAPHS, _SPARSE_TENSORS = {5, 10}, {6, 11}, {22, 23}  # of an attribute
_SPARSE_PARTS = {1, 2}  # of a sparse tensor
_EXTERNAL, _LOCATION = 13, 14  # of a tensor
_MOST_TAG = 2**32 - 1


def check_onnx(model: bytes) -> None:
    """Refuse a file that reads other files, or has operators of a domain that no exporter of ours uses.

    Raises:
        BundleError: It does, or it is no ONNX file.
    """
    has_graph = False
    try:
        for field, wire, value in _fields(memoryview(model)):
            if _MODEL_FIELDS.get(field) != wire:
                raise ValueError(f"it has the field {field} of wire type {wire}")
            if field == _GRAPH:
                has_graph = True
                _check_graph(value, 0)
    except (IndexError, ValueError, TypeError) as error:
        raise BundleError(f"an ONNX model must be one that can be read, it breaks off or is none: {error}; copy it again") from error
    if not has_graph:
        raise BundleError("an ONNX model must hold a graph, found none; copy the bundle again")


def _check_graph(graph: memoryview, depth: int) -> None:
    if depth > _MOST_DEPTH:
        raise BundleError(f"an ONNX model has graphs in graphs at most {_MOST_DEPTH} deep, found more; do not use this bundle")
    for field, _, value in _fields(graph):
        if field == _NODE:
            _check_node(value, depth)
        elif field == _INITIALIZER:
            _check_tensor(value)
        elif field == _SPARSE_INITIALIZER:
            _check_sparse(value)


def _check_node(node: memoryview, depth: int) -> None:
    kind = domain = ""
    for field, _, value in _fields(node):
        if field == _ATTRIBUTE:
            for part, _, inner in _fields(value):
                if part in _TENSORS:
                    _check_tensor(inner)
                elif part in _GRAPHS:
                    _check_graph(inner, depth + 1)
                elif part in _SPARSE_TENSORS:
                    _check_sparse(inner)
        elif field == _KIND:
            kind = str(value, "utf-8")
        elif field == _DOMAIN:
            domain = str(value, "utf-8")
    if domain not in _DOMAINS:
        raise BundleError(
            f"an ONNX model has operators of ONNX and of onnxruntime only, found {kind!r} of {domain!r}; do not use this bundle"
        )


def _check_sparse(tensor: memoryview) -> None:
    for field, _, value in _fields(tensor):
        if field in _SPARSE_PARTS:
            _check_tensor(value)


def _check_tensor(tensor: memoryview) -> None:
    if any(field == _EXTERNAL or (field == _LOCATION and value) for field, _, value in _fields(tensor)):
        raise BundleError("an ONNX model must hold its weights itself, found some that are in another file; do not use this bundle")


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The fields of a message: their numbers, wire types, and content; of numbers something or nothing, as they are 0 or not.

    Raises:
        ValueError: The message is damaged, or written as no writer writes it, which other readers might understand otherwise.
        IndexError: It breaks off.
    """
    place, end = 0, len(message)
    while place < end:
        start = place
        key, place = _number(message, place)
        field, wire = key >> 3, key & 7
        if field == 0 or key > _MOST_TAG or place - start > 1 + (key.bit_length() - 1) // 7:
            raise ValueError("a field's number is 0, too large, or written too long")
        if wire == 2:
            length, place = _number(message, place)
            if place + length > end:
                raise IndexError(f"field {field} is longer than what is left")
            yield field, wire, message[place : place + length]
            place += length
        elif wire == 0:
            value, place = _number(message, place)
            yield field, wire, message[: 1 if value else 0]
        elif wire in (1, 5):
            place += 8 if wire == 1 else 4
            yield field, wire, message[:0]
        else:
            raise ValueError(f"field {field} has the wire type {wire}")


def _number(message: memoryview, place: int) -> tuple[int, int]:
    """A variable-length number, and where what follows it begins."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")
