"""What can run an artifact: one module an engine, behind one small protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lepton_runtime.errors import InputError, MissingExtraError, UnsupportedError
from lepton_runtime.formats import Format
from lepton_runtime.manifest import ArtifactRecord
from lepton_runtime.tensors import Array, TensorSpec

ENGINES_OF_FORMAT = {Format.ONNX: ("onnxruntime", "openvino"), Format.TFLITE: ("litert",)}
"""By format, the engines that run it; the first is the default."""
PACKAGE_OF_ENGINE = {"onnxruntime": "onnxruntime", "litert": "ai-edge-litert", "openvino": "openvino"}
"""By engine, the package that it is."""
ENGINES = tuple(PACKAGE_OF_ENGINE)
STOPPABLE = "onnxruntime"
"""The engine that can be told to stop in the middle of a call: LiteRT has no word for it, OpenVINO hears it after a Loop only."""
_MODULES = {"litert": "ai_edge_litert", "openvino": "openvino"}


class Engine(Protocol):
    """One loaded model. Calls may come from many threads at once."""

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs, in order, for the inputs, in order. The arrays have been checked."""
        ...

    def bind(self, arrays: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        """A call that reads these inputs and writes those outputs, where they are, each time anew.

        The arrays have been checked; they are contiguous and stay alive as long as the call does.
        """
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


def open_engine(
    name: str,
    model: bytes,
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    threads: int,
    spins: bool = True,
    timeout_s: float | None = None,
    is_optimized: bool = False,
) -> Engine:
    """A loaded model, ready to run.

    Args:
        name: One of :data:`ENGINES`.
        model: The file's content.
        inputs: What it takes, in order.
        outputs: What it gives, in order.
        threads: How many it may use.
        spins: Whether threads that have nothing to do wait actively, to an instant after a call; faster where their cores are idle.
            Only onnxruntime lets one choose.
        timeout_s: How long a call may take, in seconds; one that takes longer is stopped, and raises a :class:`CallTimeoutError`.
        is_optimized: Whether the content is what :func:`optimized_model` gave for this engine on this device.

    Raises:
        InputError: No such engine.
        UnsupportedError: One with ``timeout_s`` that cannot be stopped.
        MissingExtraError: The engine's package is not installed.
        BundleError: The model holds what none of ours does, see :mod:`lepton_runtime.engines.onnx_guard` and
            :mod:`lepton_runtime.engines.tflite_guard`; or the engine cannot load it.
    """
    check_engine(name)
    if timeout_s is not None and name != STOPPABLE:
        raise UnsupportedError(
            f"timeout_s needs an engine that can be stopped in a call, {STOPPABLE}, found {name}; run it in a process of its own"
        )
    if not is_optimized:  # which may hold operators of onnxruntime's own; it was made here, of a file that was looked at
        _check_content(name, model)
    if name == "onnxruntime":
        from lepton_runtime.engines.onnxruntime import OnnxruntimeEngine

        return OnnxruntimeEngine(
            model, inputs=inputs, outputs=outputs, threads=threads, spins=spins, timeout_s=timeout_s, is_optimized=is_optimized
        )
    if name == "openvino":
        from lepton_runtime.engines.openvino import OpenvinoEngine

        return OpenvinoEngine(model, inputs=inputs, outputs=outputs, threads=threads)
    from lepton_runtime.engines.litert import LitertEngine

    return LitertEngine(model, inputs=inputs, outputs=outputs, threads=threads)


def _check_content(engine: str, model: bytes) -> None:
    if engine == "litert":
        from lepton_runtime.engines.tflite_guard import check_tflite

        check_tflite(model)
    else:
        from lepton_runtime.engines.onnx_guard import check_onnx

        check_onnx(model)


def check_engine(name: str) -> None:
    """Raise if there is no engine of that name.

    Raises:
        InputError: There is none; the text lists them.
    """
    if name not in ENGINES:
        raise InputError(f"an engine is one of {', '.join(ENGINES)}, found {name!r}")


def is_installed(name: str) -> bool:
    """Whether an engine's package is installed."""
    from importlib.util import find_spec  # only who chooses among engines asks

    return name not in _MODULES or find_spec(_MODULES[name]) is not None


def missing_extra(name: str) -> MissingExtraError:
    """What to say where an engine's package is not installed; the extra that installs it has the engine's name."""
    return MissingExtraError(f'the engine {name} is not installed: pip install "lepton-edge[{name}]"')


def engine_of(record: ArtifactRecord) -> str:
    """The name of the engine that runs an artifact, if nobody chooses another."""
    return ENGINES_OF_FORMAT[record.format][0]


def optimized_model(name: str, model: bytes, *, threads: int) -> bytes | None:
    """The model as an engine rewrites it for this CPU each time it loads it; ``None`` from one that does not give it away.

    Args:
        name: One of :data:`ENGINES`; of these only onnxruntime does.
        model: The file's content.
        threads: How many it may use.

    Raises:
        BundleError: The engine cannot load the model, or cannot write what it makes of it.
        OSError: There is no folder for temporary files.
    """
    if name != "onnxruntime":
        return None
    from lepton_runtime.engines.onnxruntime import optimized

    return optimized(model, threads=threads)


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
        name: One of :data:`ENGINES`; of these only onnxruntime has a profiler in its Python package.
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
