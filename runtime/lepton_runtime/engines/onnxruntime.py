"""ONNX files on onnxruntime, the default engine."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import onnxruntime

from lepton_runtime.durable import temporary_folder
from lepton_runtime.engines import OperatorTime
from lepton_runtime.engines.deadline import deadline, timed_out
from lepton_runtime.errors import BundleError, InputError, LeptonError
from lepton_runtime.memory import out_of_memory
from lepton_runtime.tensors import Array, TensorSpec

# How long a thread without work spins before it sleeps, so that calls back to back wake none. To sleep as each call ends took
# networks of 13 to 90 µs 7 to 36 % more time; from 50 µs on the duration makes no difference, and a slower device needs some times
# that. A camera's 30 calls a second took 1.8 % of a core, spinning included (benchmarks/spinning.py: DS-CNN, x86, onnxruntime 1.32).
_SPIN_US = 200

Answer = TypeVar("Answer")


class OnnxruntimeEngine:
    """An ``InferenceSession`` on the CPU; many threads may share it."""

    def __init__(
        self,
        model: bytes,
        *,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        threads: int,
        spins: bool = True,
        timeout_s: float | None = None,
        is_optimized: bool = False,
    ) -> None:
        """Load a model.

        Args:
            model: The file's content.
            inputs: What it takes, in order.
            outputs: What it gives, in order.
            threads: How many one call may use.
            spins: Whether threads wait actively for work while a call goes on, and for an instant after it.
            timeout_s: How long a call may take, in seconds.
            is_optimized: Whether the content is what :func:`optimized` gave on this device.

        Raises:
            BundleError: onnxruntime refuses the model.
        """
        self._session = _load(model, _options(threads, spins=spins, is_optimized=is_optimized))
        # The Python layer of ``InferenceSession.run`` checks again what a TensorSpec has checked, for 1 µs a call.
        # The C++ session below it takes the same arguments, and should that attribute go, so does the layer.
        inner: Any = getattr(self._session, "_sess", self._session)  # Any: an extension without types
        self._run: Callable[[list[str], dict[str, Array], Any], list[Array]] = inner.run
        self._run_bound: Callable[[Any, Any], None] = inner.run_with_iobinding
        self._timeout_s = timeout_s
        self._input_names = [spec.name for spec in inputs]
        self._output_names = [spec.name for spec in outputs]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs, in order, for the inputs, in order.

        Raises:
            InputError: The model fails on these values, such as an index out of range.
            CallTimeoutError: It takes too long.
        """
        feed = dict(zip(self._input_names, arrays, strict=True))
        try:
            if self._timeout_s is not None:
                return self._within_limit(lambda options: self._run(self._output_names, feed, options), self._timeout_s)
            return self._run(self._output_names, feed, None)
        except Exception as error:  # its own exception classes share no base but this
            raise _failed(error) from error

    def bind(self, arrays: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        """A call that reads these inputs and writes those outputs, where they are.

        Raises:
            InputError: By the call: the model fails on these values, or gives other shapes.
        """
        binding = self._session.io_binding()
        for name, array in zip(self._input_names, arrays, strict=True):
            binding.bind_cpu_input(name, array)
        for name, array in zip(self._output_names, outputs, strict=True):
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        run, bound, timeout_s = self._run_bound, getattr(binding, "_iobinding", binding), self._timeout_s
        kept = (*arrays, *outputs)

        def call() -> object:
            try:
                if timeout_s is not None:
                    self._within_limit(lambda options: run(bound, options), timeout_s)
                else:
                    run(bound, None)
            except Exception as error:  # its own exception classes share no base but this
                raise _failed(error) from error
            return kept  # the binding knows addresses only

        return call

    @staticmethod
    def _within_limit(run: Callable[[Any], Answer], timeout_s: float) -> Answer:
        """What a call gives, which is stopped at the next operator once its time is over; within a Loop, too."""
        options = onnxruntime.RunOptions()
        with deadline(timeout_s, lambda: setattr(options, "terminate", True)) as limit:
            try:
                return run(options)
            except Exception as error:
                if limit.is_stopped:
                    raise timed_out(timeout_s) from error
                raise


def _failed(error: Exception) -> LeptonError:
    if isinstance(error, LeptonError):
        return error
    text = str(error).splitlines()[0]
    if any(words in text for words in ("Failed to allocate", "bad allocation", "bad_alloc")):
        return out_of_memory(text)
    return InputError(f"the model must be able to run on these values: {text}")


def _options(threads: int, *, spins: bool = True, is_optimized: bool = False) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    if is_optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads that always spin cost 184 % of a core. Within a call spinning pays: MobileNetV2 took 1.95 ms with two, against
    # 2.87 ms with two that sleep and 3.78 ms with one (x86, onnxruntime 1.32).
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins and threads > 1 else "0")
    if _version() >= (1, 26):
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    else:  # they know only: until the call ends
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _version() -> tuple[int, ...]:
    return tuple(int(number) for number in onnxruntime.__version__.split(".")[:2])


def _load(model: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)  # which prints
    except Exception as error:  # its own exception classes share no base but this
        text = str(error).splitlines()[0]
        raise BundleError(f"onnxruntime {onnxruntime.__version__} must be able to load the model: {text}") from error


def optimized(model: bytes, *, threads: int) -> bytes:
    """The model as onnxruntime rewrites it for this CPU each time it loads it; of use with the same version on the same CPU only.

    Source: onnxruntime's documentation, "Graph Optimizations in ONNX Runtime", offline mode.

    Raises:
        BundleError: onnxruntime refuses the model, or cannot write what it makes of it.
        OSError: There is no folder for temporary files.
    """
    from pathlib import Path

    with temporary_folder() as folder:
        options = _options(threads)
        options.optimized_model_filepath = f"{folder}/model.onnx"
        _load(model, options)
        return Path(options.optimized_model_filepath).read_bytes()


def profile(
    model: bytes, arrays: Sequence[Array], *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], threads: int, calls: int
) -> list[OperatorTime]:
    """What each operator takes, the dearest first; see :func:`lepton_runtime.engines.profile_operators`.

    Source: onnxruntime's profiling, a Chrome trace: events of category "Node" that end in "_kernel_time", in microseconds.
    """
    import json
    from pathlib import Path

    with temporary_folder() as folder:
        options = _options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = _load(model, options)
        names = [spec.name for spec in outputs]
        feed = dict(zip([spec.name for spec in inputs], arrays, strict=True))
        for _ in range(calls + 1):
            session.run(names, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    durations: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
            durations.setdefault(key, []).append(event["dur"])
    # A node inside a loop runs several times a call: its first call is as many events as there are calls too many.
    found = [
        OperatorTime(name, kind, round(1e3 * sum(times[len(times) // (calls + 1) :]) / calls)) for (name, kind), times in durations.items()
    ]
    return sorted(found, key=lambda operator: -operator.mean_ns)
