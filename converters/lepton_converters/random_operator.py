"""Whether a traced network draws random numbers: a seed that is frozen with it would draw the same ones in every call."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lepton_runtime.errors import UnsupportedError

_DRAWING = (
    *("Random", "Multinomial", "TruncatedNormal", "StandardNormal", "StatefulUniform", "StatelessShuffle", "Rng"),
    *("DistortedBoundingBox", "CandidateSampler"),
)
_VALUE_FREE = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")  # what they give depends on no value


def check_no_random(function: Any) -> None:  # Any: TensorFlow has no type hints
    """Refuse a network whose answers depend on random numbers; those that nothing uses are let be.

    Args:
        function: A concrete function, traced or frozen; the functions that it calls are looked through, too.

    Raises:
        UnsupportedError: An output depends on what an operator draws.
    """
    graph = function.graph.as_graph_def()
    bodies = {body.signature.name: body for body in graph.library.function}
    found = next(_drawing(graph.node, [tensor.name for tensor in function.outputs], bodies, set()), None)
    if found is not None:
        raise UnsupportedError(
            f"a model must give the same answer each time, this one draws random numbers ({found.op} in {found.name!r}); if it is dropout "
            "that is kept on purpose, export the .keras or .h5 file with --keep-dropout; else take the sampling out of the model and give "
            "it the noise as an input"
        )


def _drawing(nodes: Sequence[Any], outputs: Sequence[str], bodies: Mapping[str, Any], seen: set[str]) -> Iterator[Any]:
    """The random operators that these outputs depend on, inner functions included."""
    by_name = {node.name: node for node in nodes}
    pending, done = list(outputs), set()
    while pending:
        reference = pending.pop()
        name = reference.partition(":")[0]
        if reference.startswith("^") or name in done or name not in by_name:  # order, and arguments
            continue
        done.add(name)
        node = by_name[name]
        if any(word in node.op for word in _DRAWING):
            yield node
        called = [node.op, *(inner.name for value in node.attr.values() for inner in (value.func, *value.list.func))]
        for body in [bodies[inner] for inner in called if inner in bodies and inner not in seen]:
            seen.add(body.signature.name)
            yield from _drawing(body.node_def, list(body.ret.values()), bodies, seen)
        if node.op not in _VALUE_FREE:
            pending.extend(node.input)
