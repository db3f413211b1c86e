"""TFLite files with built-in operators only, by the first route whose result is right."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from types import SimpleNamespace
from typing import Any, TypeVar

from lepton_converters.artifact import Artifact
from lepton_converters.calibration import Calibration
from lepton_converters.eight_bit_form import needs_8_bit_form
from lepton_converters.frozen_graph import FrozenGraph, freeze, graph_names, save_traced
from lepton_converters.keras_source import KerasSource
from lepton_converters.memory import release_memory
from lepton_converters.quantizer import Quantizer
from lepton_converters.quiet import quiet_tensorflow
from lepton_converters.recipe import IntegerIo
from lepton_converters.tflite_artifact import make_artifact
from lepton_converters.tflite_content import operator_codes, packed, read_content
from lepton_converters.tflite_float_graph import TfliteFloatGraph
from lepton_converters.tflite_recurrent import TfliteRecurrence
from lepton_runtime.durable import temporary_folder
from lepton_runtime.errors import UnsupportedError
from lepton_runtime.formats import Format, Precision
from lepton_runtime.tensors import Array

_LOOPS = {"While", "StatelessWhile", "Enter", "Exit", "LoopCond", "NextIteration", "TensorListReserve"}
Made = TypeVar("Made")
_FUSED_LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"


class TfliteExporter:
    """Makes the TFLite artifacts of one model; graphs are traced once for all of them.

    Routes, in the order in which they are tried: ``graph``, the frozen graph, with Keras' loops; ``unrolled``, the frozen graph with
    the steps of loops written out, for what is calibrated: TensorFlow crashes on calibrating a loop; ``fused``, each LSTM as TFLite's
    own operator, by a SavedModel: it is slower in float and far less exact in 8 bits, but takes sequences of any length there.
    """

    def __init__(self, source: KerasSource, *, accept: Callable[[Artifact], None]) -> None:
        """Prepare for one model.

        Args:
            source: The trained model.
            accept: Raises UnsupportedError for an artifact that does not answer as the model does.
        """
        self._source = source
        self._accept = accept
        self._float = remembered(lambda: self._make(Precision.FP32, None))

    @cached_property
    def _graph(self) -> FrozenGraph:
        return freeze(self._source, Format.TFLITE)

    @cached_property
    def _calibrated(self) -> FrozenGraph:
        """The graph for what is calibrated: without loops, and with what 8 bits can hold."""
        if not self._has_loops and not needs_8_bit_form(self._graph.definition):
            return self._graph
        return freeze(self._source, Format.TFLITE, unrolls=True, for_8_bits=True)

    @cached_property
    def _has_loops(self) -> bool:
        return _holds_loops(self._graph)

    def make(self, precision: Precision, *, quantizer: Quantizer | None) -> Artifact:
        """One TFLite artifact.

        Args:
            precision: Which.
            quantizer: For ``static-int8`` and ``int16x8``.

        Raises:
            UnsupportedError: It cannot be made at this precision with built-in operators.
        """
        if precision.needs_calibration and quantizer is None:
            raise UnsupportedError(f"{precision} must be calibrated, found no samples; give --calib PATH")
        # It raises if the model has no TFLite file that gives its numbers: smaller ones would be wrong, too.
        artifact = self._float()
        return artifact if precision == Precision.FP32 else self._make(precision, quantizer)

    def _make(self, precision: Precision, quantizer: Quantizer | None) -> Artifact:
        routes = ["graph"] if not self._has_loops else ["unrolled" if precision.needs_calibration else "graph", "fused"]
        faults = []
        for route in routes:
            try:
                artifact = self._convert(route, precision, quantizer)
                if artifact is None:
                    continue
                self._accept(artifact)
            except UnsupportedError as error:
                faults.append((route, str(error)))
                continue
            return artifact
        raise UnsupportedError(told_once(faults))

    def _convert(self, route: str, precision: Precision, quantizer: Quantizer | None) -> Artifact | None:
        """The artifact, or ``None`` if the route has nothing to offer for this model."""
        import tensorflow as tf

        calibration = quantizer.calibration if quantizer else None
        io = quantizer.io if quantizer else "float"
        if route != "fused":
            graph = self._calibrated if precision.needs_calibration else self._graph
            if precision.needs_calibration and _holds_loops(graph):
                raise UnsupportedError(f"{precision} needs loops of a fixed number of steps, this one is free; give the sequence a length")
            if precision == Precision.STATIC_INT8 and quantizer is not None:
                return quantizer.quantize(self._float_graph(graph, quantizer.calibration, route))
            model = _run_converter(_converter_of(graph), precision, self._batches(calibration, named=False), io)
            return make_artifact(_with_undivided_loops(model) if _holds_loops(graph) else model, precision, self._source, route)
        operator = TfliteRecurrence()
        with temporary_folder() as folder:
            save_traced(self._source, folder, recurrence=operator, unrolls=precision.needs_calibration)
            if not operator.count:
                return None
            with quiet_tensorflow():
                converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            model = _run_converter(converter, precision, self._batches(calibration, named=True), io)
        return make_artifact(_with_doors_of(model, self._source, fused=operator.count), precision, self._source, route)

    def _float_graph(self, graph: FrozenGraph, calibration: Calibration, route: str) -> TfliteFloatGraph:
        """The network as TensorFlow prepares it for quantization; the ranges in it are those of one batch."""
        converter = _converter_of(graph)
        converter._experimental_calibrate_only = True
        batches = self._batches(calibration, named=False)
        model = _run_converter(converter, Precision.STATIC_INT8, lambda: islice(batches(), 1), "float")
        return TfliteFloatGraph.read(model, source=self._source, route=route)

    def _batches(self, calibration: Calibration | None, *, named: bool) -> Callable[[], Iterator[Any]]:
        """Calibration batches as TensorFlow takes them: in the model's order, or by name for a SavedModel."""
        names = graph_names(self._source)[0]

        def batches() -> Iterator[list[Array] | dict[str, Array]]:
            for batch in calibration.batches() if calibration else ():
                values = [batch[spec.name] for spec in self._source.inputs]
                yield dict(zip(names, values, strict=True)) if named else values

        return batches


def remembered(make: Callable[[], Made]) -> Callable[[], Made]:
    """What ``make`` gives, or refuses, is found out once: it is the same for every precision, and worth a minute each."""
    results: list[Made | UnsupportedError] = []

    def result() -> Made:
        if not results:
            try:
                results.append(make())
            except UnsupportedError as error:
                results.append(error)
        if isinstance(results[0], UnsupportedError):
            raise results[0]
        return results[0]

    return result


def _holds_loops(graph: FrozenGraph) -> bool:
    return not _LOOPS.isdisjoint(graph.operators)


def told_once(faults: Sequence[tuple[str, str]]) -> str:
    """Routes and what each failed by, in words; once if it is the same."""
    texts = {text for _, text in faults}
    return texts.pop() if len(texts) == 1 else "; ".join(f"{text} (route {route!r})" for route, text in faults)


def _converter_of(graph: FrozenGraph) -> Any:
    """TensorFlow's converter of concrete functions, given a graph that is frozen already.

    With a function it would freeze it once more, and keep ten copies of the weights meanwhile.
    """
    from tensorflow.lite.python.conversion_metadata_schema_py_generated import ModelType
    from tensorflow.lite.python.lite import TFLiteConverterBase, TFLiteFrozenGraphConverterV2

    class Converter(TFLiteFrozenGraphConverterV2):  # type: ignore[misc]  # TensorFlow has no type hints
        def _freeze_concrete_function(self) -> tuple[Any, list[Any], list[Any], Any]:
            return graph.definition, inputs, outputs, function

        def _optimize_tf_model(self, graph_def: Any, input_tensors: Any, output_tensors: Any, frozen_func: Any) -> Any:
            optimized = super()._optimize_tf_model(graph_def, input_tensors, output_tensors, frozen_func)
            release_memory(graph.weights_bytes)
            return optimized

    imported, inputs, outputs = graph.imported()
    function = SimpleNamespace(graph=imported)
    TFLiteConverterBase._set_original_model_type(ModelType.TF_CONCRETE_FUNCTIONS)
    return Converter([function])


def _run_converter(converter: Any, precision: Precision, batches: Callable[[], Iterator[Any]], io: IntegerIo) -> bytes:
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    converter.target_spec.supported_ops = [_operators(tf.lite.OpsSet, precision)]
    if precision != Precision.FP32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == Precision.FP16:
        converter.target_spec.supported_types = [tf.float16]
    if precision.needs_calibration:
        converter.representative_dataset = batches
    if precision == Precision.STATIC_INT8 and io != "float":
        converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(io)
    try:
        with quiet_tensorflow():
            return bytes(converter.convert())
    except (ConverterError, ValueError, RuntimeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        lines = [line for word in (" ops: ", "error: ") for line in lines if word in line] or lines
        raise UnsupportedError(f"every operator must have a built-in TFLite form at {precision}: {lines[0].strip()[:300]}") from error


def _operators(ops: Any, precision: Precision) -> Any:
    if precision == Precision.STATIC_INT8:
        return ops.TFLITE_BUILTINS_INT8
    if precision == Precision.INT16X8:
        return ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    return ops.TFLITE_BUILTINS


def _with_undivided_loops(model: bytes) -> bytes:
    """The file with what counts a loop's steps, and takes a step out of the sequence, before all else in its body.

    LiteRT computes those operators itself and hands the others to a delegate, all at once where none of them is in between.
    """
    from tensorflow.lite.python.schema_py_generated import TensorType

    content = read_content(model)
    kinds = operator_codes(content)
    for body in content.subgraphs[1:]:
        floats = {index for index, tensor in enumerate(body.tensors) if tensor.type == TensorType.FLOAT32}
        made = {index for operator in body.operators for index in operator.outputs}
        first: list[Any] = []
        for operator in body.operators:
            if made.isdisjoint(operator.inputs) and (kinds[operator.opcodeIndex] == "GATHER" or floats.isdisjoint(operator.outputs)):
                first.append(operator)
                made -= set(operator.outputs)
        body.operators = first + [operator for operator in body.operators if operator not in first]
    return packed(content)


def _with_doors_of(model: bytes, source: KerasSource, *, fused: int) -> bytes:
    """The file of a SavedModel with the model's names and order of inputs and outputs.

    Raises:
        UnsupportedError: TensorFlow did not fuse every LSTM, so that the file would answer nonsense.
    """
    content = read_content(model)
    kinds = operator_codes(content)
    found = sum(kinds[operator.opcodeIndex] == _FUSED_LSTM for graph in content.subgraphs for operator in graph.operators)
    if found != fused:
        raise UnsupportedError(f"each of {fused} LSTM layers must become one fused operator, found {found}")
    graph, signature = content.subgraphs[0], content.signatureDefs[0]
    given = {entry.name.decode(): entry.tensorIndex for entry in signature.inputs}
    made = {entry.name.decode(): entry.tensorIndex for entry in signature.outputs}
    graph.inputs = [given[name] for name in graph_names(source)[0]]
    graph.outputs = [made[f"output_{position}"] for position in range(len(source.outputs))]
    for specs, tensors in ((source.inputs, graph.inputs), (source.outputs, graph.outputs)):
        for spec, tensor in zip(specs, tensors, strict=True):
            graph.tensors[tensor].name = spec.name.encode()
    return packed(content)
