import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lepton_converters.layer_support import TFLITE, Rule

pytestmark = pytest.mark.workstation

LAMBDA = ("Lambda", {"name": "twice", "function": {"class_name": "__lambda__", "config": {"code": "…"}}})


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def entry(kind: str, settings: dict[str, Any], *, module: str | None = "keras.layers") -> dict[str, Any]:
    """A layer as Keras 3 writes it."""
    return {"module": module, "class_name": kind, "config": {"name": kind.lower(), **settings}, "registered_name": None}


def save(*layers: tuple[str, dict[str, Any]] | dict[str, Any], name: str = "model.keras", shape: tuple[int | None, ...] = (None, 4)) -> str:
    """A .keras file of a sequential model without weights."""
    entries = [layer if isinstance(layer, dict) else entry(*layer) for layer in layers]
    entries = [entry("InputLayer", {"name": "row", "batch_shape": list(shape), "dtype": "float32"}), *entries]
    config = {"module": "keras", "class_name": "Sequential", "config": {"name": "net", "layers": entries}, "registered_name": None}
    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config))
    return name


def test_it_says_what_is_in_the_file_and_what_becomes_of_it(lepton_edge) -> None:
    path = save(("Dense", {"units": 8}), ("Dropout", {"rate": 0.5}), ("Dense", {"name": "scores", "units": 3}))
    outcome = lepton_edge("check", path)
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].startswith("model          sequential, .keras of Keras 3.15.1, 0.")
    assert "inputs         row ?×4 float32" in lines
    assert "outputs        scores ?×3" in lines
    assert "converted      Dense ×2" in lines
    assert "taken out      Dropout (dropout): works in training only" in lines
    assert "tflite         fp32, fp16, dynamic-int8; with --calib PATH static-int8, int16x8" in lines
    assert max(map(len, lines)) <= 80
    assert outcome.err == "Next: lepton-edge export model.keras\n"


def test_the_document_holds_what_the_table_says(lepton_edge) -> None:
    outcome = lepton_edge("check", save(("Dense", {"units": 8}), ("Dropout", {})), "--json", "-", "--target-runtime", "onnxruntime==1.16")
    document = json.loads(outcome.out)
    assert document["keras_version"] == "3.15.1"
    assert document["inputs"] == [{"name": "row", "shape": [None, 4], "dtype": "float32"}]
    assert [(layer["kind"], layer["action"]) for layer in document["layers"]] == [("Dense", "convert"), ("Dropout", "take out")]
    assert len(document["targets"]) == 9
    assert document["target_runtime"] == {"name": "onnxruntime", "version": "1.16"}
    assert document["runtime"][0] == {"precision": "fp32", "needs": "1.7", "opset": 13, "is_read": True}


def test_a_model_that_cannot_be_converted_is_exit_6_with_the_fix(lepton_edge) -> None:
    outcome = lepton_edge("check", save(("Dense", {"units": 8}), LAMBDA))
    assert outcome.code == 6
    assert "refused        Lambda (twice) holds code, which would run on this machine\n               fix: if you trust" in outcome.out
    assert "onnx           nothing" in outcome.out
    assert outcome.err.count("\n") == 1
    assert "error: 'model.keras' cannot be converted: Lambda 'twice' holds code" in outcome.err


def test_what_was_trusted_is_in_the_next_command(lepton_edge) -> None:
    outcome = lepton_edge("check", save(LAMBDA, entry("Scale", {}, module=None)), "--trust-code", "--custom-objects", "mine:Scale")
    assert outcome.code == 0
    assert outcome.err == "Next: lepton-edge export model.keras --custom-objects mine:Scale --trust-code\n"


def test_what_one_format_lacks_is_said_with_where(lepton_edge, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Rule(frozenset({"Permute"}), "has no built-in TFLite operator", "make ONNX only: --format onnx", targets=TFLITE)
    monkeypatch.setattr("lepton_converters.layer_support.RULES", (rule,))
    outcome = lepton_edge("check", save(("Permute", {"dims": [1]})))
    assert outcome.code == 0
    assert "Permute (permute): not as tflite" in outcome.out
    assert "refused        Permute (permute), as tflite, has no built-in TFLite operator" in outcome.out
    assert "tflite         nothing" in outcome.out
    assert "onnx           fp32, fp16, dynamic-int8; with --calib PATH static-int8" in outcome.out


def test_layers_that_fare_alike_share_a_line(lepton_edge) -> None:
    outcome = lepton_edge("check", save(*[("Dropout", {"name": f"drop{number}"}) for number in range(7)]))
    assert "Dropout ×7 (drop0, drop1, drop2, drop3 and 3 more): works in training only" in " ".join(outcome.out.split())


@pytest.mark.parametrize(
    ("runtime", "verdict"),
    [
        ("onnxruntime==1.16", "will load fp32, fp16, dynamic-int8, static-int8 (opset 13: needs onnxruntime 1.7 or later); predicted"),
        ("onnxruntime==1.6.3", "will not load fp32, fp16, dynamic-int8, static-int8 (opset 13: needs onnxruntime 1.7 or later)"),
        ("tensorflow-lite==2.3", "(needs TensorFlow Lite 2.2 or later); will not load static-int8 (needs TensorFlow Lite 2.5 or later)"),
        ("litert==1.0.1", "(needs TensorFlow Lite 2.2 or later); will load static-int8 (needs TensorFlow Lite 2.5 or later); predicted"),
    ],
)
def test_a_runtime_is_told_whether_it_will_load_the_result(lepton_edge, runtime: str, verdict: str) -> None:
    outcome = lepton_edge("check", save(("LayerNormalization", {})), "--target-runtime", runtime)
    assert verdict in " ".join(outcome.out.split())


def test_an_unknown_runtime_is_guessed(lepton_edge) -> None:
    outcome = lepton_edge("check", save(), "--target-runtime", "onnxruntim==1.16")
    outcome.refused(1, because="takes onnxruntime==VERSION .* found 'onnxruntim==1.16'; did you mean 'onnxruntime'")
    lepton_edge("check", save(), "--target-runtime", "onnxruntime>=1.16").refused(1, because="takes onnxruntime==VERSION")


def test_custom_objects_have_a_module_and_a_name(lepton_edge) -> None:
    lepton_edge("check", save(), "--custom-objects", "layers").refused(1, because="--custom-objects takes module:name")


def test_a_saved_model_needs_trust(lepton_edge) -> None:
    Path("program").mkdir()
    Path("program/saved_model.pb").write_bytes(b"\0")
    outcome = lepton_edge("check", "program")
    assert outcome.code == 6
    assert "SavedModel is a program, which would run on this machine; if you trust whoever made it, add --trust-code" in outcome.err
    assert lepton_edge("check", "program", "--trust-code").code == 0


def test_damaged_files_are_one_line(lepton_edge, digits_bundle: Path) -> None:
    Path("cut.keras").write_bytes(Path(save(("Dense", {"units": 2}))).read_bytes()[:-40])
    lepton_edge("check", "cut.keras").refused(1, because="damaged or cut short .* copy it again")
    Path("notes.keras").write_text("dear diary")
    lepton_edge("check", "notes.keras").refused(1, because="its content is neither")
    lepton_edge("check", "nothing.keras").refused(1, because="cannot be read: No such file")
    lepton_edge("check", digits_bundle).refused(1, because="is a bundle already")
    with zipfile.ZipFile("odd.keras", "w") as archive:
        archive.writestr("config.json", '{"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": []}]}}')
    lepton_edge("check", "odd.keras").refused(1, because="must be one that Keras writes, it cannot be followed")


def test_nothing_of_tensorflow_is_loaded() -> None:
    heavy = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "rich")
    script = f"""
import sys
sys.argv = ["lepton-edge", "check", {save(("Dense", {"units": 2}))!r}]
from lepton_edge.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
