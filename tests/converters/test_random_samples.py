"""Noise for a verification without data reaches what data would: padding that is masked, and every row of an embedding."""

from pathlib import Path

import numpy as np
import pytest

from lepton_converters import export
from lepton_converters.calibration import random_samples
from lepton_converters.export_data import id_limits, padding_of
from lepton_converters.keras_source import KerasSource
from lepton_runtime import TensorSpec

IDS, STEPS, ROW = TensorSpec("ids", (1, 9), "int32"), TensorSpec("steps", (1, 9, 2), "float32"), TensorSpec("row", (1, 9), "float32")


def noise(*inputs: TensorSpec, **options) -> list[dict[str, np.ndarray]]:
    return [dict(sample.inputs) for sample in random_samples(inputs, None, count=32, seed=0, raw_pixels=False, **options)]


def test_every_second_sample_ends_with_padding_where_steps_are_masked() -> None:
    samples = noise(IDS, STEPS, ROW, padding=-1.0, limits={"ids": 50})
    is_padding = np.stack([(sample["steps"] == -1).all(axis=-1) for sample in samples])
    assert not is_padding[::2].any()
    assert is_padding[1::2, -1].all()
    assert len({int(row.sum()) for row in is_padding[1::2]}) > 4
    assert set(np.flatnonzero(is_padding[:, 0])) <= {3, 11, 19, 27}
    assert is_padding[:, 0].any()
    for sample, padded in zip(samples, is_padding, strict=True):
        assert not padded.all()
        assert not sample["ids"][padded].any()
        assert sample["ids"][np.flatnonzero(~padded)[0]] > 0
        assert (sample["row"] != -1).all()


def test_nothing_is_padding_where_no_layer_masks_it() -> None:
    assert all((sample["steps"] != 0).all() for sample in noise(STEPS))
    assert {int(number) for sample in noise(IDS) for number in sample["ids"]} == {0, 1}


def test_ids_are_all_that_there_are() -> None:
    assert {int(number) for sample in noise(IDS, limits={"ids": 5}) for number in sample["ids"]} == set(range(5))
    bytes_, reals = TensorSpec("bytes", (1, 90), "uint8"), TensorSpec("reals", (1, 90), "float32")
    samples = noise(bytes_, reals, limits={"bytes": 1000, "reals": 1000})
    assert {value.dtype.name for sample in samples for value in sample.values()} == {"uint8", "float32"}
    assert max(sample["bytes"].max() for sample in samples) > 200
    assert max(sample["reals"].max() for sample in samples) > 900
    assert noise(IDS, padding=0.0, limits={"ids": 1})[1]["ids"].tolist() == [0] * 9


def test_the_model_says_what_it_masks_and_how_many_ids_there_are(keras) -> None:
    layers = keras.layers
    words, topics, other = (keras.Input((4,), dtype="int32", name=name) for name in ("words", "topics", "other"))
    shared = layers.Embedding(30, 3)
    outputs = layers.Concatenate()([shared(words), shared(topics), layers.Embedding(20, 3)(topics), layers.Embedding(7, 3)(other + 1)])
    source = KerasSource.open(keras.Model([words, topics, other], outputs))
    assert id_limits(source) == {"words": 30, "topics": 20}
    assert padding_of(source) is None

    inner = keras.Sequential([layers.Embedding(9, 3, mask_zero=True), layers.LSTM(2)])
    source = KerasSource.open(keras.Model(words, inner(words)))
    assert (id_limits(source), padding_of(source)) == ({}, 0.0)
    assert padding_of(KerasSource.open(keras.Sequential([keras.Input((4, 2)), layers.Masking(-9.0), layers.GRU(2)]))) == -9


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_masked_sequences_are_verified_without_data(keras, tmp_path: Path, dtype: str) -> None:
    layers = keras.layers
    words, steps = keras.Input((6,), dtype=dtype, name="words"), keras.Input((6, 2), name="steps")
    answers = [
        layers.GlobalAveragePooling1D(name="average")(layers.Embedding(40, 3, mask_zero=True)(words)),
        layers.LSTM(3, name="last")(layers.Masking()(steps)),
    ]
    result = export(keras.Model([words, steps], answers), tmp_path / "b", precisions=["fp32"])
    assert [record.verdict for record in result.verified] == ["same as Keras"] * 2
