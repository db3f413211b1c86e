import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from lepton_converters import calibration_cache
from lepton_converters.calibration_cache import CalibrationCache, calibration_key
from lepton_converters.onnx_float_graph import OnnxFloatGraph
from lepton_converters.quantizer import measure_statistics
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_runtime import Format
from lepton_runtime.versions import installed_versions
from tests.converters.float_graphs import float_network

SAMPLES = np.random.default_rng(2).standard_t(3, size=(40, 5, 5, 4)).astype(np.float32)
TENSORS = ("image", "conv/Relu:0", "file", "Größe")
KEY = "a" * 64


class CutShortError(Exception):
    """What cuts a calibration short in these tests."""


def calibrate(cache: CalibrationCache, key: str = KEY, *, batch: int = 4, stop: int | None = None) -> dict[str, TensorStatistics]:
    """What a calibration does: go on from what is kept, and keep it batch by batch."""
    kept = cache.load(key)
    statistics, done = kept or ({name: TensorStatistics(name, channel_axis=-1) for name in TENSORS}, 0)
    for start in range(done, len(SAMPLES), batch):
        if start == stop:
            raise CutShortError
        for number, one in enumerate(statistics.values()):
            one.add(SAMPLES[start : start + batch] * 3**number, first_sample=start)
        cache.save_now_and_then(key, statistics, start + batch)
    cache.save(key, statistics, len(SAMPLES))
    return statistics


def bits(statistics: dict[str, TensorStatistics]) -> dict[str, bytes]:
    return {f"{name} {key}": array.tobytes() for name, one in statistics.items() for key, array in one.to_arrays().items()}


@pytest.fixture
def cache(tmp_path: Path) -> CalibrationCache:
    return CalibrationCache(tmp_path / "kept", save_every_s=0)


def test_what_is_kept_comes_back_bit_by_bit(cache: CalibrationCache) -> None:
    statistics = calibrate(cache)
    kept = CalibrationCache(cache.folder).load(KEY)
    assert kept is not None
    assert bits(kept[0]) == bits(statistics)
    assert kept[1] == len(SAMPLES)
    assert cache.notes == []


@pytest.mark.parametrize("stop", [4, 20, 36])
def test_an_interrupted_calibration_ends_with_the_bits_of_an_uninterrupted_one(cache: CalibrationCache, tmp_path: Path, stop: int) -> None:
    with pytest.raises(CutShortError):
        calibrate(cache, stop=stop)
    kept = cache.load(KEY)
    assert kept is not None
    assert kept[1] == stop
    assert bits(calibrate(cache)) == bits(calibrate(CalibrationCache(tmp_path / "other")))


def test_an_unfinished_calibration_is_not_kept_at_every_batch(tmp_path: Path) -> None:
    cache = CalibrationCache(tmp_path, save_every_s=3600)
    with pytest.raises(CutShortError):
        calibrate(cache, stop=20)
    assert cache.load(KEY) is None


def test_another_key_finds_nothing(cache: CalibrationCache) -> None:
    calibrate(cache)
    assert cache.load("b" * 64) is None
    assert cache.notes == []


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:500] + b"?" + data[501:], lambda data: b""])
def test_a_damaged_file_is_removed_with_a_note(cache: CalibrationCache, damage) -> None:
    calibrate(cache)
    (path,) = cache.folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load(KEY) is None
    assert not path.exists()
    (note,) = cache.notes
    assert note.startswith("a file of the calibration cache was damaged and is removed: ")
    assert calibrate(cache).keys() == set(TENSORS)


def test_a_folder_that_cannot_be_written_is_a_note_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = CalibrationCache(tmp_path / "file" / "kept", save_every_s=0)
    assert calibrate(cache).keys() == set(TENSORS)
    assert cache.notes
    assert all(note.startswith("the calibration cache ") for note in cache.notes)
    assert any(note.endswith("must be writable: Not a directory; nothing is kept for the next time") for note in cache.notes)


def test_the_least_recently_used_goes_beyond_the_limit(cache: CalibrationCache) -> None:
    calibrate(cache, "first")
    size = next(cache.folder.iterdir()).stat().st_size
    small = CalibrationCache(cache.folder, limit_bytes=int(2.5 * size), save_every_s=3600)
    calibrate(small, "second")
    for age, key in enumerate(["first", "second"]):
        os.utime(cache.folder / f"{key}.statistics", (1000 + age, 1000 + age))
    assert small.load("first") is not None
    calibrate(small, "third")
    assert {path.stem for path in cache.folder.iterdir()} == {"first", "third"}


def test_what_was_just_kept_stays_whatever_the_limit(tmp_path: Path) -> None:
    cache = CalibrationCache(tmp_path, limit_bytes=1)
    calibrate(cache)
    assert cache.load(KEY) is not None


def test_nothing_is_left_but_the_file_itself(cache: CalibrationCache) -> None:
    calibrate(cache)
    assert [path.name for path in cache.folder.iterdir()] == [f"{KEY}.statistics"]


def test_the_folder_is_where_the_system_keeps_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert CalibrationCache().folder == tmp_path / "lepton-edge" / "calibration"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CalibrationCache().folder == tmp_path / ".cache" / "lepton-edge" / "calibration"


def key_of(
    model: bytes = b"one",
    *,
    samples: Iterable[bytes] = (b"a",),
    tensors: Mapping[str, int | None] = MappingProxyType({"x": 1, "y": None}),
    settings: Mapping[str, int] = MappingProxyType({"batch": 1}),
) -> str:
    return calibration_key(model, samples=samples, tensors=tensors, settings=settings)


def test_the_key_depends_on_the_model_the_samples_their_order_the_tensors_and_the_settings() -> None:
    keys = {
        key_of(model, samples=samples, tensors=tensors, settings=settings)
        for model in (b"one", b"two")
        for samples in ([b"a", b"b"], [b"b", b"a"], [b"ab"], [b"a"])
        for tensors in ({"x": 1}, {"x": 3}, {"x": None}, {"y": 1}, {"x": 1, "y": 1})
        for settings in ({"batch": 1}, {"batch": 2}, {"batch": 1, "seed": 1})
    }
    assert len(keys) == 120


def test_the_key_does_not_depend_on_the_order_of_tensors_and_settings() -> None:
    assert key_of(tensors={"x": 1, "y": None}) == key_of(tensors={"y": None, "x": 1})
    assert key_of(settings={"x": 1, "y": 2}) == key_of(settings={"y": 2, "x": 1})


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorflow", "ai-edge-litert", "numpy"])
def test_the_key_depends_on_the_engines(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    before = key_of()
    monkeypatch.setattr(calibration_cache, "installed_versions", lambda names: {**installed_versions(names), engine: "0"})
    assert key_of() != before


def test_statistics_of_other_tensors_are_not_taken(keras, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = keras.Input((4,), name="row")
    network = float_network(keras.Model(row, keras.layers.Dense(3, name="scores")(row)), Format.ONNX, count=4)
    cache = CalibrationCache(tmp_path, save_every_s=0)
    whole = measure_statistics(network.graph, network.calibration, cache)
    monkeypatch.setattr(OnnxFloatGraph, "tensors", network.graph.tensors[:1])
    assert list(measure_statistics(network.graph, network.calibration, cache)) == list(whole)[:1]
