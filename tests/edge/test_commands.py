import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lepton_edge.digits import Digits, load_digits, shipped_bundle


def test_inspect_prints_the_promised_keys(lepton_edge) -> None:
    document = json.loads(lepton_edge("inspect", shipped_bundle(), "--json", "-").out)
    assert {"schema_version", "source", "inputs", "outputs", "preprocessing", "labels", "artifacts"} <= set(document)
    assert set(document["source"]) == {"file", "sha256"}
    assert document["inputs"][0]["name"] == "image"
    assert document["inputs"][0]["shape"] == [1, 28, 28, 1]
    for artifact in document["artifacts"]:
        assert {"file", "format", "precision", "size_bytes", "sha256", "parity", "accuracy"} <= set(artifact)
        assert set(artifact["parity"]) == {"max_abs", "cosine", "top1_agreement", "samples"}
        assert (shipped_bundle() / artifact["file"]).stat().st_size == artifact["size_bytes"]


def test_inspect_shows_a_table(lepton_edge) -> None:
    outcome = lepton_edge("inspect", shipped_bundle())
    assert outcome.code == 0
    assert "static-int8.onnx" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "same as Keras" in outcome.out


def test_inspect_names_the_integers_at_the_doors(lepton_edge) -> None:
    lines = lepton_edge("inspect", shipped_bundle()).out.splitlines()
    assert [line for line in lines if "takes" in line] == ["static-int8.onnx   takes image 1×28×28×1 uint8, gives scores 1×10 uint8"]


def test_run_answers_every_sample(lepton_edge, small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    options = ("--precision", "fp32", "--format", "onnx", "--batch", "dynamic", "--labels", tmp_path / "names.txt")
    assert lepton_edge("export", small_model, "-o", tmp_path / "b", *options).code == 0
    samples = np.random.default_rng(2).uniform(0, 255, (3, 8, 8, 3)).astype(np.float32)
    np.save(tmp_path / "three.npy", samples)
    np.save(tmp_path / "one.npy", samples[:1])
    document = json.loads(lepton_edge("run", tmp_path / "b", tmp_path / "three.npy", "--json", "-").out)
    alone = json.loads(lepton_edge("run", tmp_path / "b", tmp_path / "one.npy", "--json", "-").out)
    assert [len(top) for top in document["tops"]] == [3, 3, 3]
    assert document["top"] == document["tops"][0]
    assert "tops" not in alone
    assert [answer["label"] for answer in document["top"]] == [answer["label"] for answer in alone["top"]]
    shown = lepton_edge("run", tmp_path / "b", tmp_path / "three.npy", "--top", 1).out.splitlines()
    assert shown[::2] == ["sample 1", "sample 2", "sample 3"]
    assert [line.split()[0] for line in shown[1::2]] == [top[0]["label"] for top in document["tops"]]
    assert "sample" not in lepton_edge("run", tmp_path / "b", tmp_path / "one.npy").out


def test_run_names_the_digit_in_a_picture(lepton_edge, digits: Digits, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="images need Pillow, which is not installed")
    image.fromarray(digits.test_images[0]).save(tmp_path / "digit.png")
    document = json.loads(lepton_edge("run", shipped_bundle(), tmp_path / "digit.png", "--json", "-").out)
    assert document["top"][0]["label"] == str(digits.test_labels[0])
    assert np.array(document["outputs"]["scores"]).shape == (1, 10)
    shown = lepton_edge("run", shipped_bundle(), tmp_path / "digit.png", "--precision", "static-int8")
    assert shown.out.split()[0] == str(digits.test_labels[0])
    assert "model.static-int8.onnx on onnxruntime, 1 thread" in shown.err


def test_run_takes_arrays_as_the_model_does(lepton_edge, digits: Digits, tmp_path: Path) -> None:
    np.savez(tmp_path / "digit.npz", image=digits.test_images[:1, ..., None].astype(np.float32))
    document = json.loads(lepton_edge("run", shipped_bundle(), tmp_path / "digit.npz", "--json", "-").out)
    assert document["top"][0]["label"] == str(digits.test_labels[0])


def test_doctor_checks_device_packages_and_bundle(lepton_edge) -> None:
    document = json.loads(lepton_edge("doctor", shipped_bundle(), "--json", "-").out)
    assert {check["state"] for check in document["checks"]} <= {"ok", "info"}
    assert sum("gives its golden answers" in check["text"] for check in document["checks"]) == 2
    assert "onnxruntime" in lepton_edge("doctor").out


def test_doctor_knows_what_holds_a_raspberry_pi_back() -> None:
    from lepton_edge.cli.doctor import _check_device

    trees = Path(__file__).parent / "trees"
    warned = {check.text for check in _check_device(trees / "pi4") if check.state == "warn"}
    assert warned == {
        'the governor is "ondemand": timings will vary with the clock',
        "held back now: nothing; since boot: under-voltage, throttled",
    }
    assert "power supply and cooling: not throttled since boot" in {check.text for check in _check_device(trees / "pi5")}


@pytest.mark.workstation
def test_ctrl_c_that_a_library_swallows_ends_the_export_at_the_next_step() -> None:
    from lepton_converters import Step
    from lepton_edge.cli.progress import StepPrinter

    before = signal.getsignal(signal.SIGINT)
    with StepPrinter() as show:
        show(Step("read", "model"))
        with pytest.raises(KeyboardInterrupt):  # as a callback of TensorFlow's does, and says nothing
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            show(Step("convert", "model"))
    assert signal.getsignal(signal.SIGINT) is before


def test_the_module_and_its_help_load_nothing_heavy() -> None:
    script = "import sys, runpy; sys.argv = ['lepton-edge', '--help']\ntry: runpy.run_module('lepton_edge', run_name='__main__')\n"
    script += "except SystemExit: print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "export" in done.stdout
    loaded = set(done.stderr.split())
    assert "click" in loaded
    assert not loaded & {"tensorflow", "keras", "onnx", "tf2onnx", "onnxruntime", "rich", "PIL"}


@pytest.mark.parametrize(("arguments", "said"), [(["export"], 'pip install "lepton-edge[convert]"'), (["check"], "")])
def test_without_convert_an_export_names_the_extra_and_a_check_works(tmp_path: Path, arguments: list[str], said: str) -> None:
    with zipfile.ZipFile(tmp_path / "row.keras", "w") as archive:
        layer = {"class_name": "InputLayer", "config": {"batch_shape": [None, 4], "dtype": "float32", "name": "row"}}
        config = {"class_name": "Sequential", "config": {"name": "row", "layers": [layer]}}
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
    script = "import sys\nfor name in ('onnx', 'tensorflow', 'keras', 'tf2onnx'): sys.modules[name] = None\n"
    script += f"from lepton_edge.cli import main\nsys.argv = ['lepton-edge', *{[*arguments, str(tmp_path / 'row.keras')]!r}]\nmain()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert said in done.stderr
    assert done.returncode == (1 if said else 0), done.stderr


def test_the_shipped_digits_are_clean() -> None:
    digits = load_digits()
    assert len(digits.train_labels) == 8000
    assert len(digits.test_labels) == 2000
    assert digits.train_images.any(axis=(1, 2)).all()
    both = np.concatenate([digits.train_images, digits.test_images]).reshape(10000, -1)
    assert len(np.unique(both, axis=0)) == 10000


def test_the_demo_without_convert_runs_the_shipped_bundle(lepton_edge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["lepton_edge.cli.demo"], "find_spec", lambda name: None)
    outcome = lepton_edge("demo")
    assert outcome.code == 0
    assert "running the shipped bundle" in outcome.err
    assert f"The bundle lies in {shipped_bundle()}" in outcome.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.workstation
def test_the_demo_trains_exports_and_measures(lepton_edge, tmp_path: Path) -> None:
    outcome = lepton_edge("demo", "-o", tmp_path / "demo", "--json", tmp_path / "demo.json")
    assert outcome.code == 0, outcome.err
    document = json.loads((tmp_path / "demo.json").read_text())
    assert len(document["artifacts"]) == len(document["results"]) == 9
    assert document["evaluation"]["samples"] == 2000
    assert document["evaluation"]["accuracy"] >= 0.965
    assert document["removed_layers"] == ["random_translation"]
    assert "recall by class: 0: " in outcome.err
    lepton_edge("demo", "-o", tmp_path / "demo").refused(1, because="exists; add --force")


@pytest.fixture
def vnni_bundle(digits_bundle: Path, rewrite_manifest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose 8-bit file is for x86 with VNNI, on a machine that has none."""
    from lepton_runtime.cpu import Cpu

    made = {"target": "x86-vnni", "ranges": "min-max", "equalized": False, "rounding": "nearest", "float_blocks": [], "blocks": 4}
    made |= {"measured": [], "steps": []}
    rewrite_manifest(digits_bundle, lambda values: values["artifacts"][1].update(quantization=made))
    monkeypatch.setattr("lepton_runtime.cpu.read_cpu", lambda: Cpu("x86_64", frozenset({"avx2"})))
    return digits_bundle


@pytest.mark.filterwarnings("always::lepton_runtime.TargetWarning")
def test_run_warns_in_one_line_of_a_file_for_another_cpu(lepton_edge, vnni_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "digit.npy", np.zeros((1, 28, 28, 1), np.uint8))
    outcome = lepton_edge("run", vnni_bundle, tmp_path / "digit.npy", "--precision", "static-int8")
    assert outcome.code == 0
    lines = outcome.err.splitlines()
    assert lines[0].startswith("warning: model.static-int8.onnx must run on a CPU that adds up 8-bit products exactly, it is for x86-vnni")
    assert lines[1:] == ["model.static-int8.onnx on onnxruntime, 1 thread, made for x86-vnni"]


def test_inspect_says_what_a_file_is_for(lepton_edge, vnni_bundle: Path) -> None:
    outcome = lepton_edge("inspect", vnni_bundle)
    assert "static-int8.onnx   is made for x86-vnni, not for x86 without VNNI" in outcome.out.splitlines()


def test_doctor_warns_of_a_file_for_another_cpu(lepton_edge, vnni_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lepton_runtime.cpu import Cpu

    def found() -> dict[str, str]:
        checks = json.loads(lepton_edge("doctor", vnni_bundle, "--json", "-").out)["checks"]
        (check,) = (check for check in checks if "x86-vnni" in check["text"])
        return {"state": check["state"], "fix": check["fix"]}

    assert found() == {"state": "warn", "fix": "export it with --target any, or take another precision"}
    monkeypatch.setattr("lepton_runtime.cpu.read_cpu", lambda: Cpu("x86_64", frozenset()))
    assert found() == {"state": "info", "fix": ""}
    monkeypatch.setattr("lepton_runtime.cpu.read_cpu", lambda: Cpu("aarch64", frozenset()))
    assert found() == {"state": "ok", "fix": ""}


def test_benchmark_notes_what_a_file_is_for(vnni_bundle: Path) -> None:
    from lepton_edge.cli.benchmark import _target_notes, choose_candidates

    (note,) = _target_notes(choose_candidates(vnni_bundle))
    assert "it is for x86-vnni and this x86 has no VNNI: answers may be wrong" in note
