"""TFLite files on LiteRT, an optional engine."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from lepton_runtime.engines import missing_extra
from lepton_runtime.errors import BundleError, InputError
from lepton_runtime.tensors import Array, TensorSpec

_STATEFUL = ("LSTM", "RNN", "SVDF")  # operators that keep tensors from call to call


class LitertEngine:
    """A LiteRT interpreter behind a lock: it holds one call's tensors and must not be shared."""

    def __init__(self, model: bytes, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], threads: int) -> None:
        """Load a model.

        Args:
            model: The file's content.
            inputs: What it takes, in order.
            outputs: What it gives, in order.
            threads: How many one call may use.

        Raises:
            MissingExtraError: LiteRT is not installed.
            BundleError: LiteRT refuses the model.
        """
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise missing_extra("litert") from None
        try:
            self._interpreter: Any = Interpreter(model_content=model, num_threads=threads)  # an extension without types
            # An axis of free size is 1 in the file, which the model may not be able to run on: wait for the first arrays.
            is_free = any(None in spec.shape[1:] for spec in inputs)
            if not is_free:
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"LiteRT must be able to load the model: {str(error).splitlines()[0]}") from error
        self._inputs = [detail["index"] for detail in self._interpreter.get_input_details()]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]
        if len(self._inputs) != len(inputs) or len(self._outputs) != len(outputs):
            raise BundleError(
                f"the TFLite file must have {len(inputs)} inputs and {len(outputs)} outputs, "
                f"found {len(self._inputs)} and {len(self._outputs)}; export the bundle again"
            )
        self._lock = threading.Lock()
        self._shapes = None if is_free else [tuple(detail["shape"]) for detail in self._interpreter.get_input_details()]
        self._keeps_state = any(word in name for name in self._operators() for word in _STATEFUL)

    def _operators(self) -> list[str]:
        """The names of the model's operators, as far as they are told."""
        try:
            return [str(operator["op_name"]) for operator in self._interpreter._get_ops_details()]
        except AttributeError:
            return [*_STATEFUL]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs, in order, for the inputs, in order.

        Raises:
            InputError: The model fails on these values, such as an index out of range.
        """
        shapes = [array.shape for array in arrays]
        with self._lock:
            inner = self._invoke(list(zip(self._inputs, arrays, strict=True)), shapes)
            return [inner.GetTensor(index, 0) for index in self._outputs]

    def bind(self, arrays: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        """A call that reads these inputs and writes those outputs; LiteRT has its own buffers, so that they are copied.

        Raises:
            InputError: By the call: the model fails on these values, or gives other shapes.
        """
        given, taken = list(zip(self._inputs, arrays, strict=True)), list(zip(self._outputs, outputs, strict=True))
        shapes, lock, invoke = [array.shape for array in arrays], self._lock, self._invoke

        def call() -> object:
            with lock:
                inner = invoke(given, shapes)
                for index, array in taken:
                    found = inner.GetTensor(index, 0)
                    if found.shape != array.shape:
                        raise InputError(f"out must have the shape of the answer, {found.shape}, found {array.shape}")
                    array[...] = found
            return outputs

        return call

    def _invoke(self, given: Sequence[tuple[int, Array]], shapes: list[tuple[int, ...]]) -> Any:
        """Compute, with the lock held; what holds the outputs.

        LiteRT's layer of Python asks at each call whether anybody looks into its tensors; nobody does. The one below it takes the
        same arguments.
        """
        try:
            if shapes != self._shapes:
                self._reshape(shapes)
            inner = self._interpreter._interpreter
            for index, array in given:
                inner.SetTensor(index, array)
            if self._keeps_state:
                inner.ResetVariableTensors()  # a fused LSTM would go on from the last call's state
            inner.Invoke()
        except RuntimeError as error:
            raise InputError(f"the model must be able to run on these values: {str(error).splitlines()[0]}") from error
        return inner

    def _reshape(self, shapes: list[tuple[int, ...]]) -> None:
        """Let the inputs have other shapes."""
        self._shapes = None
        for index, shape in zip(self._inputs, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape)
        self._interpreter.allocate_tensors()
        self._shapes = shapes
