"""Preprocessing layers stay in the graph, in operators that both formats have, with the numbers of Keras."""

from pathlib import Path

import numpy as np
import pytest

from lepton_converters import export
from lepton_converters.frozen_graph import freeze
from lepton_converters.keras_source import KerasSource
from lepton_converters.traced_ops import digitize, traced_ops
from lepton_runtime import Format, Session

# Operators of TensorFlow's own that ONNX or TFLite lack.
LACKING = {"Bucketize", "DenseBincount", "ScaleAndTranslate", "ResizeBicubic", "ResizeArea"}
BOUNDARIES = [-0.5, 0.0, 0.1, 1.0]
MODES = ("int", "one_hot", "multi_hot", "count")
METHODS = ("bilinear", "nearest", "bicubic", "lanczos3", "lanczos5")
PICTURE = ((7, 6, 2), "float32")
LAYERS = [
    *((f"Discretization {mode}", (3,), "float32", lambda k, m=mode: k.layers.Discretization(BOUNDARIES, output_mode=m)) for mode in MODES),
    ("Discretization of numbers", (2,), "int64", lambda k: k.layers.Discretization([1.0, 2.5])),
    *((f"CategoryEncoding {mode}", (4,), "int64", lambda k, m=mode: k.layers.CategoryEncoding(6, m)) for mode in MODES[1:]),
    ("CategoryEncoding of one", (1,), "int32", lambda k: k.layers.CategoryEncoding(6, "one_hot")),
    *((f"Resizing {method}", *PICTURE, lambda k, m=method: k.layers.Resizing(5, 9, m)) for method in METHODS),
    ("Resizing smoothed", *PICTURE, lambda k: k.layers.Resizing(3, 4, antialias=True)),
    ("Resizing whole numbers", (7, 6, 2), "uint8", lambda k: k.layers.Resizing(5, 4, "bicubic")),
    ("Resizing cropped", *PICTURE, lambda k: k.layers.Resizing(4, 4, "bicubic", crop_to_aspect_ratio=True)),
    ("UpSampling2D", *PICTURE, lambda k: k.layers.UpSampling2D(2, interpolation="bicubic")),
    ("CenterCrop", *PICTURE, lambda k: k.layers.CenterCrop(4, 3)),
    ("CenterCrop of a small one", *PICTURE, lambda k: k.layers.CenterCrop(9, 3)),
    ("Normalization", (3,), "float32", lambda k: k.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])),
    ("Rescaling whole numbers", (4, 4, 3), "uint8", lambda k: k.layers.Rescaling(1 / 255, offset=-1.0)),
]


def values_for(shape, dtype: str) -> np.ndarray:
    generator = np.random.default_rng(0)
    if dtype == "float32":
        return generator.normal(size=(5, *shape)).astype(dtype)
    return generator.integers(0, 256 if dtype == "uint8" else 6, (5, *shape)).astype(dtype)


@pytest.mark.parametrize(("shape", "dtype", "make"), [case[1:] for case in LAYERS], ids=[case[0] for case in LAYERS])
def test_a_preprocessing_layer_gives_the_numbers_of_keras_in_common_operators(keras, shape, dtype: str, make) -> None:
    import tensorflow as tf

    entered = keras.Input(shape, dtype=dtype, name="x")
    source = KerasSource.open(keras.Model(entered, make(keras)(entered)), batch=5)
    values = values_for(shape, dtype)
    (expected,) = source.predict({"x": values}).values()
    frozen = freeze(source, Format.TFLITE)
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        tf.import_graph_def(frozen.definition, name="")
        (found,) = session.run(frozen.outputs, {graph.get_tensor_by_name(name): values for name in frozen.inputs})
    assert not frozen.operators & LACKING
    assert found.dtype == expected.dtype
    # Products of matrices in float32 sum in another order than TensorFlow's own loops.
    np.testing.assert_allclose(found, expected, atol=1e-5)


EXPORTED = [
    ("Discretization multi_hot", {"x": ((3,), "float32")}, lambda k, x: k.layers.Discretization(BOUNDARIES, output_mode="multi_hot")(x)),
    (
        "CategoryEncoding of weighted counts",
        {"x": ((4,), "int32"), "weights": ((4,), "float32")},
        lambda k, x, weights: k.layers.CategoryEncoding(6, "count")(x, count_weights=weights),
    ),
    ("Resizing bicubic", {"x": PICTURE}, lambda k, x: k.layers.Resizing(5, 9, "bicubic")(x)),
    ("MelSpectrogram of power", {"x": ((300,), "float32")}, lambda k, x: spectrogram(k)(x)),
    ("argmax", {"x": ((3, 5), "float32")}, lambda k, x: k.ops.argmax(x, axis=1)),
    ("sinh and arctan", {"x": ((6,), "float32")}, lambda k, x: k.ops.sinh(x) + k.ops.arctan(3 * x)),
    ("Activation celu", {"x": ((6,), "float32")}, lambda k, x: k.layers.Activation("celu")(x)),
]


def spectrogram(keras):
    return keras.layers.MelSpectrogram(64, 32, num_mel_bins=8, sampling_rate=4000, max_freq=2000, mag_exp=2.0)


@pytest.mark.parametrize(("inputs", "make"), [case[1:] for case in EXPORTED], ids=[case[0] for case in EXPORTED])
def test_the_files_of_both_formats_give_the_numbers_of_keras(keras, tmp_path: Path, inputs, make) -> None:
    entered = {name: keras.Input(shape, dtype=dtype, name=name) for name, (shape, dtype) in inputs.items()}
    model = keras.Model(list(entered.values()), make(keras, *entered.values()))
    result = export(model, tmp_path / "b", precisions=["fp32"], batch=5)
    values = {name: values_for(shape, dtype) for name, (shape, dtype) in inputs.items()}
    expected = np.asarray(model(list(values.values())))
    for engine in ("onnxruntime", "litert"):
        with Session.open(result.path, engine=engine) as session:
            (found,) = session.run(values).values()
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # float32 sums of up to 64 products in another order


def test_values_on_a_boundary_and_nan_fall_where_they_do_in_keras(keras) -> None:
    values = np.float32([-np.inf, -0.5, np.nextafter(np.float32(0.1), np.float32(0)), 0.1, 1.0, np.inf, np.nan])
    np.testing.assert_array_equal(digitize(values, BOUNDARIES), keras.ops.digitize(values, np.float32(BOUNDARIES)))


def test_an_id_without_a_place_gives_zeros_as_in_keras(keras) -> None:
    ids = np.array([[-1, 2], [7, 0]])
    with traced_ops():
        found = np.asarray(keras.layers.CategoryEncoding(3, "one_hot")(ids))
    np.testing.assert_array_equal(found, keras.layers.CategoryEncoding(3, "one_hot")(ids))


def test_counts_may_be_weighted(keras) -> None:
    ids, weights = np.array([[0, 2, 2], [1, 1, 0]]), np.float32([[0.5, 1, 2], [3, 4, 5]])
    layer = keras.layers.CategoryEncoding(4, "count")
    expected = np.asarray(layer(ids, count_weights=weights))
    with traced_ops():
        np.testing.assert_array_equal(layer(ids, count_weights=weights), expected)


def test_keras_is_as_it_was_after_a_trace(keras) -> None:
    from keras.src.backend.tensorflow import numpy

    before = numpy.digitize
    with pytest.raises(ZeroDivisionError), traced_ops():
        1 / (numpy.digitize is before)
    assert numpy.digitize is before


def test_preprocessing_layers_are_exported_to_both_formats(keras, tmp_path: Path) -> None:
    layers = keras.layers
    picture, row = keras.Input((9, 8, 3), name="picture"), keras.Input((4,), name="row")
    outputs = [
        layers.Resizing(5, 6, "bicubic", name="bicubic")(picture),
        layers.Resizing(4, 4, "lanczos3", antialias=True, name="lanczos")(layers.CenterCrop(6, 6)(picture)),
        layers.CategoryEncoding(5, "count", name="counts")(layers.Discretization(BOUNDARIES)(row)),
    ]
    result = export(keras.Model([picture, row], outputs), tmp_path / "b", precisions=["fp32"])
    assert [record.verdict for record in result.verified] == ["same as Keras"] * 2
