"""ONNX files on OpenVINO, an optional engine."""

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lepton_runtime.engines import missing_extra
from lepton_runtime.errors import BundleError, InputError
from lepton_runtime.tensors import Array, TensorSpec

_TELEMETRY = "openvino_telemetry"
_LOOPS = ("Loop", "TensorIterator")


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
            _replace_hard_sigmoids(graph)
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
        # A read-only input is copied, once: what is in it cannot change.
        kept = [_readable(array) for array in arrays], outputs
        self._share(request, kept[0])
        pairs = [(output, array) for output, array in zip(self._outputs, outputs, strict=True)]
        if not self._has_free_answers:  # into memory of another shape OpenVINO would write a part, or nothing, without a word
            for output, array in pairs:
                request.set_tensor(output, self._openvino.Tensor(array, shared_memory=True))

        def call() -> object:
            with lock:
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


def _replace_hard_sigmoids(graph: Any) -> None:
    """Write each HardSigmoid, within loops and branches too, as what OpenVINO computes right, and within a convolution.

    OpenVINO 2026.4 computes one with a beta of 0 as if it were 0.5, and makes a hard-swish of ``x * HSigmoid(x)`` only, which has
    an alpha of 1/6 and a beta of 0.5: MobileNetV3-Small took 0.63 times as long with it. Source: measured, in
    ``tests/runtime/test_openvino.py``.
    """
    from openvino import opset5

    for node in graph.get_ordered_ops():
        for body in _bodies(node):
            _replace_hard_sigmoids(body)
        if node.get_type_name() != "HardSigmoid":
            continue
        value = node.input_value(0)
        alpha, beta = (float(node.input_value(index).get_node().data) for index in (1, 2))
        if np.isclose(alpha, 1 / 6, rtol=1e-3, atol=0) and beta == 0.5:  # also as a float16
            replacement = opset5.hsigmoid(value)
        else:
            kind = value.get_element_type()
            line = opset5.multiply(value, opset5.constant(alpha, kind))
            replacement = opset5.clamp(opset5.add(line, opset5.constant(beta, kind)) if beta else line, 0.0, 1.0)
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(replacement.output(0))


def _bodies(node: Any) -> list[Any]:
    """The graphs within a node."""
    kind = node.get_type_name()
    return [node.get_function(number) for number in (0, 1)] if kind == "If" else [node.get_function()] if kind in _LOOPS else []


def _readable(array: Array) -> Array:
    """The array, or a copy where OpenVINO cannot read it where it is: it takes none that is strided or read-only."""
    return array if array.flags.c_contiguous and array.flags.writeable else np.array(array, order="C")


def _last_line(error: RuntimeError) -> str:
    """What OpenVINO says behind the places in its source."""
    return (str(error).strip().splitlines() or ["no reason given"])[-1]
