"""The Keras model as one TensorFlow graph, the common start of every conversion."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lepton_converters.eight_bit_form import take_8_bit_form
from lepton_converters.folded_preprocessing import fold_preprocessing
from lepton_converters.keras_source import KerasSource
from lepton_converters.memory import release_memory
from lepton_converters.quiet import quiet_tensorflow, reason_of
from lepton_converters.random_operator import check_no_random
from lepton_converters.recurrent import Operator, traced_recurrence
from lepton_converters.traced_functions import traced_functions
from lepton_converters.traced_layers import traced_layers
from lepton_converters.traced_names import traced_names
from lepton_converters.traced_ops import traced_ops
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.formats import Format

_VALID_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class FrozenGraph:
    """A model as one graph, with constants for weights.

    Attributes:
        definition: Its nodes, a ``GraphDef``.
        inputs: The names of its tensors, such as ``image:0``, in Keras' order.
        outputs: Likewise.
        weights_bytes: About how large it is.
    """

    definition: Any  # Any: TensorFlow has no type hints
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights_bytes: int

    def imported(self) -> tuple[Any, list[Any], list[Any]]:
        """A TensorFlow graph, and its input and output tensors.

        Raises:
            UnsupportedError: TensorFlow takes the definition for wrong.
        """
        import tensorflow as tf

        with refusing(), tf.Graph().as_default() as graph:
            tf.import_graph_def(self.definition, name="")
            inputs, outputs = ([graph.get_tensor_by_name(name) for name in names] for names in (self.inputs, self.outputs))
        return graph, inputs, outputs

    @property
    def operators(self) -> set[str]:
        """The kinds of operators in it."""
        return {node.op for node in self.definition.node}


def freeze(
    source: KerasSource, format_: Format, *, recurrence: Operator | None = None, unrolls: bool = False, for_8_bits: bool = False
) -> FrozenGraph:
    """The graph of a model, whose inputs and outputs have the Keras names and order.

    Weights are frozen because ``from_concrete_functions`` on a Keras 3 model loses them in silence.

    Args:
        source: The trained model.
        format_: What it is converted to.
        recurrence: What stands for recurrent layers; ``None`` leaves Keras' loops.
        unrolls: Write the steps of the loops that are left one after the other.
        for_8_bits: In the form that TFLite computes well in 8 bits; see :mod:`lepton_converters.eight_bit_form`.

    Raises:
        UnsupportedError: TensorFlow cannot trace the model.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    size = 4 * source.parameters
    with refusing():
        frozen = convert_variables_to_constants_v2(_trace(source, format_, recurrence=recurrence, unrolls=unrolls))
        release_memory(size)
        graph_def = frozen.graph.as_graph_def()
        # Freezing calls the outputs Identity, Identity_1, …; behind each stands the one that was named.
        inputs = tuple(tensor.name for tensor in frozen.inputs)
        outputs = tuple(tensor.op.inputs[0].name for tensor in frozen.outputs)
        del frozen
        needed = [name.partition(":")[0] for name in (*inputs, *outputs)]
        if format_ == Format.TFLITE:
            fold_preprocessing(graph_def)
        graph_def = tf.compat.v1.graph_util.extract_sub_graph(graph_def, needed)
        batch = source.inputs[0].shape[0]
        if source.model is None and batch is not None:
            _fix_lists(graph_def, batch)
        if for_8_bits:
            take_8_bit_form(graph_def)
    release_memory(size)
    return FrozenGraph(graph_def, inputs, outputs, size)


def _fix_lists(graph_def: Any, batch: int) -> None:
    """Give the lists of a SavedModel's loops the batch that it is now converted for: TFLite needs it.

    A SavedModel was traced for any batch, and its loops collect one ``(batch, units)`` a step.
    """
    import tensorflow as tf

    nodes = {node.name: node for node in graph_def.node}
    for node in [node for node in graph_def.node if node.op.startswith("TensorList")]:
        for position, name in enumerate(node.input):
            shape = nodes.get(name)
            if shape is None or shape.op != "Const" or "element_shape" not in name:
                continue
            values = tf.make_ndarray(shape.attr["value"].tensor)
            if values.ndim == 1 and len(values) > 1 and values[0] == -1 and (values[1:] >= 0).all():
                made = graph_def.node.add()
                made.CopyFrom(shape)
                made.name = f"{node.name}/element_shape_of_batch_{position}"
                made.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([batch, *values[1:]], values.dtype))
                node.input[position] = made.name


def save_traced(source: KerasSource, folder: str, *, recurrence: Operator, unrolls: bool) -> None:
    """A SavedModel of one signature: inputs of the :func:`graph_names`, outputs ``output_0 …``; functions stay functions.

    Raises:
        UnsupportedError: TensorFlow cannot trace the model.
    """
    import tensorflow as tf

    with refusing():
        traced = _trace(source, Format.TFLITE, recurrence=recurrence, unrolls=unrolls)
        holder: Any = tf.Module()
        holder.model_variables = list(traced.variables)
        tf.saved_model.save(holder, folder, signatures=traced)


def graph_names(source: KerasSource) -> tuple[list[str], list[str]]:
    """The names of the inputs and outputs that TensorFlow takes: the model's own where they are valid."""
    inputs = [_valid_name(spec.name, f"input_{position}") for position, spec in enumerate(source.inputs)]
    return inputs, [_valid_name(spec.name, f"output_{position}") for position, spec in enumerate(source.outputs)]


def _trace(source: KerasSource, format_: Format, *, recurrence: Operator | None, unrolls: bool) -> Any:
    """The model's call, traced anew each time: ``tf.function`` would reuse a trace with a wider batch."""
    import tensorflow as tf

    input_names, output_names = graph_names(source)
    signature = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for spec, name in zip(source.inputs, input_names, strict=True)]

    def infer(*tensors: Any) -> list[Any]:
        outputs = source.call(list(tensors))
        return [tf.identity(output, name=name) for output, name in zip(outputs, output_names, strict=True)]

    with exported_form(format_, recurrence=recurrence, unrolls=unrolls):
        traced = tf.function(infer, input_signature=signature, autograph=False).get_concrete_function()
    check_no_random(traced)
    return traced


@contextmanager
def exported_form(format_: Format, *, recurrence: Operator | None = None, unrolls: bool = False) -> Iterator[None]:
    """Keras in the operators that a format is made from, while a model is traced; the arguments are those of :func:`freeze`."""
    with (
        _inlined_functions(),
        traced_names(),
        traced_functions(format_),
        traced_layers(lacks_3d=format_ == Format.TFLITE),
        traced_ops(),
        traced_recurrence(recurrence, unrolls=unrolls),
    ):
        yield


@contextmanager
def _inlined_functions() -> Iterator[None]:
    """Functions that Keras compiles with XLA (grouped convolutions) are traced as plain operators.

    Freezing does not inline a function marked for XLA, and neither converter knows one.
    """
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


@contextmanager
def refusing() -> Iterator[None]:
    """What TensorFlow raises for a model that it cannot trace, as our own error."""
    import tensorflow as tf

    try:
        with quiet_tensorflow():
            yield
    except (ValueError, TypeError, NotImplementedError, tf.errors.OpError) as error:
        raise UnsupportedError(f"TensorFlow must be able to trace the model for inference: {reason_of(error)}") from error


def _valid_name(name: str, other: str) -> str:
    return name if _VALID_NAME.fullmatch(name) else other
