"""LiteRT behind the engines' protocol."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lepton_runtime import InputError, TensorSpec
from lepton_runtime.engines import Engine, open_engine

pytest.importorskip("ai_edge_litert", reason="LiteRT has no wheel here")
tf = pytest.importorskip("tensorflow", reason="its converter makes the files")

WEIGHTS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def engine_of(rows: int | None) -> Engine:
    """``relu(x @ WEIGHTS)`` of so many rows, by the operators of LiteRT."""
    spec = tf.TensorSpec((rows, 6), tf.float32, name="x")
    function = tf.function(lambda x: tf.nn.relu(x @ WEIGHTS), input_signature=[spec]).get_concrete_function()
    model = tf.lite.TFLiteConverter.from_concrete_functions([function], function).convert()
    specs = [TensorSpec(name, (rows, length), "float32") for name, length in (("x", 6), ("y", 4))]
    return open_engine("litert", model, inputs=specs[:1], outputs=specs[1:], threads=1)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engine_of(1)


def given(rows: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 6)).astype(np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    return np.maximum(x @ WEIGHTS, 0)


def test_a_bound_call_reads_and_writes_the_callers_arrays(engine: Engine) -> None:
    x, out = given(1), np.full((1, 4), np.nan, np.float32)
    call = engine.bind([x], [out])
    for seed in range(3):
        x[...] = given(1, seed)
        call()
        np.testing.assert_allclose(out, expected(x), atol=1e-6)


@pytest.mark.parametrize("view", [np.asfortranarray, lambda x: x[:, ::-1], lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(1, 6)])
def test_strided_and_read_only_arrays_are_read_right(engine: Engine, view) -> None:
    x, out = view(given(1)), np.empty((1, 4), np.float32)
    engine.bind([x], [out])()
    np.testing.assert_allclose(out, expected(x), atol=1e-6)
    np.testing.assert_allclose(engine.run([x])[0], expected(x), atol=1e-6)


def test_calls_of_other_sizes_take_turns() -> None:
    engine = engine_of(None)
    cases = [(x := given(rows), out := np.empty((rows, 4), np.float32), engine.bind([x], [out])) for rows in (1, 3)]
    for _ in range(2):
        for x, out, call in cases:
            call()
            np.testing.assert_allclose(out, expected(x), atol=1e-6)
        np.testing.assert_allclose(engine.run([given(2)])[0], expected(given(2)), atol=1e-6)


@pytest.mark.parametrize("rows", [1, 5])
def test_out_of_another_batch_is_refused(rows: int) -> None:
    with pytest.raises(InputError, match=r"out must have the shape of the answer, \(3, 4\), found"):
        engine_of(None).bind([given(3)], [np.empty((rows, 4), np.float32)])()


def test_other_shapes_than_the_models_are_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"must have the shapes \[\(1, 6\)\], found \[\(3, 6\)\]"):
        engine.run([given(3)])
    out = np.empty((1, 4), np.float32)
    for x in (given(3), given(1).astype(np.float64)):
        with pytest.raises(InputError, match=r"an array must be float32 \(1, 6\) as the model's, found "):
            engine.bind([x], [out])


def test_an_answer_whose_place_changes_from_call_to_call_is_read_where_it_is() -> None:
    def repeated(x: tf.Tensor) -> tf.Tensor:
        return tf.repeat(x, tf.cast(tf.reduce_sum(x) * 0, tf.int32) + 1, axis=0)

    function = tf.function(repeated, input_signature=[tf.TensorSpec((1, 6), tf.float32, name="x")]).get_concrete_function()
    model = tf.lite.TFLiteConverter.from_concrete_functions([function], function).convert()
    specs = [TensorSpec("x", (1, 6), "float32"), TensorSpec("y", (1, 6), "float32")]
    engine = open_engine("litert", model, inputs=specs[:1], outputs=specs[1:], threads=1)
    assert not engine._has_fixed_buffers
    out = np.empty((1, 6), np.float32)
    for seed in range(3):
        x = given(1, seed)
        engine.bind([x], [out])()
        np.testing.assert_array_equal(out, x)


def test_threads_may_share_an_engine(engine: Engine) -> None:
    def answers(seed: int) -> bool:
        x, out = given(1, seed), np.empty((1, 4), np.float32)
        call = engine.bind([x], [out])
        return all(call() is not None and np.allclose(out, expected(x), atol=1e-6) for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(answers, range(4)))
