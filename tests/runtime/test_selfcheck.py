"""What a session opens where the CPU, as it seems, computes otherwise than the one that exported the bundle."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lepton_runtime import Bundle, BundleError, Format, InputError, LeptonError, Precision, SelfcheckWarning, Session
from lepton_runtime.choice import other_choices
from lepton_runtime.engines import is_installed
from lepton_runtime.golden import Golden, golden_fault, golden_limit

FP32, INT8 = "model.fp32.onnx", "model.static-int8.onnx"


def test_what_is_right_is_opened_in_silence(digits_bundle: Path) -> None:
    with Session.open(digits_bundle, selfcheck=True) as session:
        assert session.artifact.file == FP32


@pytest.mark.parametrize(("precision", "forged", "taken"), [(None, FP32, INT8), ("static-int8", INT8, FP32)])
def test_what_answers_otherwise_is_replaced_and_named(digits_bundle: Path, forge_golden, precision, forged: str, taken: str) -> None:
    forge_golden(digits_bundle, forged)
    with pytest.warns(SelfcheckWarning) as caught:
        session = Session.open(digits_bundle, precision=precision, selfcheck=True)
    with session:
        assert session.artifact.file == taken
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith(f"{taken} on onnxruntime is opened, since {forged} on onnxruntime is not right on this machine: ")
    assert "its answers differ by" in text
    assert Path(warning.filename) == Path(__file__)


def test_without_selfcheck_nothing_is_compared(digits_bundle: Path, forge_golden) -> None:
    forge_golden(digits_bundle, FP32)
    with Session.open(digits_bundle) as session:
        assert session.artifact.file == FP32


def test_where_nothing_is_right_nothing_is_opened(digits_bundle: Path, forge_golden) -> None:
    forge_golden(digits_bundle, FP32, INT8)
    with pytest.raises(BundleError, match=r"must give its golden answers on this machine, none does: model\.fp32\.onnx on onnxruntime is"):
        Session.open(digits_bundle, selfcheck=True)


def test_another_engine_than_the_one_asked_for_is_not_taken(digits_bundle: Path, forge_golden) -> None:
    forge_golden(digits_bundle, FP32)
    with pytest.warns(SelfcheckWarning), Session.open(digits_bundle, engine="onnxruntime", selfcheck=True) as session:
        assert (session.artifact.file, session.engine) == (INT8, "onnxruntime")


def test_a_file_that_its_engine_cannot_load_is_replaced_too(digits_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = Session.__init__

    def failing(self, bundle, artifact, **settings) -> None:
        if artifact.file == FP32:
            raise BundleError("no kernel for this CPU")
        init(self, bundle, artifact, **settings)

    monkeypatch.setattr(Session, "__init__", failing)
    with pytest.warns(SelfcheckWarning, match="no kernel for this CPU"), Session.open(digits_bundle, selfcheck=True) as session:
        assert session.artifact.file == INT8


def test_what_is_asked_for_wrongly_is_no_fault_of_the_machine(digits_bundle: Path) -> None:
    with pytest.raises(InputError, match="threads must be a whole number"):
        Session.open(digits_bundle, threads=0, selfcheck=True)


def test_the_nearest_precision_comes_next_and_fp32_at_last(digits_bundle: Path) -> None:
    bundle = Bundle.open(digits_bundle)
    (record, *_) = bundle.manifest.artifacts
    made = [
        replace(record, file=f"model.{precision}.{format_}", precision=precision, format=format_)
        for precision in Precision
        for format_ in Format
        if (precision, format_) != (Precision.INT16X8, Format.ONNX)
    ]
    broken = replace(record, file="broken", precision=Precision.STATIC_INT8, passed=False)
    bundle = replace(bundle, manifest=replace(bundle.manifest, artifacts=(*made, broken)))
    first = next(one for one in made if one.file == "model.static-int8.onnx")
    found = [(other.precision, engine) for other, engine in other_choices(bundle, first, "onnxruntime") if engine != "openvino"]
    expected = {
        "onnxruntime": ["dynamic-int8", "fp16", "fp32"],
        "litert": ["static-int8", "dynamic-int8", "int16x8", "fp16", "fp32"] if is_installed("litert") else [],
    }
    for engine, precisions in expected.items():
        assert sorted(precision for precision, name in found if name == engine) == sorted(precisions)
    order = [precision for precision, _ in found]
    assert order[-1] == "fp32"
    distances = [abs(list(Precision).index(precision) - list(Precision).index(Precision.STATIC_INT8)) for precision in order]
    assert distances == sorted(distances)


@pytest.mark.simulation
@pytest.mark.parametrize("file", [FP32, INT8])
def test_changed_bytes_with_the_right_checksums_are_found_where_an_answer_moves(digits_bundle: Path, rewrite_manifest, file: str) -> None:
    """Whoever may write checksums is not found by them; golden answers that are others are."""
    chance, whole = random.Random(1), (digits_bundle / file).read_bytes()
    number = [record.file for record in Bundle.open(digits_bundle).manifest.artifacts].index(file)
    golden = Golden.open(Bundle.open(digits_bundle))
    with Session.open(digits_bundle, precision="fp32" if file == FP32 else "static-int8") as session:
        before = [session.run(inputs)["scores"] for inputs in golden.batches(session.artifact)]
    moved = 0
    for _ in range(40):
        content = bytearray(whole)
        length = chance.choice([1, 100, len(whole) // 8])
        start = chance.randrange(len(whole) - length)
        content[start : start + length] = chance.randbytes(length)
        (digits_bundle / file).write_bytes(content)
        entry = {"sha256": hashlib.sha256(content).hexdigest()}
        rewrite_manifest(digits_bundle, lambda values, entry=entry: values["artifacts"][number].update(entry))
        bundle = Bundle.open(digits_bundle)
        try:
            with Session(bundle, bundle.artifact(file)) as session:
                after = [session.run(inputs)["scores"] for inputs in golden.batches(session.artifact)]
                fault = golden_fault(golden.difference(session), golden_limit(session.artifact))
        except LeptonError:
            continue  # the engine, or who looks at files before it, has refused it
        apart = max(float(np.abs(new.astype(float) - old).max()) for old, new in zip(before, after, strict=True))
        has_moved = not apart / max(1.0, max(float(np.abs(old).max()) for old in before)) <= golden_limit(session.artifact)
        moved += has_moved
        assert bool(fault) == has_moved
        if any((old.argmax(axis=1) != new.argmax(axis=1)).any() for old, new in zip(before, after, strict=True)):
            assert fault
    assert moved > 3
