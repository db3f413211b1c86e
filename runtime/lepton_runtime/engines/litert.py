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
        has_free_axes = any(None in spec.shape for spec in (*inputs, *outputs))
        made = [tuple(detail["shape"].tolist()) for detail in self._interpreter.get_output_details()]
        wanted = [spec.shape for spec in outputs]
        if not has_free_axes and made != wanted:
            raise BundleError(f"the TFLite file must give the shapes {wanted}, found {made}; export the bundle again")
        self._has_fixed_buffers = not has_free_axes and self._find_buffers()
        self._lock = threading.Lock()
        self._shapes = None if is_free else [tuple(detail["shape"].tolist()) for detail in self._interpreter.get_input_details()]
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
        if not (self._has_fixed_buffers and all(array.flags.c_contiguous and array.size for array in arrays)):
            return self._bind_by_run(arrays, outputs)
        given = list(zip(self._buffers(self._inputs), arrays, strict=True))
        taken = list(zip(self._buffers(self._outputs), outputs, strict=True))
        for ours, theirs in (*given, *taken):
            if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
                raise InputError(f"an array must be {ours.dtype} {ours.shape} as the model's, found {theirs.dtype} {theirs.shape}")
        # Through memoryviews the copies take 0.15 µs less each than through arrays (640 bytes, x86, numpy 2.4).
        puts = [(_bytes(ours), _bytes(theirs)) for ours, theirs in given]
        gets = [(_bytes(theirs), _bytes(ours)) for ours, theirs in taken]
        lock, invoke = self._lock, self._invoke

        def call() -> object:
            with lock:
                for to, source in puts:
                    to[:] = source
                try:
                    invoke()
                except RuntimeError as error:
                    raise _failed(error) from error
                for to, source in gets:
                    to[:] = source
            return outputs

        return call

    def _bind_by_run(self, arrays: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        """For answers whose shape or place is known after each call only, and inputs that are not in one piece."""

        def call() -> object:
            for found, array in zip(self.run(arrays), outputs, strict=True):
                if found.shape != array.shape:  # numpy would repeat it
                    raise InputError(f"out must have the shape of the answer, {found.shape}, found {array.shape}")
                array[...] = found
            return outputs

        return call

    def _buffers(self, indices: Sequence[int]) -> list[Array]:
        """The interpreter's own memory of some tensors, which stays where it is while no input takes another shape.

        Raises:
            ValueError: A tensor gets its memory in a call only.
        """
        inner = self._interpreter._interpreter
        return [inner.tensor(inner, index, 0) for index in indices]

    def _find_buffers(self) -> bool:
        """Whether all inputs and outputs have memory before the first call: the place of others may change from call to call."""
        try:
            self._buffers([*self._inputs, *self._outputs])
        except ValueError:
            return False
        return True

    def _reset_and_invoke(self) -> None:
        """Compute; a fused LSTM would go on from the last call's state."""
        inner = self._interpreter._interpreter
        inner.ResetVariableTensors()
        inner.Invoke()

    def _reshape(self, shapes: list[tuple[int, ...]]) -> None:
        """Let the inputs have other shapes, with the lock held."""
        if self._has_fixed_buffers:
            raise InputError(f"the inputs must have the shapes {self._shapes}, found {shapes}")
        self._shapes = None
        inner = self._interpreter._interpreter
        try:
            for index, shape in zip(self._inputs, shapes, strict=True):
                inner.ResizeInputTensor(index, np.array(shape, np.int32), False)
            inner.AllocateTensors()
        except RuntimeError as error:
            raise _failed(error) from error
        self._shapes = shapes


def _bytes(array: Array) -> memoryview:
    return array.data.cast("B")


def _failed(error: RuntimeError) -> InputError:
    return InputError(f"the model must be able to run on these values: {str(error).splitlines()[0]}")
