"""ONNX files on onnxruntime, the default engine."""

from collections.abc import Callable, Sequence
from typing import Any

import onnxruntime

from lepton_runtime.errors import BundleError, InputError
from lepton_runtime.tensors import Array, TensorSpec


class OnnxruntimeEngine:
    """An ``InferenceSession`` on the CPU; many threads may share it."""

    def __init__(self, model: bytes, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], threads: int) -> None:
        """Load a model.

        Args:
            model: The file's content.
            inputs: What it takes, in order.
            outputs: What it gives, in order.
            threads: How many one call may use.

        Raises:
            BundleError: onnxruntime refuses the model.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Idle threads that spin cost 184 % of a core against 0.4 %, at the same latency for one thread.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own exception classes share no base but this
            text = str(error).splitlines()[0]
            raise BundleError(f"onnxruntime {onnxruntime.__version__} must be able to load the model: {text}") from error
        # The Python layer of ``InferenceSession.run`` checks again what a TensorSpec has checked, for 1 µs a call.
        # The C++ session below it takes the same arguments, and should that attribute go, so does the layer.
        run: Any = getattr(self._session, "_sess", self._session).run  # Any: an extension without types
        self._run: Callable[[list[str], dict[str, Array], None], list[Array]] = run
        self._input_names = [spec.name for spec in inputs]
        self._output_names = [spec.name for spec in outputs]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs, in order, for the inputs, in order.

        Raises:
            InputError: The model fails on these values, such as an index out of range.
        """
        try:
            return self._run(self._output_names, dict(zip(self._input_names, arrays, strict=True)), None)
        except Exception as error:  # its own exception classes share no base but this
            raise InputError(f"the model must be able to run on these values: {str(error).splitlines()[0]}") from error
