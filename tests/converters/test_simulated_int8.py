"""Which tensors of a model are rounded, found by their values; and the answers, held against those of the exported file."""

from collections.abc import Callable, Mapping

import numpy as np
import onnxruntime
import pytest

from lepton_converters.compiled_function import compile_function
from lepton_converters.keras_source import KerasSource
from lepton_converters.quantizer import find_ranges
from lepton_converters.simulated_int8 import SimulatedInt8
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_runtime import UnsupportedError
from lepton_runtime.formats import Target
from lepton_runtime.tensors import Array
from tests.converters.float_graphs import onnx_float_graph

SAMPLES = 16


def drawn(source: KerasSource) -> dict[str, Array]:
    generator = np.random.default_rng(3)
    return {spec.name: generator.uniform(-1, 1, (SAMPLES, *spec.shape[1:])).astype(np.float32) for spec in source.inputs}


def simulated(source: KerasSource, target: Target = Target.ANY) -> SimulatedInt8:
    return SimulatedInt8(source, onnx_float_graph(source), target=target, batch=drawn(source))


def opened(model) -> KerasSource:
    return KerasSource.open(model, batch=SAMPLES)


def made_answers(source: KerasSource, target: Target) -> list[Array]:
    """What the simulation gives, calibrated on these very samples."""
    import tensorflow as tf

    int8, batch = simulated(source, target), drawn(source)
    int8.calibrate([batch], ranges="by-tensor")
    signature = [tf.TensorSpec(spec.shape, spec.dtype) for spec in source.inputs]
    infer = compile_function(lambda *tensors: list(int8.call(tensors).values), signature)
    return [np.asarray(output) for output in infer(*(tf.constant(batch[spec.name]) for spec in source.inputs))]


def exported_answers(source: KerasSource, target: Target) -> list[Array]:
    """What the static-int8 ONNX file gives that is calibrated likewise."""
    graph, batch = onnx_float_graph(source), drawn(source)
    statistics = {name: TensorStatistics(name) for name in graph.tensors}
    for values in graph.values(iter([batch]), graph.tensors):
        for name, array in values.items():
            statistics[name].add(array, first_sample=0)
    file = graph.quantize(find_ranges(statistics, "by-tensor"), in_float=frozenset(), target=target, io="float")
    return onnxruntime.InferenceSession(file.model).run([spec.name for spec in source.outputs], batch)


def rounded(int8: SimulatedInt8) -> list[str]:
    """The last parts of the names of TensorFlow's operators whose values are rounded, with scopes that layers are known by."""
    return ["/".join(int8._names[number].split("/")[-2:]) for number in sorted(int8._points)]


def binary(keras):
    layers = keras.layers
    row = keras.Input((8,), name="row")
    return keras.Model(row, layers.Dense(1, activation="sigmoid", name="cat")(layers.Dense(16, activation="relu")(row)))


def two_doors(keras):
    layers = keras.layers
    image, row = keras.Input((6, 6, 3), name="image"), keras.Input((4,), name="row")
    x = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(image))
    x = layers.concatenate([layers.Dense(8, activation="relu")(x), layers.Dense(8, activation="relu")(row)])
    return keras.Model([image, row], [layers.Dense(3, activation="softmax", name="kind")(x), layers.Dense(4, name="box")(x)])


@pytest.mark.parametrize("network", [binary, two_doors])
@pytest.mark.parametrize("target", [Target.ANY, Target.X86_VNNI, Target.ARM_DOTPROD])
def test_the_answers_are_those_of_the_exported_file(keras, liven, network: Callable, target: Target) -> None:
    # What is left between them: biases, which the simulation does not round, and values on either side of a step.
    keras.utils.set_random_seed(2)
    model = network(keras)
    liven(keras, model)
    source = opened(model)
    exact: Mapping[str, Array] = source.predict(drawn(source))
    for spec, made, exported in zip(source.outputs, made_answers(source, target), exported_answers(source, target), strict=True):
        lost = np.abs(exported - exact[spec.name]).max()
        assert lost > 0
        assert np.abs(made - exported).max() < 0.35 * lost


def test_what_constants_in_another_order_leave_without_a_match_stays_in_float(keras, liven) -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 4), name="image")
    x = image + layers.Conv2D(4, 3, padding="same", name="inner")(image) + 0.05  # the file adds 0.05 to the bias
    model = keras.Model(image, layers.Dense(3, name="head")(layers.Flatten()(layers.Conv2D(4, 1, name="last")(x))), name="shifted")
    liven(keras, model)
    int8 = simulated(opened(model))
    assert int8.unmatched == ("shifted/Add",)
    assert rounded(int8) == ["Identity", "shifted/Add_1", "last/BiasAdd"]


def test_what_has_no_match_is_named_after_its_layer(keras, liven, monkeypatch) -> None:
    source = opened(keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(8, activation="relu", name=name) for name in "abc")]))
    liven(keras, source.model)
    graph = onnx_float_graph(source)
    values = graph.values

    def changed(batches, tensors):
        for found in values(batches, tensors):
            yield {name: array + ("/b/" in name) for name, array in found.items()}

    monkeypatch.setattr(graph, "values", changed)
    assert SimulatedInt8(source, graph, target=Target.ANY, batch=drawn(source)).unmatched == ("b",)
    monkeypatch.setattr(
        graph, "values", lambda batches, tensors: ({name: array + 1 for name, array in found.items()} for found in values(batches, tensors))
    )
    with pytest.raises(UnsupportedError, match=r"what the file rounds must be tensors of TensorFlow's, 3 of 3 are none: .*, a, b"):
        SimulatedInt8(source, graph, target=Target.ANY, batch=drawn(source))


@pytest.mark.parametrize("scale", [1.0, 1e-6, 0.0])
def test_a_residual_of_a_branch_that_adds_next_to_nothing_is_rounded_apart(keras, liven, scale: float) -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(4, 1, name="stem")(image)
    branch = layers.Conv2D(4, 3, padding="same", name="branch")
    x = layers.Add(name="residual")([x, branch(x)])
    x = layers.Add(name="again")([x, layers.Conv2D(4, 1, name="other")(x)])
    model = keras.Model(image, layers.Dense(3, name="head")(layers.Flatten()(layers.Conv2D(4, 1, name="last")(x))), name="scaled")
    liven(keras, model)
    branch.set_weights([scale * weight for weight in branch.get_weights()])
    int8 = simulated(opened(model))
    assert int8.unmatched == ()
    assert {"stem/BiasAdd", "residual/Add", "again/Add"} <= set(rounded(int8))
    assert len(int8._points) == len(set(int8._points.values())) == 7  # the input and what each layer gives, but for the last


def test_tensors_that_are_all_zero_are_rounded_apart(keras, liven) -> None:
    layers = keras.layers
    row = keras.Input((6,), name="row")
    dead = [layers.Dense(8, activation="relu", name=name) for name in ("left", "right")]
    x = layers.concatenate([layers.Dense(4, activation="relu")(layer(row)) for layer in dead])
    model = keras.Model(row, layers.Dense(3, name="head")(x))
    liven(keras, model)
    for bias, layer in enumerate(dead, 1):
        layer.set_weights([np.zeros((6, 8)), np.full(8, -bias)])
    int8 = simulated(opened(model))
    assert int8.unmatched == ()
    assert {"left/Relu", "right/Relu"} <= set(rounded(int8))


def test_a_batch_of_another_size_is_computed_alike(keras, liven) -> None:
    import tensorflow as tf

    model = two_doors(keras)
    liven(keras, model)
    source = opened(model)
    int8, batch = simulated(source), drawn(source)
    int8.calibrate([batch], ranges="by-tensor")

    def answers(count: int) -> Array:
        signature = [tf.TensorSpec((count, *spec.shape[1:]), spec.dtype) for spec in source.inputs]
        infer = compile_function(lambda *tensors: list(int8.call(tensors).values), signature)
        return np.asarray(infer(*(tf.constant(batch[spec.name][:count]) for spec in source.inputs))[0])

    np.testing.assert_allclose(answers(3), answers(SAMPLES)[:3], atol=1e-6)
