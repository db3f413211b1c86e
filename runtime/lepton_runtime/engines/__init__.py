"""What can run an artifact: one module an engine, behind one small protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lepton_runtime.errors import InputError
from lepton_runtime.formats import Format
from lepton_runtime.manifest import ArtifactRecord
from lepton_runtime.tensors import Array, TensorSpec

ENGINE_OF_FORMAT = {Format.ONNX: "onnxruntime", Format.TFLITE: "litert"}


class Engine(Protocol):
    """One loaded model. Calls may come from many threads at once."""

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs, in order, for the inputs, in order. The arrays have been checked."""
        ...


@dataclass(frozen=True)
class OperatorTime:
    """What one operator of a model takes.

    Attributes:
        name: Of the node, as the engine calls it after its own rewrites.
        kind: Its type, such as ``Conv``.
        mean_ns: Of its calls in one run of the model, averaged over the runs.
    """

    name: str
    kind: str
    mean_ns: int


def open_engine(name: str, model: bytes, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], threads: int) -> Engine:
    """A loaded model, ready to run.

    Args:
        name: ``"onnxruntime"`` or ``"litert"``.
        model: The file's content.
        inputs: What it takes, in order.
        outputs: What it gives, in order.
        threads: How many it may use.

    Raises:
        InputError: No such engine.
        MissingExtraError: The engine's package is not installed.
        BundleError: The engine cannot load the model.
    """
    if name == "onnxruntime":
        from lepton_runtime.engines.onnxruntime import OnnxruntimeEngine

        return OnnxruntimeEngine(model, inputs=inputs, outputs=outputs, threads=threads)
    if name == "litert":
        from lepton_runtime.engines.litert import LitertEngine

        return LitertEngine(model, inputs=inputs, outputs=outputs, threads=threads)
    raise InputError(f"an engine is one of {', '.join(ENGINE_OF_FORMAT.values())}, found {name!r}")


def engine_of(record: ArtifactRecord) -> str:
    """The name of the engine that runs an artifact."""
    return ENGINE_OF_FORMAT[record.format]


def profile_operators(
    name: str,
    model: bytes,
    arrays: Sequence[Array],
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    threads: int,
    calls: int,
) -> list[OperatorTime] | None:
    """What each operator takes, the dearest first; ``None`` from an engine that does not tell.

    The engine's own profiler adds one to two microseconds to each operator: read the shares, not the sums.

    Args:
        name: ``"onnxruntime"`` or ``"litert"``, whose Python package has no profiler (2.3).
        model: The file's content.
        arrays: The inputs, in order.
        inputs: What it takes, in order.
        outputs: What it gives, in order.
        threads: How many it may use.
        calls: How many runs are averaged, after one that is not.
    """
    if name != "onnxruntime":
        return None
    from lepton_runtime.engines.onnxruntime import profile

    return profile(model, arrays, inputs=inputs, outputs=outputs, threads=threads, calls=calls)
