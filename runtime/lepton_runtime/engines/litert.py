"""TFLite files on LiteRT, an optional engine."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from lepton_runtime.engines import missing_extra
from lepton_runtime.errors import BundleError, InputError
from lepton_runtime.tensors import Array, TensorSpec


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
            self._interpreter = Interpreter(model_content=model, num_threads=threads)
            # An axis of free size is 1 in the file, which the model may not be able to run on: wait for the first arrays.
            is_free = any(None in spec.shape[1:] for spec in inputs)
            if not is_free:
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"LiteRT must be able to load the model: {str(error).splitlines()[0]}") from error
        self._inputs = [detail["index"] for detail in self._interpreter.get_input_details()]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]
        self._shapes = None if is_free else [tuple(detail["shape"]) for detail in self._interpreter.get_input_details()]
        if len(self._inputs) != len(inputs) or len(self._outputs) != len(outputs):
            raise BundleError(
                f"the TFLite file must have {len(inputs)} inputs and {len(outputs)} outputs, "
                f"found {len(self._inputs)} and {len(self._outputs)}; export the bundle again"
            )
        self._lock = threading.Lock()

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs, in order, for the inputs, in order.

        Raises:
            InputError: The model fails on these values, such as an index out of range.
        """
        with self._lock:
            self._invoke(arrays)
            return [self._interpreter.get_tensor(index) for index in self._outputs]

    def bind(self, arrays: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        """A call that reads these inputs and writes those outputs; LiteRT has its own buffers, so that they are copied.

        Raises:
            InputError: By the call: the model fails on these values, or gives other shapes.
        """

        def call() -> object:
            with self._lock:
                self._invoke(arrays)
                for index, array in zip(self._outputs, outputs, strict=True):
                    found = self._interpreter.tensor(index)()
                    if found.shape != array.shape:
                        raise InputError(f"out must have the shape of the answer, {found.shape}, found {array.shape}")
                    np.copyto(array, found)
            return outputs

        return call

    def _invoke(self, arrays: Sequence[Array]) -> None:
        """Compute, with the lock held."""
        shapes = [array.shape for array in arrays]
        try:
            if shapes != self._shapes:
                self._shapes = None
                for index, shape in zip(self._inputs, shapes, strict=True):
                    self._interpreter.resize_tensor_input(index, shape)
                self._interpreter.allocate_tensors()
                self._shapes = shapes
            for index, array in zip(self._inputs, arrays, strict=True):
                self._interpreter.set_tensor(index, array)
            self._interpreter.reset_all_variables()  # a fused LSTM would go on from the last call's state; 0.2 µs
            self._interpreter.invoke()
        except RuntimeError as error:
            raise InputError(f"the model must be able to run on these values: {str(error).splitlines()[0]}") from error
