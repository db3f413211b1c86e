"""ONNX files on OpenVINO, an optional engine."""

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lepton_runtime.engines import missing_extra
from lepton_runtime.engines.openvino_graph import adapt
from lepton_runtime.errors import BundleError, InputError
from lepton_runtime.tensors import Array, TensorSpec

_TELEMETRY = "openvino_telemetry"


class OpenvinoEngine:
    """A compiled model behind a lock: a request holds one call's tensors. float32 stays float32."""

    def __init__(self, model: bytes, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], threads: int) -> None:
        """Compile a model.

        Args:
            model: The file's content.
            inputs: What it takes, in order.
            outputs: What it gives, in order.
            threads: How many one call may use.

        Raises:
            MissingExtraError: OpenVINO is not installed.
            BundleError: OpenVINO refuses the model.
        """
        self._openvino = _import_openvino()
        # Source: OpenVINO's documentation, "Precision Control": without the hint it computes float32 in bfloat16 where the CPU can.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        try:
            core = self._openvino.Core()
            graph = core.read_model(model)
            adapt(graph)
            self._compiled = core.compile_model(graph, "CPU", settings)
        except RuntimeError as error:
            raise BundleError(f"OpenVINO must be able to load the model: {_last_line(error)}") from error
        self._inputs = [self._compiled.input(spec.name) for spec in inputs]
        self._outputs = [self._compiled.output(spec.name) for spec in outputs]
        self._has_free_answers = any(None in spec.shape for spec in outputs)
        self._request = self._compiled.create_infer_request()
        self._lock = threading.Lock()

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs, in order, for the inputs, in order.

        Raises:
            InputError: The model fails on these values.
        """
        readable = [_readable(array) for array in arrays]  # alive until the answers are copied: OpenVINO keeps addresses only
        with self._lock:
            self._share(self._request, readable)
            self._infer(self._request)
            return [np.array(self._request.get_tensor(output).data) for output in self._outputs]

    def bind(self, arrays: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        """A call that reads these inputs and writes those outputs, where they are.

        Raises:
            InputError: By the call: the model fails on these values, or gives other shapes.
        """
        request, lock = self._compiled.create_infer_request(), threading.Lock()
        readable = [_readable(array) for array in arrays]
        copies = [(copy, array) for copy, array in zip(readable, arrays, strict=True) if copy is not array]
        kept = readable, outputs
        self._share(request, readable)
        pairs = [(output, array) for output, array in zip(self._outputs, outputs, strict=True)]
        if not self._has_free_answers:  # into memory of another shape OpenVINO would write a part, or nothing, without a word
            for output, array in pairs:
                request.set_tensor(output, self._openvino.Tensor(array, shared_memory=True))

        def call() -> object:
            with lock:
                for copy, array in copies:  # others may write what is read-only here
                    copy[...] = array
                self._infer(request)
                for output, array in pairs if self._has_free_answers else ():
                    found = request.get_tensor(output).data
                    if found.shape != array.shape:
                        raise InputError(f"out must have the shape of the answer, {found.shape}, found {array.shape}")
                    array[...] = found
            return kept

        return call

    def _share(self, request: Any, arrays: Sequence[Array]) -> None:
        """Let a request read arrays where they are."""
        for given, array in zip(self._inputs, arrays, strict=True):
            request.set_tensor(given, self._openvino.Tensor(array, shared_memory=True))

    def _infer(self, request: Any) -> None:
        try:
            request.infer()
        except RuntimeError as error:
            raise InputError(f"the model must be able to run on these values: {_last_line(error)}") from error


def _import_openvino() -> Any:  # Any: an extension without types
    """OpenVINO without its telemetry, which otherwise tells its makers of each import.

    Raises:
        MissingExtraError: It is not installed.

    Source: openvino 2026.4, ``tools/ovc/__init__.py``, which takes a stub where the telemetry's package cannot be imported.
    """
    is_ours = _TELEMETRY not in sys.modules
    if is_ours:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's own way to forbid an import
    try:
        import openvino
    except ImportError:
        raise missing_extra("openvino") from None
    finally:
        if is_ours:
            del sys.modules[_TELEMETRY]
    return openvino


def _readable(array: Array) -> Array:
    """The array, or a copy where OpenVINO cannot read it where it is: it takes none that is strided or read-only."""
    return array if array.flags.c_contiguous and array.flags.writeable else np.array(array, order="C")


def _last_line(error: RuntimeError) -> str:
    """What OpenVINO says behind the places in its source."""
    return (str(error).strip().splitlines() or ["no reason given"])[-1]
