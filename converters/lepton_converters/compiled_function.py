"""A function of tensors that TensorFlow traced once and runs many times."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from lepton_converters.frozen_graph import refusing
from lepton_converters.quiet import quiet_tensorflow
from lepton_runtime.errors import InputError


def compile_function(function: Callable[..., Any], signature: Sequence[Any]) -> Callable[..., Any]:  # Any: TensorFlow has no type hints
    """The function, for arguments of that signature.

    Args:
        function: Of tensors, or of lists of them.
        signature: A ``TensorSpec``, or a list of some, for each argument.

    Returns:
        What takes such arguments. It raises InputError where the samples are too many for the memory, or do not fit the model.

    Raises:
        UnsupportedError: TensorFlow cannot trace it.
    """
    import tensorflow as tf

    with refusing():
        traced = tf.function(function, input_signature=list(signature), autograph=False).get_concrete_function()

    def run(*arguments: Any) -> Any:
        try:
            with quiet_tensorflow():
                return traced(*tf.nest.flatten(arguments))
        except tf.errors.ResourceExhaustedError as error:
            raise InputError(f"a batch must fit in memory, this one does not: {_reason(error)}; lower --batch-size") from error
        except tf.errors.InvalidArgumentError as error:
            raise InputError(f"the model must be able to run on the samples: {_reason(error)}") from error

    return run


def _reason(error: Exception) -> str:
    """What an operator says that failed, in one line, without where in the graph and in Python that was."""
    said = str(error).partition("[[{{node")[0].strip()
    return re.sub(r"^{{.*?}} ", "", said.splitlines()[-1])[:300]
