"""``lepton-edge selfcheck``."""

import json
from pathlib import Path

import pytest

from lepton_edge.cli.benchmark import choose_candidates
from lepton_edge.digits import shipped_bundle
from lepton_edge.selfcheck import selfcheck
from lepton_runtime import LeptonError

FP32, INT8 = "model.fp32.onnx", "model.static-int8.onnx"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_a_bundle_that_answers_as_on_export(lepton_edge) -> None:
    outcome = lepton_edge("selfcheck", shipped_bundle())
    assert outcome.code == 0
    assert "Session.open takes model.fp32.onnx on onnxruntime here, which answers as it did on export." in outcome.err
    assert outcome.out.count(" ok") >= 2
    assert "FAIL" not in outcome.out


def test_answers_of_another_cpu_are_told_and_what_is_taken_instead(lepton_edge, digits_bundle: Path, forge_golden) -> None:
    forge_golden(digits_bundle, FP32)
    outcome = lepton_edge("selfcheck", digits_bundle)
    assert outcome.code == 3
    assert "FAIL: its answers differ by 3.3e-01 from the golden ones, 1.0e-04 are allowed" in " ".join(outcome.out.split())
    expected = "must answer as it did on export: its answers differ by 3.3e-01 from the golden ones, 1.0e-04 are allowed; "
    assert f"{expected}Session.open(..., selfcheck=True) takes {INT8} on onnxruntime" in outcome.err


def test_the_json_has_all_of_it(lepton_edge, digits_bundle: Path, forge_golden) -> None:
    forge_golden(digits_bundle, FP32, INT8)
    outcome = lepton_edge("selfcheck", digits_bundle, "--json", "-")
    assert outcome.code == 3
    assert "finds nothing in its place" in outcome.err
    document = json.loads(outcome.out)
    assert document["opened"] == {"file": FP32, "engine": "onnxruntime"}
    assert document["taken"] is None
    found = {(entry["file"], entry["engine"]): entry for entry in document["checked"]}
    assert found[FP32, "onnxruntime"]["difference"] == pytest.approx(0.5 / 1.5, abs=1e-3)  # of the largest
    assert found[INT8, "onnxruntime"]["fault"]


def test_a_process_that_ends_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*arguments: object) -> None:
        raise LeptonError("its process ended with -11: no message")

    monkeypatch.setattr("lepton_edge.selfcheck.MeasuredProcess", ended)
    (checked, *_) = selfcheck(choose_candidates(shipped_bundle()))
    assert (checked.difference, checked.fault) == (None, "its process ended with -11: no message")
