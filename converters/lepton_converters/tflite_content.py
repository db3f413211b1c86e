"""TFLite files as objects that can be looked into, changed and run."""

from collections.abc import Sequence
from typing import Any

from lepton_converters.quiet import quiet_tensorflow
from lepton_runtime.tensors import Array


def read_content(model: bytes) -> Any:
    """A file as an object of TensorFlow's ``flatbuffer_utils``: generated code without types."""
    with quiet_tensorflow():
        from tensorflow.lite.tools import flatbuffer_utils

    content = flatbuffer_utils.convert_bytearray_to_object(bytearray(model))
    content.operatorCodes = content.operatorCodes or []  # a network whose outputs are its inputs has none
    for graph in content.subgraphs or []:
        graph.operators = graph.operators or []
    return content


def packed(content: Any) -> bytes:
    """The file of such an object."""
    from tensorflow.lite.tools import flatbuffer_utils

    return bytes(flatbuffer_utils.convert_object_to_bytearray(content))


def operator_codes(content: Any) -> list[str]:
    """What operators do, such as ``CONV_2D``, by their ``opcodeIndex``."""
    from tensorflow.lite.tools import flatbuffer_utils

    return [str(flatbuffer_utils.opcode_to_name(content, index)) for index in range(len(content.operatorCodes))]


class BuiltinRun:
    """A file that runs on TFLite's own operators: a delegate would keep its inner tensors to itself."""

    def __init__(self, content: Any) -> None:
        """Load a file.

        Args:
            content: As an object of TensorFlow's ``flatbuffer_utils``, whose outputs are the tensors to look at.
        """
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        content.signatureDefs = []  # they name the old inputs and outputs
        with quiet_tensorflow():
            self._interpreter = Interpreter(
                model_content=packed(content),
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
        self._inputs = [detail["index"] for detail in self._interpreter.get_input_details()]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]
        self._shapes: list[tuple[int, ...]] = []

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs for the inputs, in order."""
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            for index, shape in zip(self._inputs, shapes, strict=True):
                self._interpreter.resize_tensor_input(index, shape)
            with quiet_tensorflow():
                self._interpreter.allocate_tensors()
            self._shapes = shapes
        for index, array in zip(self._inputs, arrays, strict=True):
            self._interpreter.set_tensor(index, array)
        self._interpreter.reset_all_variables()
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]
