"""TFLite files on LiteRT, an optional engine."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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
        self._has_free_answers = is_free or any(None in spec.shape for spec in outputs)
        made = [tuple(detail["shape"]) for detail in self._interpreter.get_output_details()]
        wanted = [spec.shape for spec in outputs]
        if not self._has_free_answers and made != wanted:
            raise BundleError(f"the TFLite file must give the shapes {wanted}, found {made}; export the bundle again")
        self._lock = threading.Lock()
        self._shapes = None if is_free else [tuple(detail["shape"]) for detail in self._interpreter.get_input_details()]
        keeps_state = any(word in name for name in self._operators() for word in _STATEFUL)
        # LiteRT's layer of Python asks at each call whether anybody looks into its tensors; nobody does, what is read is copied. The
        # one below it takes the same arguments, and is the only one that works once somebody holds its methods.
        inner = self._interpreter._interpreter
        self._set, self._get = inner.SetTensor, inner.GetTensor
        self._invoke: Callable[[], object] = self._reset_and_invoke if keeps_state else inner.Invoke

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
            if shapes != self._shapes:
                self._reshape(shapes)
            try:
                for index, array in zip(self._inputs, arrays, strict=True):
                    self._set(index, array)
                self._invoke()
                return [self._get(index, 0) for index in self._outputs]
            except RuntimeError as error:
                raise _failed(error) from error

    def bind(self, arrays: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        """A call that reads these inputs and writes those outputs; LiteRT has its own buffers, so that they are copied.

        Raises:
            InputError: By the call: the model fails on these values, or gives other shapes.
        """
        given, taken = list(zip(self._inputs, arrays, strict=True)), list(zip(self._outputs, outputs, strict=True))
        shapes, lock, put, invoke, get = [array.shape for array in arrays], self._lock, self._set, self._invoke, self._get
        has_free_answers = self._has_free_answers

        def call() -> object:
            with lock:
                if self._shapes is not shapes:
                    if self._shapes != shapes:
                        self._reshape(shapes)
                    self._shapes = shapes
                try:
                    for index, array in given:
                        put(index, array)
                    invoke()
                    for index, array in taken:
                        found = get(index, 0)
                        if has_free_answers and found.shape != array.shape:  # numpy would repeat it
                            raise InputError(f"out must have the shape of the answer, {found.shape}, found {array.shape}")
                        array[...] = found
                except RuntimeError as error:
                    raise _failed(error) from error
            return outputs

        return call

    def _reset_and_invoke(self) -> None:
        """Compute; a fused LSTM would go on from the last call's state."""
        inner = self._interpreter._interpreter
        inner.ResetVariableTensors()
        inner.Invoke()

    def _reshape(self, shapes: list[tuple[int, ...]]) -> None:
        """Let the inputs have other shapes, with the lock held."""
        self._shapes = None
        inner = self._interpreter._interpreter
        try:
            for index, shape in zip(self._inputs, shapes, strict=True):
                inner.ResizeInputTensor(index, np.array(shape, np.int32), False)
            inner.AllocateTensors()
        except RuntimeError as error:
            raise _failed(error) from error
        self._shapes = shapes


def _failed(error: RuntimeError) -> InputError:
    return InputError(f"the model must be able to run on these values: {str(error).splitlines()[0]}")
