"""What an export says of its 8-bit artifacts, and makes again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_converters import export
from lepton_converters.recipe import Repeated, read_repeated
from lepton_runtime import Bundle, BundleError, Format, InputError
from lepton_runtime.cpu import Cpu
from lepton_runtime.manifest import Manifest

ONNX = {"formats": ["onnx"], "precisions": ["static-int8"]}


@pytest.fixture(scope="module")
def classifier(keras, tmp_path_factory) -> Path:
    """A network of pictures into two classes: bright ones and dark ones."""
    keras.utils.set_random_seed(5)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, activation="softmax", name="scores"),
        ]
    )
    kernel, _ = model.layers[0].get_weights()
    model.layers[0].set_weights([np.abs(kernel), np.zeros(4)])
    model.layers[2].set_weights([np.float32([[4, -4]] * 4), np.float32([-10, 10])])
    path = tmp_path_factory.mktemp("classifier") / "bright.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "pictures.npy"
    generator = np.random.default_rng(2)
    np.save(path, generator.integers(0, 256, (90, 8, 8, 3)) * np.linspace(0, 1, 90)[generator.permutation(90), None, None, None])
    return path


def manifest_of(model: Path, output: Path, samples: Path | np.ndarray, **options: Any) -> Manifest:
    if isinstance(samples, np.ndarray):
        np.save(output.with_suffix(".npy"), samples)
        samples = output.with_suffix(".npy")
    settings = {**ONNX, "preprocessing": {"scale": "1/255"}, **options}
    return export(model, output, calib=str(samples), **settings).manifest


def test_the_target_is_recorded_and_what_was_made_for_it(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    options = {"formats": None, "precisions": ["static-int8", "fp32"], "target": "arm-dotprod"}
    manifest = manifest_of(classifier, tmp_path / "b", pictures, **options)
    targets = {record.file: record.quantization and record.quantization.target for record in manifest.artifacts}
    assert targets["model.static-int8.onnx"] == "arm-dotprod"
    assert targets["model.static-int8.tflite"] == "any"
    assert targets["model.fp32.onnx"] is targets["model.fp32.tflite"] is None
    assert manifest.settings["target"] == "arm-dotprod"
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_target_that_there_is_not_is_named(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a target is one of any, x86-vnni, .* found 'x86-vni'; did you mean 'x86-vnni'\?"):
        manifest_of(classifier, tmp_path / "b", pictures, target="x86-vni")


def test_an_export_is_repeated_by_its_record(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    options = {"formats": None, "precisions": ["static-int8"]}
    first = manifest_of(classifier, tmp_path / "a", pictures, **options)
    again = manifest_of(classifier, tmp_path / "b", pictures, repeat=tmp_path / "a", **options)
    assert [record.sha256 for record in again.artifacts] == [record.sha256 for record in first.artifacts]
    assert [record.quantization for record in again.artifacts] == [record.quantization for record in first.artifacts]


def test_an_export_is_repeated_for_the_target_of_its_record(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    first = manifest_of(classifier, tmp_path / "a", pictures, target="arm-dotprod")
    again = manifest_of(classifier, tmp_path / "b", pictures, repeat=tmp_path / "a")
    assert [record.sha256 for record in again.artifacts] == [record.sha256 for record in first.artifacts]
    assert again.settings == first.settings
    assert again.notes == first.notes
    with pytest.raises(InputError, match=r"--target must be that of the recipe, arm-dotprod, found any; leave --target or --recipe out"):
        manifest_of(classifier, tmp_path / "c", pictures, repeat=tmp_path / "a", target="any")


def test_blocks_are_measured_where_that_is_asked_for(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    many = np.resize(np.load(pictures), (240, 8, 8, 3))
    plain = manifest_of(classifier, tmp_path / "plain", many)
    manifest = manifest_of(classifier, tmp_path / "measured", many, measure_blocks=True)
    record = manifest.artifacts[0].quantization
    assert plain.artifacts[0].quantization == replace(record, measured=())
    assert len(record.measured) == record.blocks > 0
    assert manifest.artifacts[0].sha256 == plain.artifacts[0].sha256
    assert Manifest.from_json(manifest.to_json()) == manifest
    with pytest.raises(InputError, match=r"--measure-blocks measures .* while they are chosen, found --recipe; leave one of both out"):
        manifest_of(classifier, tmp_path / "b", many, measure_blocks=True, repeat=tmp_path / "plain")
    with pytest.raises(InputError, match=r"--measure-blocks is for static-int8, .* fp16, fp32; add static-int8 to --precision"):
        manifest_of(classifier, tmp_path / "b", many, measure_blocks=True, precisions=["fp16", "fp32"])
    with pytest.raises(InputError, match=r"--measure-blocks is for static-int8, .*; give --calib PATH"):
        export(classifier, tmp_path / "b", measure_blocks=True)


def test_a_network_without_operators_has_nothing_to_quantize(keras: Any, tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int64", name="ids")
    model = keras.Model(ids, keras.layers.IntegerLookup(vocabulary=[3, 5, 7], name="lookup")(ids))
    samples = np.random.default_rng(0).integers(0, 9, (40, 4))
    manifest = manifest_of(model, tmp_path / "b", samples, formats=None, precisions=["static-int8"], preprocessing=None)
    assert {record.file for record in manifest.artifacts} == {"model.static-int8.onnx", "model.static-int8.tflite"}
    assert {record.quantization.blocks for record in manifest.artifacts} == {0}


def test_settings_that_make_other_bytes_than_the_recipe_are_noted(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    first = manifest_of(classifier, tmp_path / "a", pictures)
    again = manifest_of(classifier, tmp_path / "b", pictures, repeat=tmp_path / "a", seed=3, calib_samples=40)
    assert [record.quantization for record in again.artifacts] == [record.quantization for record in first.artifacts]
    assert any(
        "not the same to the byte as those of the recipe, made with calib_samples 72, seed 0: found 40, 3" in note for note in again.notes
    )


def test_records_are_read_by_format_with_the_settings_of_their_export(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    manifest = manifest_of(classifier, tmp_path / "a", pictures)
    assert read_repeated(tmp_path / "a") == Repeated({Format.ONNX: manifest.artifacts[0].quantization}, manifest.settings)


def test_a_bundle_without_8_bits_is_no_recipe(classifier: Path, tmp_path: Path) -> None:
    export(classifier, tmp_path / "a", formats=["onnx"], precisions=["fp32"])
    with pytest.raises(InputError, match=r"--recipe takes a bundle with static-int8 artifacts, .* has none whose making is recorded"):
        read_repeated(tmp_path / "a")
    with pytest.raises(BundleError):
        read_repeated(classifier)


@pytest.fixture(scope="module")
def labelled(pictures: Path) -> Path:
    """The pictures with the classes that they have."""
    values = np.load(pictures)
    np.savez(pictures.with_name("labelled.npz"), x=values, y=(values.mean(axis=(1, 2, 3)) < 60).astype(np.int64))
    return pictures.with_name("labelled.npz")


def test_a_budget_is_searched_for_on_one_half_of_the_labelled_data_and_judged_by_the_other(
    classifier: Path, labelled: Path, tmp_path: Path
) -> None:
    generator = np.random.default_rng(7)
    np.savez(tmp_path / "train.npz", x=generator.integers(0, 256, (400, 8, 8, 3)), y=generator.integers(0, 2, 400))
    options = {"evaluate": labelled, "max_drop": "100pp", "calib_samples": 64}
    manifest = manifest_of(classifier, tmp_path / "a", tmp_path / "train.npz", **options)
    assert manifest.evaluation.samples == 45
    assert manifest.artifacts[0].quantization.steps
    assert any("looked at 45 labelled samples, half of --eval" in note and "at least 200" in note for note in manifest.notes)
    plain = manifest_of(classifier, tmp_path / "b", tmp_path / "train.npz", precisions=["fp32"], **options)
    assert plain.evaluation.samples == 90


def test_labelled_samples_that_were_calibrated_on_are_not_searched_by(classifier: Path, labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a search needs samples that differ from all that were calibrated on, of the 45 others"):
        manifest_of(classifier, tmp_path / "a", labelled, evaluate=labelled, max_drop="100pp", calib_samples=90)


def test_a_budget_needs_a_labelled_sample_to_search_by_and_one_to_judge_by(classifier: Path, labelled: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=np.load(labelled)["x"][:1], y=[0])
    with pytest.raises(InputError, match=r"--max-drop needs at least 2 samples in --eval, .* found 1; give more"):
        manifest_of(classifier, tmp_path / "a", labelled, evaluate=tmp_path / "one.npz", max_drop="1pp")


def test_black_calibration_samples_are_noted(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    values = np.load(pictures)
    labels = (values.mean(axis=(1, 2, 3)) < 60).astype(np.int64)
    np.savez(tmp_path / "test.npz", x=values, y=labels)
    options = {"evaluate": str(tmp_path / "test.npz"), "keep_failed": True}
    notes = manifest_of(classifier, tmp_path / "b", np.zeros((80, 8, 8, 3), np.float32), **options).notes
    assert any("calibration samples are the same" in note and "every value of 'image' is 0" in note for note in notes)


def test_samples_that_are_all_calibrated_on_leave_none_to_verify_on(classifier: Path, tmp_path: Path) -> None:
    samples = tmp_path / "black.npy"
    np.save(samples, np.zeros((80, 8, 8, 3), np.float32))
    with pytest.raises(InputError, match=r"differ from all that were calibrated on, of the \d+ others each is the same as one"):
        export(classifier, tmp_path / "b", formats=["onnx"], precisions=["static-int8"], calib=samples, calib_samples=40)


def test_calibration_samples_of_one_class_are_noted(classifier: Path, tmp_path: Path) -> None:
    samples = np.random.default_rng(3).integers(0, 60, (80, 8, 8, 3)).astype(np.float32)
    notes = manifest_of(classifier, tmp_path / "b", samples).notes
    assert any("the model answers class 1 of 'scores' to" in note for note in notes)


def test_calibration_samples_that_are_normalized_twice_are_noted(classifier: Path, tmp_path: Path) -> None:
    samples = np.random.default_rng(3).uniform(0, 1, (80, 8, 8, 3)).astype(np.float32)
    notes = manifest_of(classifier, tmp_path / "b", samples).notes
    assert any("look normalized already, and are so twice" in note for note in notes)


def test_honest_calibration_samples_are_not_noted(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    assert manifest_of(classifier, tmp_path / "b", pictures).notes == ()
    assert Bundle.open(tmp_path / "b").manifest.notes == ()


def test_a_file_that_this_cpu_may_answer_wrongly_by_is_noted(
    classifier: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lepton_runtime.cpu.read_cpu", lambda: Cpu("x86_64", frozenset({"avx2"})))
    (note,) = manifest_of(classifier, tmp_path / "b", pictures, target="arm-v8").notes
    assert note.startswith("model.static-int8.onnx is for arm-v8, and was chosen and verified on an x86 without VNNI")
    assert manifest_of(classifier, tmp_path / "c", pictures, target="x86-avx2").notes == ()
