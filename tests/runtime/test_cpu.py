from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lepton_runtime import Bundle, BundleError, Session, Target, TargetWarning
from lepton_runtime.cpu import Cpu, may_saturate, read_cpu, read_features, target_of

TREES = Path(__file__).parents[1] / "edge" / "trees"
HASWELL = Cpu("x86_64", frozenset({"sse4_1", "avx2", "fma"}))
ZEN_4 = Cpu("x86_64", frozenset({"avx2", "avx512f", "avx512_vnni"}))
ALDER_LAKE = Cpu("x86_64", frozenset({"avx2", "avx_vnni"}))
PI_4 = Cpu("aarch64", frozenset({"fp", "asimd"}))
UNKNOWN = Cpu("x86_64", frozenset())


@pytest.fixture
def made_for(digits_bundle: Path, rewrite_manifest) -> Callable[[str], Path]:
    """Makes a bundle whose 8-bit file says that it is for a target."""

    def make(target: str) -> Path:
        made = {"target": target, "ranges": "min-max", "equalized": False, "rounding": "nearest", "float_blocks": [], "blocks": 4}

        def change(values: dict[str, Any]) -> None:
            values["artifacts"][1]["quantization"] = {**made, "measured": [], "steps": []}

        rewrite_manifest(digits_bundle, change)
        return digits_bundle

    return make


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Cpu], None]:
    """Makes this machine another."""
    return lambda cpu: monkeypatch.setattr("lepton_runtime.cpu.read_cpu", lambda: cpu)


@pytest.mark.parametrize(("cpu", "saturates"), [(HASWELL, True), (ZEN_4, False), (ALDER_LAKE, False), (PI_4, False), (UNKNOWN, None)])
def test_only_an_x86_without_vnni_saturates(cpu: Cpu, saturates: bool | None) -> None:
    assert cpu.saturates is saturates


def test_the_features_of_a_raspberry_pi_are_read() -> None:
    assert "asimddp" in read_features(TREES / "pi5/proc/cpuinfo")
    assert read_features(TREES / "pi4/proc/cpuinfo") >= {"asimd", "crc32"}


def test_the_features_of_an_x86_are_those_of_its_first_core(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: avx2 avx_vnni\nvmx flags\t: ept\n\nprocessor\t: 1\nflags\t\t: avx2\n")
    assert read_cpu(tmp_path / "cpuinfo").features == {"avx2", "avx_vnni"}


def test_a_machine_that_tells_no_features_has_none(tmp_path: Path) -> None:
    assert read_features(tmp_path / "nothing") == frozenset()
    (tmp_path / "cpuinfo").write_text("processor: 0\n")
    assert read_features(tmp_path / "cpuinfo") == frozenset()


@pytest.mark.parametrize("target", ["x86-vnni", "arm-dotprod", "arm-v8"])
def test_a_session_warns_where_sums_may_saturate(made_for, on, target: str) -> None:
    on(HASWELL)
    with pytest.warns(
        TargetWarning, match=rf"it is for {target} and this x86 has no VNNI: answers may be wrong; export it with --target any"
    ):
        Session.open(made_for(target), precision="static-int8").close()


@pytest.mark.parametrize(
    ("target", "cpu"), [("any", HASWELL), ("x86-avx2", HASWELL), ("x86-vnni", PI_4), ("arm-v8", ZEN_4), ("arm-v8", UNKNOWN)]
)
def test_a_session_is_quiet_where_answers_are_right_or_nothing_is_known(made_for, on, target: str, cpu: Cpu) -> None:
    on(cpu)
    with Session.open(made_for(target), precision="static-int8") as session:
        assert target_of(session.artifact) == Target(target)


def test_whether_sums_saturate_is_unknown_without_features(made_for, on) -> None:
    on(UNKNOWN)
    assert may_saturate(Bundle.open(made_for("x86-vnni")).artifact("model.static-int8.onnx")) is None


def test_an_artifact_that_may_be_wrong_here_is_the_last_to_be_chosen(made_for, on, rewrite_manifest) -> None:
    def tflite_beside(values: dict[str, Any]) -> None:
        values["artifacts"] = [values["artifacts"][1], {**values["artifacts"][0], "format": "tflite"}]

    path = made_for("x86-vnni")
    rewrite_manifest(path, tflite_beside)
    from lepton_runtime.session import choose_artifact

    on(ZEN_4)
    assert choose_artifact(Bundle.open(path)).format == "onnx"
    on(HASWELL)
    assert choose_artifact(Bundle.open(path)).format == "tflite"


def test_a_tflite_file_is_right_whatever_its_record_says(made_for, on, rewrite_manifest) -> None:
    path = made_for("x86-vnni")
    rewrite_manifest(path, lambda values: values["artifacts"][1].update(format="tflite"))
    on(HASWELL)
    assert may_saturate(Bundle.open(path).artifact("model.static-int8.onnx")) is False


def test_a_target_that_no_version_knows_is_a_fault_of_the_manifest(made_for) -> None:
    with pytest.raises(BundleError, match="'sparc' is not a valid Target"):
        Bundle.open(made_for("sparc"))
