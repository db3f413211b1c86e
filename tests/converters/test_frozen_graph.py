"""The graph that every conversion starts from holds what the outputs need, under the right doors, in what 8 bits can hold."""

from pathlib import Path

import numpy as np
import pytest

from lepton_converters import export
from lepton_converters.frozen_graph import freeze
from lepton_converters.keras_source import KerasSource
from lepton_runtime import Session
from lepton_runtime.formats import Format


def test_a_loop_that_no_output_needs_is_left_out(keras, tmp_path: Path) -> None:
    class Dead(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.used = keras.layers.SimpleRNN(3), keras.layers.Dense(2)

        def build(self, shape) -> None:
            self.unused.build(shape)
            self.used.build((shape[0], shape[2]))

        def call(self, x):
            self.unused(x)
            return self.used(x[:, 0])

    keras.utils.set_random_seed(0)
    x = keras.Input((None, 4), name="x")
    model = keras.Model(x, Dead()(x))
    assert not freeze(KerasSource.open(model), Format.TFLITE).operators & {"While", "StatelessWhile", "Enter"}
    np.save(tmp_path / "samples.npy", np.random.default_rng(0).normal(size=(40, 6, 4)).astype(np.float32))
    result = export(
        model, tmp_path / "b.bundle", formats=["tflite"], precisions=["static-int8"], calib=tmp_path / "samples.npy", calib_samples=20
    )
    assert result.verified[0].parity.cosine > 0.99


def test_outputs_may_be_inputs_constants_and_the_same_tensor_twice(keras, tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    inner = keras.layers.Dense(3, name="inner")(x)
    outputs = [x, inner, keras.layers.ReLU()(inner), inner, keras.ops.zeros_like(x) + 2.0]
    export(keras.Model(x, outputs), tmp_path / "b.bundle", precisions=["fp32"])
    value = np.random.default_rng(0).normal(size=(1, 4)).astype(np.float32)
    expected = [np.asarray(output) for output in keras.Model(x, outputs)(value)]
    for engine in ("onnxruntime", "litert"):
        with Session.open(tmp_path / "b.bundle", engine=engine) as session:
            found = session.run({"x": value})
        assert len(found) == len(expected)
        for given, wanted in zip(found.values(), expected, strict=True):
            np.testing.assert_allclose(given, wanted, atol=1e-6)


@pytest.mark.parametrize("smallest", [0.1, 1.0])
def test_a_quotient_in_8_bits_is_right_where_the_divisor_is_small_too(keras, tmp_path: Path, smallest: float) -> None:
    generator = np.random.default_rng(0)
    samples = {"a": generator.normal(size=(60, 8)), "b": generator.uniform(smallest, 2, (60, 8))}
    np.savez(tmp_path / "samples.npz", **{name: values.astype(np.float32) for name, values in samples.items()})
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    calib = tmp_path / "samples.npz"
    result = export(
        keras.Model([a, b], a / b), tmp_path / "b.bundle", formats=["tflite"], precisions=["static-int8"], calib=calib, calib_samples=40
    )
    assert result.verified[0].parity.cosine > 0.999
