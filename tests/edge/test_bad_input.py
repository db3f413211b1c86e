"""Each thing that can be wrong: one line, the right exit code, nothing left behind."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lepton_edge.digits import shipped_bundle

FILES = sorted(path.name for path in shipped_bundle().iterdir())


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def left_behind(work: Path) -> list[str]:
    return sorted(path.name for path in work.rglob("*"))


# --- the model


def test_a_missing_file(lepton_edge, work: Path) -> None:
    lepton_edge("export", "nothing.keras").refused(1, because=r"'nothing\.keras' cannot be read: No such file")
    assert left_behind(work) == []


def test_a_file_that_is_not_a_model(lepton_edge) -> None:
    Path("notes.keras").write_text("dear diary")
    lepton_edge("export", "notes.keras").refused(1, because=r"must be a \.keras or \.h5 file, its content is neither")
    assert not Path("notes.bundle").exists()


def test_a_zip_that_is_not_a_model(lepton_edge) -> None:
    with zipfile.ZipFile("photos.keras", "w") as archive:
        archive.writestr("photo.jpg", b"")
    lepton_edge("export", "photos.keras").refused(1, because="another zip file")


def test_a_truncated_keras_file(lepton_edge, small_model: Path) -> None:
    Path("cut.keras").write_bytes(small_model.read_bytes()[:-200])
    lepton_edge("export", "cut.keras").refused(1, because="damaged or cut short .* copy it again")
    assert not Path("cut.bundle").exists()


def test_a_truncated_h5_file(lepton_edge, small_model: Path) -> None:
    from lepton_converters.keras_loading import import_keras

    import_keras().saving.load_model(small_model).save("whole.h5")
    Path("cut.h5").write_bytes(Path("whole.h5").read_bytes()[:-2000])
    lepton_edge("export", "cut.h5").refused(1, because="damaged or cut short")


def test_weights_without_a_model(lepton_edge, small_model: Path) -> None:
    from lepton_converters.keras_loading import import_keras

    import_keras().saving.load_model(small_model).save_weights("only.weights.h5")
    lepton_edge("export", "only.weights.h5").refused(1, because="holds weights only; save it with model.save")


def test_a_folder_instead_of_a_file(lepton_edge) -> None:
    Path("models").mkdir()
    lepton_edge("export", "models").refused(
        1, because=r"a model is a \.keras or \.h5 file, or a SavedModel folder .* found the folder 'models'"
    )


@pytest.mark.workstation
def test_a_saved_model_that_is_not_trusted(lepton_edge) -> None:
    Path("model").mkdir()
    Path("model/saved_model.pb").write_bytes(b"")
    lepton_edge("export", "model").refused(6, because="is a program, which would run on this machine; .* add --trust-code")
    lepton_edge("export", "model", "--trust-code").refused(1, because="TensorFlow must be able to load the SavedModel 'model'")


def test_custom_objects_that_are_not_there(lepton_edge, small_model: Path) -> None:
    lepton_edge("export", small_model, "--custom-objects", "layers").refused(1, because="--custom-objects takes module:name")


def test_a_bundle_instead_of_a_model(lepton_edge, digits_bundle: Path) -> None:
    lepton_edge("export", digits_bundle).refused(1, because=r"digits\.bundle' is a bundle already; give the model")


def test_the_model_is_looked_at_before_the_output(lepton_edge) -> None:
    Path("notes.keras").write_text("dear diary")
    Path("notes.bundle").mkdir()
    lepton_edge("export", "notes.keras").refused(1, because=r"must be a \.keras or \.h5 file, its content is neither")


@pytest.mark.workstation
def test_a_lambda_layer_needs_trust(lepton_edge) -> None:
    from lepton_converters.keras_loading import import_keras

    keras = import_keras()
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2, output_shape=(4,), name="twice"), keras.layers.Dense(2)]
    )
    model.save("lambda.keras")
    lepton_edge("export", "lambda.keras").refused(6, because=r"Lambda 'twice' holds code.* add --trust-code")
    assert not Path("lambda.bundle").exists()
    assert lepton_edge("export", "lambda.keras", "--trust-code", "--precision", "fp32").code == 0


def test_weights_that_are_not_numbers(lepton_edge, small_model: Path) -> None:
    from lepton_converters.keras_loading import import_keras

    model = import_keras().saving.load_model(small_model)
    kernel, bias = model.layers[0].get_weights()
    kernel[0, 0, 0, 0] = np.nan
    model.layers[0].set_weights([kernel, bias])
    model.save("nan.keras")
    lepton_edge("export", "nan.keras").refused(1, because=r"every weight must be finite, .*kernel' holds 1 NaN .* of 108")


# --- the data


def test_an_empty_calibration_folder(lepton_edge, small_model: Path) -> None:
    Path("empty").mkdir()
    lepton_edge("export", small_model, "-o", "b", "--calib", "empty").refused(1, because=r"a folder of images .* 'empty' holds none")
    assert not Path("b").exists()


def test_missing_calibration_data(lepton_edge, small_model: Path) -> None:
    for path in ("nowhere", "nowhere.npz"):
        for option in ("--calib", "--eval"):
            outcome = lepton_edge("export", small_model, "-o", "b", option, path)
            outcome.refused(1, because=rf"error: {option} .*'{path}' does not exist")


def test_images_of_another_size_without_a_resize(lepton_edge, small_model: Path, images: Path) -> None:
    from PIL import Image

    shutil.copytree(images, "mixed")
    Image.new("RGB", (9, 8)).save("mixed/left/0.png")
    lepton_edge("export", small_model, "-o", "b", "--calib", "mixed").refused(1, because=r"must be 8×8 .* found 8×9; export with --resize")
    assert not Path("b").exists()


def test_images_of_another_channel_count(lepton_edge, small_model: Path, images: Path) -> None:
    from PIL import Image

    shutil.copytree(images, "mixed")
    Image.new("L", (8, 8)).save("mixed/left/0.png")
    lepton_edge("export", small_model, "-o", "b", "--calib", "mixed").refused(
        1, because=r"must have 3 channels, found mode 'L'; .* --color rgb"
    )
    assert lepton_edge("export", small_model, "-o", "b", "--calib", "mixed", "--color", "rgb").code == 0


def test_class_folders_that_do_not_match_the_outputs(lepton_edge, small_model: Path, images: Path) -> None:
    shutil.copytree(images, "four")
    shutil.copytree(images / "left", "four/top")
    because = r"one class an output, 'four' holds 4 class folders \(left, middle, right, top\) and the model has output scores 1×3"
    lepton_edge("export", small_model, "-o", "b", "--eval", "four").refused(
        1, because=f"{because} float32; keep the 3 that the model knows"
    )
    lepton_edge("export", small_model, "-o", "b", "--calib", "four").refused(1, because=f"{because} .* or calibrate on a folder without")
    shutil.rmtree("four/top")
    shutil.rmtree("four/left")
    because = r"'four' holds 2 class folders .*; name all 3 with --labels, those without a folder too$"
    lepton_edge("export", small_model, "-o", "b", "--eval", "four").refused(1, because=because)


def test_another_number_of_labels_than_outputs(lepton_edge, small_model: Path) -> None:
    Path("two.txt").write_text("left\nright\n")
    outcome = lepton_edge("export", small_model, "-o", "b", "--labels", "two.txt")
    outcome.refused(1, because=r"2 labels are given \(left, right\) .* scores 1×3 float32; give 3 names with --labels$")


def test_class_folders_that_do_not_match_the_labels(lepton_edge, small_model: Path, images: Path) -> None:
    Path("names.txt").write_text("left\nright\nup\n")
    outcome = lepton_edge("export", small_model, "-o", "b", "--eval", images, "--labels", "names.txt")
    outcome.refused(1, because=r"must be named after the labels, found 'middle'")


def test_labels_beyond_the_outputs(lepton_edge, small_model: Path) -> None:
    np.savez("eval.npz", x=np.zeros((4, 8, 8, 3), np.uint8), y=[0, 1, 2, 3])
    lepton_edge("export", small_model, "-o", "b", "--eval", "eval.npz").refused(1, because="class numbers below 3, .* found 3")


@pytest.mark.parametrize(
    ("arrays", "because"),
    [
        ({"z": np.zeros(3)}, r"must hold 'x' .* found 'z'"),
        ({"x": np.zeros((0, 8, 8, 3))}, "at least one sample, it is empty"),
        ({"x": np.zeros((5, 7, 7, 3))}, r"8×8×3"),
        ({"x": np.full((5, 8, 8, 3), np.nan)}, "must be finite"),
        ({"x": np.zeros((5, 8, 8, 3)), "y": np.zeros(4, int)}, "same number of rows"),
        ({"x": np.array(["a", "b"])}, "must hold numbers, found <U1"),
        ({"x": np.full((5, 8, 8, 3), "a")}, "must hold numbers, found <U1"),
    ],
)
def test_arrays_that_do_not_fit(lepton_edge, small_model: Path, arrays, because: str) -> None:
    np.savez("data.npz", **arrays)
    lepton_edge("export", small_model, "-o", "b", "--calib", "data.npz").refused(1, because=because)
    assert not Path("b").exists()


# --- the options


def test_an_unknown_precision_is_guessed(lepton_edge, small_model: Path) -> None:
    lepton_edge("export", small_model, "--precision", "static-int").refused(1, because="found 'static-int'; did you mean 'static-int8'")


def test_an_unknown_format_is_guessed(lepton_edge, small_model: Path) -> None:
    lepton_edge("export", small_model, "--format", "onxx").refused(1, because="one of onnx, tflite, found 'onxx'; did you mean 'onnx'")


@pytest.mark.parametrize(("key", "value"), [("dtype", '"float16"'), ("size", "[4, 4]"), ("channels", "1")])
def test_what_the_model_decides_cannot_be_set(lepton_edge, small_model: Path, key: str, value: str) -> None:
    Path("steps.toml").write_text(f"{key} = {value}\n")
    lepton_edge("export", small_model, "-o", "b", "--preprocess", "steps.toml").refused(1, because=f"'{key}' come from the model")


@pytest.mark.parametrize(
    ("options", "because"),
    [
        (("--mean", "1,2"), r"'mean' has one value or one a channel \(3\), found 2"),
        (("--color", "gray"), "'color' 'gray' gives 1 channels, the model takes 3"),
        (("--std", "0"), "no 'std' is 0"),
    ],
)
def test_preprocessing_that_does_not_fit_the_model(lepton_edge, small_model: Path, options, because: str) -> None:
    lepton_edge("export", small_model, "-o", "b", *options).refused(1, because=because)


@pytest.mark.workstation
def test_whole_numbers_are_not_scaled_in_silence(lepton_edge) -> None:
    from lepton_converters.keras_loading import import_keras

    keras = import_keras()
    inputs = keras.Input((4, 4, 1), dtype="uint8", name="pixels")
    keras.Model(inputs, keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))).save("pixels.keras")
    lepton_edge("export", "pixels.keras", "--scale", "1/255").refused(1, because="need an input of real numbers, the model takes uint8")


@pytest.mark.workstation
def test_rows_of_another_length_than_the_means(lepton_edge) -> None:
    from lepton_converters.keras_loading import import_keras

    keras = import_keras()
    keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]).save("table.keras")
    for width in (1, 7):
        np.save("rows.npy", np.zeros((12, width)))
        outcome = lepton_edge("export", "table.keras", "--calib", "rows.npy", "--mean", "1,2,3,4,5,6,7,8")
        outcome.refused(1, because="last axis must be as long as 'mean' and 'std' \\(8\\), found shape")


@pytest.mark.parametrize(
    ("code", "because"),
    [
        ("def rows(:", "SyntaxError"),
        ("def rows(needed): yield needed", "TypeError"),
        ("rows = 3", "TypeError"),
        ("def rows(): yield 1 / 0", "ZeroDivisionError"),
        ("def rows(): return iter(())", "yielded none"),
    ],
)
def test_a_calibration_function_that_fails(lepton_edge, small_model: Path, code: str, because: str, request) -> None:
    name = f"samples_{abs(hash(request.node.name))}"
    Path(f"{name}.py").write_text(code + "\n")
    lepton_edge("export", small_model, "-o", "b", "--calib", f"{name}:rows").refused(1, because=because)


def test_images_beside_class_folders(lepton_edge, small_model: Path, images: Path) -> None:
    shutil.copytree(images, "mixed")
    shutil.copy("mixed/left/0.png", "mixed/stray.png")
    lepton_edge("export", small_model, "-o", "b", "--calib", "mixed").refused(1, because="holds both, 'stray.png' beside folders")


@pytest.mark.workstation
def test_labels_for_a_model_without_classes(lepton_edge) -> None:
    from lepton_converters.keras_loading import import_keras

    keras = import_keras()
    keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)]).save("map.keras")
    np.savez("eval.npz", x=np.zeros((5, 4, 4, 1)), y=[0, 1, 0, 1, 0])
    outcome = lepton_edge("export", "map.keras", "--eval", "eval.npz", "--precision", "fp32")
    outcome.refused(1, because=r"accuracy needs an output of \(batch, classes\)")
    np.savez("eval.npz", x=np.zeros((5, 4, 4, 1)), y=[0, -1, 0, 1, 0])
    lepton_edge("export", "map.keras", "--eval", "eval.npz").refused(1, because="class numbers from 0")


def test_a_precision_that_needs_data(lepton_edge, small_model: Path) -> None:
    lepton_edge("export", small_model, "-o", "b", "--precision", "int16x8").refused(1, because="needs sample inputs .* give --calib PATH")


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (("--precision", "fp32", "--calib", "photos"), "add static-int8 to --precision"),
        (("--precision", "fp32"), "add static-int8 to --precision and give --calib PATH"),
        ((), "give --calib PATH"),
    ],
)
def test_integers_at_the_doors_of_nothing(lepton_edge, small_model: Path, options, advice: str) -> None:
    Path("photos").mkdir()
    lepton_edge("export", small_model, "-o", "b", "--io", "uint8", *options).refused(1, because=f"fp32.*; {re.escape(advice)}$")


def test_a_negative_seed_is_wrong_usage(lepton_edge, small_model: Path) -> None:
    outcome = lepton_edge("export", small_model, "--seed", "-5")
    assert outcome.code == 2
    assert "-5 is not in the range x>=0" in outcome.err


def test_a_typo_in_a_preprocessing_file(lepton_edge, small_model: Path) -> None:
    Path("steps.toml").write_text('scal = "1/255"\n')
    outcome = lepton_edge("export", small_model, "-o", "b", "--preprocess", "steps.toml")
    outcome.refused(1, because=r"'steps\.toml' takes .* found 'scal'; did you mean 'scale'")


def test_a_precision_that_the_format_lacks(lepton_edge, small_model: Path, images: Path) -> None:
    arguments = ("export", small_model, "-o", "b", "--precision", "int16x8", "--format", "onnx", "--calib", images)
    lepton_edge(*arguments).refused(1, because="can be made as tflite, found --format onnx")


def test_a_budget_without_data(lepton_edge, small_model: Path) -> None:
    lepton_edge("export", small_model, "-o", "b", "--max-drop", "1pp").refused(1, because="give --eval PATH")


def test_a_budget_without_a_unit(lepton_edge, small_model: Path, images: Path) -> None:
    lepton_edge("export", small_model, "-o", "b", "--eval", images, "--max-drop", "1").refused(
        1, because="0.5pp, or relative such as 1%, found '1'"
    )


def test_a_broken_budget_is_exit_3(lepton_edge, small_model: Path) -> None:
    from lepton_converters.keras_loading import import_keras

    # Labels are the Keras model's own answers, and ranges measured on black images fit nothing else.
    colors = np.random.default_rng(0).integers(0, 256, (60, 1, 1, 3))
    images = np.broadcast_to(colors, (60, 8, 8, 3)).astype(np.float32)
    answers = np.asarray(import_keras().saving.load_model(small_model)(images)).argmax(axis=1)
    assert len(set(answers)) > 1
    np.savez("eval.npz", x=images, y=answers)
    np.save("black.npy", np.zeros((4, 8, 8, 3), np.float32))
    arguments = ("--calib", "black.npy", "--eval", "eval.npz", "--max-drop", "0%")
    named = lepton_edge("export", small_model, "-o", "named", "--precision", "static-int8", *arguments)
    named.refused(3, because=r"none did: model\.static-int8\.onnx REFUSED: .* nothing was written")
    assert not Path("named").exists()
    mixed = lepton_edge("export", small_model, "-o", "mixed", "--precision", "fp32,static-int8", *arguments)
    assert mixed.code == 3
    assert mixed.err.splitlines()[-1].startswith("error: every precision asked for must keep to the budget, static-int8 did not")
    assert {path.name for path in Path("mixed").glob("model.*")} == {"model.fp32.onnx", "model.fp32.tflite"}
    failing = ("--format", "tflite", "--precision", "static-int8", "--keep-failed")
    kept = lepton_edge("export", small_model, "-o", "kept", *failing, *arguments)
    assert kept.code == 3
    assert [path.name for path in Path("kept").glob("model.*")] == ["model.static-int8.tflite"]
    unnamed = lepton_edge("export", small_model, "-o", "unnamed", *arguments)
    assert unnamed.code == 0
    assert "left out: static-int8 onnx: REFUSED" in unnamed.err


# --- the output


def test_an_existing_output(lepton_edge, small_model: Path) -> None:
    Path("b").mkdir()
    Path("b/precious.txt").write_text("mine")
    lepton_edge("export", small_model, "-o", "b").refused(1, because="'b' exists; add --force")
    lepton_edge("export", small_model, "-o", "b", "--force").refused(1, because="--force replaces whole bundles and nothing else")
    assert Path("b/precious.txt").read_text() == "mine"


def test_force_replaces_a_bundle(lepton_edge, small_model: Path, work: Path) -> None:
    for precision in ("fp32", "fp16"):
        assert lepton_edge("export", small_model, "-o", "b", "--precision", precision, "--force").code == 0
    assert {path.name for path in Path("b").glob("model.*")} == {"model.fp16.onnx", "model.fp16.tflite"}
    assert left_behind(work) == sorted(["b", *(path.name for path in Path("b").iterdir())])


def test_force_replaces_nothing_but_bundles(lepton_edge, small_model: Path) -> None:
    shutil.copy(small_model, "mine.keras")
    lepton_edge("export", "mine.keras", "-o", "mine.keras", "--force").refused(1, because="--force replaces whole bundles and nothing else")
    assert Path("mine.keras").read_bytes() == small_model.read_bytes()
    shutil.copytree(shipped_bundle(), "bundle")
    Path("bundle/notes.txt").write_text("mine")
    lepton_edge("export", small_model, "-o", "bundle", "--force").refused(1, because="is or holds something else")
    Path("bundle/notes.txt").unlink()
    Path("link").symlink_to("bundle")
    lepton_edge("export", small_model, "-o", "link", "--force").refused(1, because="is or holds something else")
    assert Path("bundle/manifest.json").read_bytes() == (shipped_bundle() / "manifest.json").read_bytes()
    Path("demo").mkdir()
    Path("demo/thesis.tex").write_text("mine")
    lepton_edge("demo", "-o", "demo", "--force").refused(1, because="--force replaces what a demo made")


def test_an_unwritable_output(lepton_edge, small_model: Path) -> None:
    # /proc takes no folders, not even from root, whom permissions do not stop
    outcome = lepton_edge("export", small_model, "-o", "/proc/b", "--precision", "fp32")
    assert outcome.code == 1
    assert re.search(r"error: the output.* must be writable", outcome.err.splitlines()[-1])


def test_a_full_disk_leaves_nothing(small_model: Path, work: Path) -> None:
    # A limit on file sizes fails a write half-way, as a full disk does, and needs no disk of its own.
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    script = (
        "import sys; from pathlib import Path; from lepton_converters.bundle_writer import write_bundle\n"
        "from lepton_runtime import Bundle, LeptonError\n"
        f"bundle = Bundle.open({str(shipped_bundle())!r})\n"
        "files = {record.file: bundle.read(record) for record in bundle.manifest.files}\n"
        "try: write_bundle(Path(sys.argv[1]), bundle.manifest, files, force=False)\n"
        "except LeptonError as error: sys.exit(str(error))\n"
    )
    for output in ("b", "b.zip"):
        done = subprocess.run([sys.executable, "-c", script, output], capture_output=True, text=True, preexec_fn=limit, check=False)
        assert done.returncode == 1
        assert done.stderr == f"the output '{output}' must be writable: File too large; nothing was left behind\n"
        assert left_behind(work) == []


def test_a_full_disk_in_the_middle_of_an_export(small_model: Path, work: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    command = [sys.executable, "-m", "lepton_edge", "export", str(small_model), "-o", "b", "--format", "onnx"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: the temporary folder .* must have room for 1 MB: File too large; free some.*", done.stderr.splitlines()[-1]
    )
    assert "Traceback" not in done.stderr
    assert left_behind(work) == []


def test_convert_is_missing(small_model: Path) -> None:
    # A finder that hides what a device does not have.
    script = (
        "import sys, importlib.abc\n"
        "class Hide(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.partition('.')[0] in ('tensorflow', 'keras', 'tf2onnx', 'onnx', 'h5py'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "from lepton_edge.cli import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, "export", str(small_model)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert 'pip install "lepton-edge[convert]", then copy the bundle to the device' in done.stderr


# --- stopped half-way


def start_export(model: Path, images: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "lepton_edge", "export", str(model), "-o", "b", "--calib", str(images)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "convert" in line:
            return process
    raise AssertionError("the export never converted anything")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_middle_of_an_export(small_model: Path, images: Path, work: Path, number: signal.Signals) -> None:
    with start_export(small_model, images) as process:
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "interrupted: nothing was left half-written"
    assert "Traceback" not in rest
    assert left_behind(work) == []


def test_two_exports_do_not_write_one_output(lepton_edge, small_model: Path, images: Path, work: Path) -> None:
    with start_export(small_model, images) as process:
        message = r"the output 'b' must be free, another process is writing it; wait for it, or choose another with --output"
        lepton_edge("export", small_model, "-o", "b", "--precision", "fp32").refused(1, because=message)
        process.send_signal(signal.SIGKILL)
    assert lepton_edge("export", small_model, "-o", "b", "--precision", "fp32").code == 0
    assert not [path.name for path in work.iterdir() if path.name.startswith(".")]


def test_sigkill_in_the_middle_of_an_export(small_model: Path, images: Path, work: Path) -> None:
    with start_export(small_model, images) as process:
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert left_behind(work) == []


@pytest.mark.parametrize("existing", [False, True])
def test_sigkill_while_the_bundle_is_written(lepton_edge, small_model: Path, work: Path, existing: bool) -> None:
    if existing:
        assert lepton_edge("export", small_model, "-o", "b", "--precision", "fp32").code == 0
    before = {path.name: path.read_bytes() for path in Path("b").iterdir()} if existing else {}
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from lepton_converters import bundle_writer\n"
        "from lepton_runtime import Bundle\n"
        "write = bundle_writer.write_durably\n"
        "def write_and_die(path, content):\n"
        "    write(path, content[:100])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "bundle_writer.write_durably = write_and_die\n"
        f"bundle = Bundle.open({str(shipped_bundle())!r})\n"
        "files = {record.file: bundle.read(record) for record in bundle.manifest.files}\n"
        "bundle_writer.write_bundle(Path('b'), bundle.manifest, files, force=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert {path.name.partition(".tmp-")[0] for path in work.glob(".*")} == {".b"}
    assert ({path.name: path.read_bytes() for path in Path("b").iterdir()} if existing else {}) == before
    assert Path("b").exists() == existing
    # and the next export takes the remains away
    assert lepton_edge("export", small_model, "-o", "b", "--precision", "fp32", "--force").code == 0
    assert list(work.glob(".*")) == []


# --- run and the bundle


@pytest.mark.parametrize(
    ("array", "because"),
    [
        (np.zeros((1, 28, 28, 1), np.float64), r"must be float32, found float64; convert it on purpose"),
        (np.zeros((1, 28, 27, 1), np.float32), r"must have shape \(1, 28, 28, 1\), found \(1, 28, 27, 1\)"),
        (np.zeros((28, 28), np.float32), r"found \(28, 28\)"),
        (np.full((1, 28, 28, 1), np.inf, np.float32), r"must be finite, found 784 of 784"),
    ],
)
def test_run_with_an_array_that_does_not_fit(lepton_edge, array, because: str) -> None:
    np.save("array.npy", array)
    lepton_edge("run", shipped_bundle(), "array.npy").refused(1, because=because)


def test_run_with_real_numbers_on_an_integer_artifact(lepton_edge) -> None:
    np.save("array.npy", np.zeros((1, 28, 28, 1), np.float32))
    outcome = lepton_edge("run", shipped_bundle(), "array.npy", "--precision", "static-int8")
    outcome.refused(1, because=r"must be uint8, found float32; .*\(scale 1\.0, zero point 0\): quantize")


def test_run_with_a_file_that_no_model_takes(lepton_edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)  # as on a device without the extra
    Path("names.txt").write_text("left")
    lepton_edge("run", shipped_bundle(), "names.txt").refused(
        1, because=r"INPUT must be an image \(\.bmp, .*\.npz file, found 'names\.txt'"
    )
    lepton_edge("run", shipped_bundle(), "photo.JPG").refused(1, because="needs Pillow")
    lepton_edge("run", shipped_bundle(), "photo").refused(1, because="needs Pillow")


def test_run_with_an_array_of_objects(lepton_edge) -> None:
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    lepton_edge("run", shipped_bundle(), "objects.npy").refused(1, because="NumPy file of plain numbers")


def test_run_without_an_input(lepton_edge) -> None:
    lepton_edge("run", shipped_bundle(), "nothing.npy").refused(1, because="'nothing.npy' cannot be read")
    lepton_edge("run", shipped_bundle(), "nothing.png").refused(1, because="'nothing.png' does not exist")


def test_a_model_in_the_place_of_a_bundle(lepton_edge, small_model: Path) -> None:
    lepton_edge("inspect", small_model).refused(1, because="must be a bundle, it is a Keras model; export it first")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("command", ["inspect", "run", "benchmark"])
def test_a_bundle_with_one_byte_flipped(lepton_edge, digits_bundle: Path, file: str, command: str) -> None:
    data = bytearray((digits_bundle / file).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (digits_bundle / file).write_bytes(data)
    np.save("digit.npy", np.zeros((1, 28, 28, 1), np.float32))
    arguments = ("digit.npy",) if command == "run" else ()
    because = rf"{'manifest.json' if file == 'manifest.sha256' else re.escape(file)}.* checksum.* copy the bundle again"
    lepton_edge(command, digits_bundle, *arguments).refused(1, because=because)


def test_doctor_says_how_to_mend_only_what_can_be_mended(lepton_edge, digits_bundle: Path, rewrite_manifest) -> None:
    def fix(path: object) -> str:
        (check,) = (check for check in json.loads(lepton_edge("doctor", path, "--json", "-").out)["checks"] if check["state"] == "FAIL")
        return str(check["fix"])

    assert fix("nowhere") == ""
    rewrite_manifest(digits_bundle, lambda values: values.update(schema_version=99))
    assert fix(digits_bundle) == "update with: pip install --upgrade lepton-edge"


def test_doctor_names_a_damaged_bundle(lepton_edge, digits_bundle: Path) -> None:
    (digits_bundle / "golden.npz").write_bytes(b"")
    outcome = lepton_edge("doctor", digits_bundle)
    assert outcome.code == 1
    assert "FAIL" in outcome.out
    assert "fix: it is damaged or was changed: copy the bundle again" in outcome.out
    assert outcome.err.startswith("error: every check must pass, 1 did not")


def test_a_bundle_of_a_newer_schema(lepton_edge, digits_bundle: Path, rewrite_manifest) -> None:
    rewrite_manifest(digits_bundle, lambda values: values.update(schema_version=99))
    lepton_edge("inspect", digits_bundle).refused(1, because="reads bundles of schema 1, found schema 99; update")


def test_a_bundle_path_that_escapes_its_folder(lepton_edge, digits_bundle: Path, rewrite_manifest) -> None:
    Path(digits_bundle.parent / "secret.onnx").write_bytes(b"secret")
    rewrite_manifest(digits_bundle, lambda values: values["artifacts"][0].update(file="../secret.onnx"))
    lepton_edge("inspect", digits_bundle).refused(1, because=r"plain names inside its folder, found '\.\./secret\.onnx'")


def test_an_option_with_a_typo_is_wrong_usage(lepton_edge) -> None:
    outcome = lepton_edge("export", "model.keras", "--calibratoin", "data")
    assert outcome.code == 2
    assert "Did you mean" in outcome.err


def test_a_json_file_that_cannot_be_written(lepton_edge) -> None:
    lepton_edge("inspect", shipped_bundle(), "--json", "/proc/no/report.json").refused(1, because="--json needs a file that can be written")


@pytest.mark.parametrize("arguments", [("export", "no.keras"), ("run", "no.bundle", "no.npy"), ("benchmark", "no.bundle"), ("doctor",)])
def test_a_json_file_is_checked_before_any_work(lepton_edge, arguments) -> None:
    because = r"--json needs a file that can be written, 'no/report\.json' cannot: its folder is missing"
    lepton_edge(*arguments, "--json", "no/report.json").refused(1, because=because)


def test_json_on_stdout_is_one_document(lepton_edge) -> None:
    outcome = lepton_edge("inspect", shipped_bundle(), "--json", "-")
    assert json.loads(outcome.out)["schema_version"] == 1
    assert os.environ.get("LEPTON_EDGE_DEBUG") is None


# --- options of sources


def test_a_size_that_is_no_size(lepton_edge, small_model: Path) -> None:
    assert "lengths such as 224x160" in lepton_edge("export", small_model, "--size", "large").err
    lepton_edge("export", small_model, "--size", "8x8").refused(1, because="--size fixes free axes, the model's inputs have none")


def test_a_flag_that_finds_no_dropout(lepton_edge, small_model: Path) -> None:
    lepton_edge("export", small_model, "--keep-dropout").refused(1, because="--keep-dropout is for models with dropout, 'small' has none")
