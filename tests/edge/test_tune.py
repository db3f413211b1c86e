"""The fastest variant is found among candidates of known latency, and kept for the next time a bundle is opened."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import lepton_edge.tune
from lepton_edge.cli.tune import allowed_records, choose_variants
from lepton_edge.digits import shipped_bundle
from lepton_edge.latency.process import MeasuredProcess
from lepton_edge.latency.result import Candidate, candidate_of
from lepton_edge.optimized_model import faster_to_load
from lepton_edge.tune import _LoadClock, tune
from lepton_runtime import Bundle, InputError, LeptonError, Precision, ProfileWarning, Session
from lepton_runtime.device_profile import load_profile, profile_paths
from lepton_runtime.manifest import Evaluation
from tests.edge.made import CANDIDATE


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


class Machine:
    """Measured processes of candidates whose median is known, with the noise of a machine that others use, too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, medians_us: dict[Candidate, float], *, noise: float = 0.02, seed: int = 0) -> None:
        self.started: list[Candidate] = []
        generator = np.random.default_rng(seed)
        machine = self

        class Process:
            first_run_ns = 5_000_000

            def __init__(self, candidate: Candidate, stack: object) -> None:
                if candidate not in medians_us:
                    raise LeptonError("its process ended with 1")
                machine.started.append(candidate)
                self.candidate = candidate
                self.median_ns = 1e3 * medians_us[candidate] * float(np.exp(generator.normal(0, noise)))

            def ask(self, kind: str, **request: object) -> dict[str, object]:
                if kind == "golden":
                    return {"difference": 0.0, "limit": 0.0}
                if kind == "end":
                    return {"rss_bytes": 50_000_000, "peak_rss_bytes": None}
                return {"samples_ns": list(self.median_ns * np.exp(generator.normal(0, 3 * noise, 50)))}

        monkeypatch.setattr("lepton_edge.tune.MeasuredProcess", Process)


def variant(number: int, *, threads: int = 1, spins: bool = True) -> Candidate:
    return replace(CANDIDATE, file=f"model.{number}.onnx", threads=threads, spins=spins)


@pytest.mark.parametrize("seed", range(5))
def test_the_fastest_is_found(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    medians = {variant(number): 100 + 12.0 * number for number in range(7)}
    Machine(monkeypatch, medians, seed=seed)
    tuning = tune(list(medians)[::-1])
    assert tuning.best.candidate == variant(0)
    assert tuning.confidence >= 0.95
    assert next(one.candidate for one in tuning.tried) == variant(0)


def test_of_those_that_are_as_fast_the_one_with_fewer_threads_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    medians = {variant(0, threads=4): 100.0, variant(0, threads=2): 100.2, variant(0, threads=2, spins=False): 100.3}
    Machine(monkeypatch, medians, noise=0.0005)
    assert tune(list(medians)).best.candidate == variant(0, threads=2, spins=False)


def test_threads_that_cannot_win_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = variant(1), variant(0)
    machine = Machine(monkeypatch, {slow: 1000.0, fast: 100.0, variant(1, threads=2): 550.0})
    tuning = tune([variant(1, threads=2), slow, fast])
    assert variant(1, threads=2) not in machine.started
    assert {one.candidate: one.remark for one in tuning.tried}[variant(1, threads=2)] == "not tried: too slow with one thread"


def test_one_that_fails_is_told_of_and_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, {variant(1): 100.0})
    tuning = tune([variant(0), variant(1)])
    assert tuning.best.candidate == variant(1)
    assert tuning.tried[-1].remark == "failed: its process ended with 1"
    assert tuning.tried[-1].p50_ms is None


def test_none_that_runs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, {})
    with pytest.raises(LeptonError, match="at least one candidate must run, none did: failed: its process ended with 1"):
        tune([variant(0)])


def test_what_cannot_be_told_apart_in_time_is_said_with_less_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    medians = {variant(0): 100.0, variant(1): 101.0}
    Machine(monkeypatch, medians, noise=0.03)
    assert tune(list(medians), final_seconds=1e-9).confidence < 0.9


def test_a_bundle_is_opened_as_it_was_tuned(lepton_edge, tmp_path: Path) -> None:
    path = shutil.copytree(shipped_bundle(), tmp_path / "digits.bundle")
    outcome = lepton_edge("tune", path, "--precision", "static-int8", "--engine", "onnxruntime", "--threads", "1", "--json", "-")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["best"]["file"] == "model.static-int8.onnx"
    assert document["profile"] == str(tmp_path / "digits.bundle.tuned.json")
    np.save(tmp_path / "x.npy", np.zeros((1, 28, 28, 1), np.uint8))
    assert "model.static-int8.onnx on onnxruntime, 1 thread" in lepton_edge("run", path, tmp_path / "x.npy").err


def test_a_table_says_what_was_tried(lepton_edge, tmp_path: Path) -> None:
    path = shutil.copytree(shipped_bundle(), tmp_path / "digits.bundle")
    outcome = lepton_edge("tune", path, "--engine", "onnxruntime", "--threads", "1", "--under-load")
    assert "2 variants of 2 artifacts" in outcome.err
    assert "* to be opened here: none that took turns is more than 2 % faster" in outcome.out


def test_a_profile_goes_to_the_users_folder_where_the_bundle_is_write_protected(
    lepton_edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    path = shutil.copytree(shipped_bundle(), tmp_path / "digits.bundle")
    beside, own = profile_paths(Bundle.open(path))
    beside.mkdir()  # nothing can be written there, not even by root
    outcome = lepton_edge("tune", path, "--precision", "fp32", "--engine", "onnxruntime", "--threads", "1")
    assert outcome.code == 0, outcome.err
    assert f"Wrote {own}" in outcome.err
    assert own.is_file()


def made_bundle(accuracies: dict[str, float | None], *, evaluation: Evaluation | None) -> Bundle:
    bundle = Bundle.open(shipped_bundle())
    records = tuple(replace(record, accuracy=accuracies[str(record.precision)]) for record in bundle.manifest.artifacts)
    return replace(bundle, manifest=replace(bundle.manifest, artifacts=records, evaluation=evaluation))


def test_a_budget_leaves_out_what_lost_more() -> None:
    bundle = made_bundle({"fp32": 0.80, "static-int8": 0.79}, evaluation=Evaluation(0.80, 1000, "1pp"))
    assert [str(record.precision) for record in allowed_records(bundle, (), "0.5pp")] == ["fp32"]
    assert [str(record.precision) for record in allowed_records(bundle, (), "1pp")] == ["fp32", "static-int8"]
    with pytest.raises(InputError, match=r"none for static-int8, --max-drop 0.5pp"):
        allowed_records(bundle, (Precision.STATIC_INT8,), "0.5pp")


def test_a_budget_needs_recorded_accuracies() -> None:
    bundle = made_bundle({"fp32": None, "static-int8": None}, evaluation=None)
    with pytest.raises(InputError, match=r"--max-drop 0\.5pp needs a bundle that was exported with --eval"):
        allowed_records(bundle, (), "0.5pp")


def test_variants_are_artifacts_on_engines_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lepton_runtime.cpu.usable_cores", lambda: 2)
    bundle = Bundle.open(shipped_bundle())
    records = list(bundle.manifest.artifacts)[:1]
    found = {(one.engine, one.threads, one.spins) for one in choose_variants(bundle, records, ("onnxruntime",), (1, 2))}
    assert found == {("onnxruntime", 1, True), ("onnxruntime", 2, True), ("onnxruntime", 2, False)}
    with pytest.raises(InputError, match="found nothing for litert"):
        choose_variants(bundle, records, ("litert",))
    with pytest.raises(InputError, match="threads must be at most the 2 cores that may be used, found 4"):
        choose_variants(bundle, records, (), (4,))


def test_doctor_says_what_is_opened(lepton_edge, tmp_path: Path) -> None:
    path = shutil.copytree(shipped_bundle(), tmp_path / "digits.bundle")
    assert "not tuned for this device: the file closest to Keras is opened, with one thread" in lepton_edge("doctor", path).out
    lepton_edge("tune", path, "--precision", "static-int8", "--engine", "onnxruntime", "--threads", "1")
    assert "model.static-int8.onnx on onnxruntime, 1 thread, is opened" in lepton_edge("doctor", path).out
    profiles = json.loads((tmp_path / "digits.bundle.tuned.json").read_text())
    profiles["profiles"][0]["engine_version"] = "1.0"
    (tmp_path / "digits.bundle.tuned.json").write_text(json.dumps(profiles))
    assert "was measured with onnxruntime 1.0" in " ".join(lepton_edge("doctor", path).out.split())


def test_one_that_fails_in_turns_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    medians = {variant(0): 100.0, variant(1): 101.0}
    machine = Machine(monkeypatch, medians)
    process = lepton_edge.tune.MeasuredProcess

    class Failing(process):
        def ask(self, kind: str, **request: object) -> dict[str, object]:
            if machine.started.count(variant(0)) > 1 and self.candidate == variant(0):
                raise LeptonError("killed")
            return super().ask(kind, **request)

    monkeypatch.setattr("lepton_edge.tune.MeasuredProcess", Failing)
    tuning = tune(list(medians))
    assert tuning.best.candidate == variant(1)
    assert {one.candidate: one.remark for one in tuning.tried}[variant(0)] == "failed: killed"


def test_an_artifact_that_answers_otherwise_here_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, right = variant(0), variant(1)
    machine = Machine(monkeypatch, {wrong: 50.0, variant(0, threads=2): 25.0, right: 100.0})
    process = lepton_edge.tune.MeasuredProcess

    class Wrong(process):
        def ask(self, kind: str, **request: object) -> dict[str, object]:
            is_wrong = kind == "golden" and self.candidate.file == wrong.file
            return {"difference": 0.3, "limit": 0.1} if is_wrong else super().ask(kind, **request)

    monkeypatch.setattr("lepton_edge.tune.MeasuredProcess", Wrong)
    tuning = tune([wrong, variant(0, threads=2), right])
    assert tuning.best.candidate == right
    remarks = {one.candidate: one.remark for one in tuning.tried}
    assert (
        remarks[wrong]
        == remarks[variant(0, threads=2)]
        == "failed: its answers differ by 3.0e-01 from the golden ones, 1.0e-01 are allowed"
    )
    assert machine.started.count(wrong) == 1
    assert variant(0, threads=2) not in machine.started


def test_what_is_hopeless_by_its_first_answer_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = variant(0), variant(1)
    Machine(monkeypatch, {slow: 3e6, variant(0, threads=2): 2e6, fast: 100.0}, noise=0)
    process = lepton_edge.tune.MeasuredProcess
    asked: list[Candidate] = []

    class Slow(process):
        def __init__(self, candidate: Candidate, stack: object) -> None:
            super().__init__(candidate, stack)
            self.first_run_ns = round(self.median_ns)

        def ask(self, kind: str, **request: object) -> dict[str, object]:
            asked.append(self.candidate)
            return super().ask(kind, **request)

    monkeypatch.setattr("lepton_edge.tune.MeasuredProcess", Slow)
    tuning = tune([fast, slow, variant(0, threads=2)])
    assert set(asked) == {fast}
    remarks = {one.candidate: one.remark for one in tuning.tried}
    assert remarks[slow] == remarks[variant(0, threads=2)] == "dropped out after its first answer, which took 3.0 s"


def test_what_drops_out_by_chance_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = sure = 0
    for seed in range(60):
        medians = {variant(0): 100.0, **{variant(number): 105.0 for number in range(1, 4)}}
        Machine(monkeypatch, medians, noise=0.08, seed=seed)
        tuning = tune(list(medians))
        is_sure = tuning.confidence >= 0.95
        sure += is_sure
        wrong += is_sure and tuning.best.candidate != variant(0)
    assert wrong <= max(1, 0.15 * sure)


def test_golden_answers_are_checked_where_they_are_measured() -> None:
    from lepton_runtime.golden import Golden

    bundle = Bundle.open(shipped_bundle())
    candidates = [candidate_of(bundle, record, engine="onnxruntime", threads=1) for record in bundle.manifest.artifacts]
    for candidate in candidates:
        with ExitStack() as stack:
            found = MeasuredProcess(candidate, stack).ask("golden")
            session = stack.enter_context(Session(bundle, bundle.artifact(candidate.file)))
            assert found["difference"] == Golden.open(bundle).difference(session) <= found["limit"]


def test_a_result_is_not_replaced_without_force(lepton_edge, tmp_path: Path) -> None:
    (tmp_path / "tuned.json").write_text("mine")
    lepton_edge("tune", shipped_bundle(), "--json", tmp_path / "tuned.json").refused(1, because="exists; add --force to replace it")
    assert (tmp_path / "tuned.json").read_text() == "mine"


def test_a_damaged_profile_is_replaced(lepton_edge, tmp_path: Path) -> None:
    path = shutil.copytree(shipped_bundle(), tmp_path / "digits.bundle")
    beside, _ = profile_paths(Bundle.open(path))
    beside.write_text("garbage")
    with pytest.warns(ProfileWarning):
        assert load_profile(Bundle.open(path)) is None
    assert f"Wrote {beside}" in "".join(tuned(lepton_edge, path).err.split("\n"))
    assert load_profile(Bundle.open(path)) is not None


def test_what_else_ran_meanwhile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {"busy": 10**12, "stolen": 10**12}
    monkeypatch.setattr("lepton_edge.tune.DeviceReader.cpu_times", lambda reader: (machine["busy"], machine["stolen"]))
    clock = _LoadClock()
    assert clock.text() is None
    machine["busy"] += 3_600 * 10**9
    assert re.fullmatch(r"other load took \d+ % of a core", clock.text() or "")
    machine["stolen"] += 3_600 * 10**9
    assert (clock.text() or "").count("of a core") == 2


@pytest.mark.parametrize(
    ("engine", "installed", "because"),
    [
        ("litert", True, r"holds model\.fp32\.onnx, model\.static-int8\.onnx, found nothing for litert"),
        ("openvino", False, r"the engine openvino is not installed: pip install"),
    ],
)
def test_an_engine_that_cannot_be_used_says_why(
    lepton_edge, monkeypatch: pytest.MonkeyPatch, engine: str, installed: bool, because: str
) -> None:
    monkeypatch.setattr("lepton_runtime.engines.is_installed", lambda name: installed)
    lepton_edge("tune", shipped_bundle(), "--engine", engine).refused(1, because=because)


def test_a_profile_of_a_newer_version_is_not_replaced(lepton_edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    path = shutil.copytree(shipped_bundle(), tmp_path / "digits.bundle")
    beside, own = profile_paths(Bundle.open(path))
    beside.write_text('{"schema_version": 99}')
    lepton_edge("tune", path, "--precision", "fp32", "--engine", "onnxruntime", "--threads", "1")
    assert beside.read_text() == '{"schema_version": 99}'
    assert own.is_file()


def test_the_busy_process_ends_with_the_one_that_started_it() -> None:
    code = "import os, signal\nfrom lepton_edge.tune import _BusyCore\nbusy = _BusyCore()\nbusy.__enter__()\n"
    code += "print(busy._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    busy = Path("/proc") / done.stdout.strip()
    deadline = time.monotonic() + 30
    while busy.exists() and "Z" not in busy.joinpath("stat").read_text().rpartition(")")[2].split()[0] and time.monotonic() < deadline:
        os.sched_yield()
    assert time.monotonic() < deadline


def tuned(lepton_edge, path: Path):
    return lepton_edge("tune", path, "--precision", "static-int8", "--engine", "onnxruntime", "--threads", "1")


def kept_models(tmp_path: Path) -> list[str]:
    return sorted(str(file.relative_to(tmp_path)) for file in tmp_path.glob("**/*.onnx") if "digits.bundle" not in str(file))


def test_what_loads_faster_is_kept_for_this_user(lepton_edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lepton_edge.optimized_model._WORTH_SECONDS", -1.0)
    path = shutil.copytree(shipped_bundle(), tmp_path / "digits.bundle")
    for _ in range(2):
        outcome = tuned(lepton_edge, path)
        assert "with what onnxruntime makes of the file: kept as" in outcome.err
        (kept,) = kept_models(tmp_path)
        assert kept.startswith("data/lepton-edge/tuned/")
    assert "model.static-int8.onnx on onnxruntime, 1 thread, is opened, as onnxruntime has rewritten" in doctor_of(lepton_edge, path)
    x = np.zeros((1, 28, 28, 1), np.uint8)
    with Session.open(path) as session, Session.open(shipped_bundle(), precision="static-int8") as usual:
        np.testing.assert_array_equal(session.run(x), usual.run(x))
    (tmp_path / kept).unlink()
    assert "this user has not the file that would load faster" in doctor_of(lepton_edge, path)


def doctor_of(lepton_edge, path: Path) -> str:
    return " ".join(lepton_edge("doctor", path).out.split())


def test_what_saves_nothing_is_not_kept(lepton_edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shutil.copytree(shipped_bundle(), tmp_path / "digits.bundle")
    monkeypatch.setattr("lepton_edge.optimized_model._WORTH_SECONDS", -1.0)
    assert tuned(lepton_edge, path).code == 0
    assert len(kept_models(tmp_path)) == 1
    monkeypatch.setattr("lepton_edge.optimized_model._WORTH_SECONDS", 1e6)
    assert "kept as" not in tuned(lepton_edge, path).err
    assert not kept_models(tmp_path)


@pytest.mark.workstation
def test_what_answers_otherwise_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    bundle = Bundle.open(shipped_bundle())
    other = onnx.load_from_string(bundle.read(bundle.artifact("model.static-int8.onnx")))
    scale = next(tensor for tensor in other.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    scale.CopyFrom(onnx.numpy_helper.from_array(1.5 * onnx.numpy_helper.to_array(scale), scale.name))
    monkeypatch.setattr("lepton_edge.optimized_model._WORTH_SECONDS", -1.0)
    candidate = candidate_of(bundle, bundle.artifact("model.static-int8.onnx"), engine="onnxruntime", threads=1, spins=True)
    assert faster_to_load(bundle, candidate) is not None
    monkeypatch.setattr("lepton_edge.optimized_model.optimized_model", lambda *given, **settings: other.SerializeToString())
    assert faster_to_load(bundle, candidate) is None


def test_a_file_that_loads_as_fast_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(shipped_bundle())
    record = bundle.artifact("model.static-int8.onnx")
    candidate = candidate_of(bundle, record, engine="onnxruntime", threads=1, spins=True)
    monkeypatch.setattr("lepton_edge.optimized_model.optimized_model", lambda *given, **settings: bundle.read(record))
    monkeypatch.setattr("lepton_edge.optimized_model.perf_counter", count().__next__)  # every load takes as long
    assert faster_to_load(bundle, candidate) is None


@pytest.mark.parametrize("place", ["lepton_edge.report.file.os.replace", "lepton_edge.optimized_model.optimized_model"])
def test_the_profile_is_kept_where_the_model_cannot_be(lepton_edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    replaced = os.replace

    def fail(*given: object, **settings: object) -> None:
        if place.endswith("optimized_model") or str(given[1]).endswith(".onnx"):
            raise OSError(28, "No space left on device")
        replaced(*given)

    monkeypatch.setattr("lepton_edge.optimized_model._WORTH_SECONDS", -1.0)
    monkeypatch.setattr(place, fail)
    path = shutil.copytree(shipped_bundle(), tmp_path / "digits.bundle")
    outcome = tuned(lepton_edge, path)
    assert outcome.code == 0, outcome.err
    assert "what onnxruntime makes of the file is not kept" in outcome.err
    assert "No space left on device" in outcome.err
    profile = load_profile(Bundle.open(path))
    assert profile is not None
    assert not profile.optimized
    assert not list(tmp_path.glob("data/**/*.*"))
