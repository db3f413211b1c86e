"""The Keras model as one TensorFlow graph with its weights inside, the common start of every conversion."""

import re
from typing import Any

from lepton_converters.keras_source import KerasSource
from lepton_converters.quiet import quiet_tensorflow, reason_of
from lepton_converters.traced_ops import traceable_ops
from lepton_runtime.errors import UnsupportedError

_VALID_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.-]*")


def freeze(source: KerasSource) -> Any:  # Any: TensorFlow has no type hints
    """A concrete function with constants for weights, whose inputs and outputs have the Keras names and order.

    Traced anew each time: ``tf.function`` would reuse a trace with a wider batch. Weights are frozen because
    ``from_concrete_functions`` on a Keras 3 model loses them in silence.

    Raises:
        UnsupportedError: TensorFlow cannot trace the model.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = [
        tf.TensorSpec(spec.shape, spec.dtype, name=_valid_name(spec.name, f"input_{position}"))
        for position, spec in enumerate(source.inputs)
    ]
    output_names = [_valid_name(spec.name, f"output_{position}") for position, spec in enumerate(source.outputs)]

    def infer(*tensors: Any) -> list[Any]:
        outputs = source.call(list(tensors))
        return [tf.identity(output, name=name) for output, name in zip(outputs, output_names, strict=True)]

    try:
        with quiet_tensorflow(), traceable_ops():
            traced = tf.function(infer, input_signature=signature, autograph=False).get_concrete_function()
            frozen = convert_variables_to_constants_v2(traced)
            graph_def = frozen.graph.as_graph_def()
            # Freezing calls the outputs Identity, Identity_1, …; behind each stands the one named above.
            names = [output.op.inputs[0].name for output in frozen.outputs]
            imported = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph_def, name=""), [])
            tensor = imported.graph.get_tensor_by_name
            return imported.prune([tensor(given.name) for given in frozen.inputs], [tensor(name) for name in names])
    except (ValueError, TypeError, NotImplementedError, tf.errors.OpError) as error:
        raise UnsupportedError(f"TensorFlow must be able to trace the model for inference: {reason_of(error)}") from error


def _valid_name(name: str, other: str) -> str:
    return name if _VALID_NAME.fullmatch(name) else other
