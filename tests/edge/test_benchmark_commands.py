"""``benchmark``, ``compare`` and ``report`` on the command line."""

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lepton_edge.digits import shipped_bundle
from lepton_edge.latency import verdict
from lepton_edge.latency.settings import LatencySettings
from lepton_edge.report.cell import bar, best_results, remark_lines
from lepton_edge.report.document import load_report
from lepton_edge.report.terminal import write_json
from tests.edge.made import CANDIDATE, made_report, made_result, noise


@pytest.fixture
def keras():
    from lepton_converters.keras_loading import import_keras

    return import_keras()


FAST = ("--runs", 20, "--seconds", 0, "--processes", 1)


def test_benchmark_prints_the_promised_keys(lepton_edge, tmp_path: Path) -> None:
    outcome = lepton_edge("benchmark", shipped_bundle(), *FAST, "--threads", "1,2", "--json", "-")
    document = json.loads(outcome.out)
    assert {"device", "versions", "settings", "results"} <= set(document)
    assert [(result["file"], result["threads"]) for result in document["results"]] == [
        (file, threads) for file in ("model.fp32.onnx", "model.static-int8.onnx") for threads in (1, 2)
    ]
    for result in document["results"]:
        assert {"engine", "precision", "p50_ms", "p90_ms", "p99_ms", "load_ms"} <= set(result)
        assert len(result["samples_ns"]) == 20
        assert all(isinstance(sample, int) for sample in result["samples_ns"])
        assert result["p50_ms"] > 0
        assert result["p90_ms"] is result["p99_ms"] is None  # 20 calls are too few
        assert result["peak_rss_bytes"] > 20e6
    (tmp_path / "result.json").write_text(outcome.out)
    assert len(load_report(tmp_path / "result.json").results) == 4


def test_benchmark_shows_a_plain_table_when_piped(lepton_edge) -> None:
    outcome = lepton_edge("benchmark", shipped_bundle(), *FAST)
    assert outcome.code == 0
    assert outcome.out.count("* ") == 2  # the row, and the note that explains it
    words = " ".join(outcome.out.split())
    assert "– is not known: p90 takes 64 calls, p99 takes 662 calls." in words
    assert "± is within one process" in words
    assert "cannot tell (too few)" in words
    assert "to tell candidates apart takes 6 processes of each" in words
    assert "\033" not in outcome.out + outcome.err
    assert max(map(len, outcome.out.splitlines()[:12])) <= 80


def test_one_artifact_is_named_by_its_path(lepton_edge) -> None:
    for name in ("model.static-int8.onnx", "static-int8.onnx"):
        outcome = lepton_edge("benchmark", shipped_bundle() / name, *FAST, "--json", "-")
        assert [result["file"] for result in json.loads(outcome.out)["results"]] == ["model.static-int8.onnx"]
    lepton_edge("benchmark", shipped_bundle() / "model.fp32.onx").refused(
        1, because=r"has model\.fp32\.onnx, model\.static-int8\.onnx, found no"
    )


def test_two_bundles_are_measured_side_by_side(lepton_edge, digits_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    outcome = lepton_edge("benchmark", shipped_bundle(), digits_bundle, *FAST[:-1], 6, "--precision", "fp32", "--json", path)
    assert outcome.code == 0, outcome.err
    document = json.loads(path.read_text())
    (ratio,) = document["ratios"]
    assert (ratio["base"], ratio["new"], ratio["processes"]) == (0, 1, 6)
    assert ratio["interval"][0] <= ratio["ratio"] <= ratio["interval"][1]
    assert f"B is {digits_bundle}" in outcome.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_service_manager_end_a_sustained_run(tmp_path: Path, number: signal.Signals) -> None:
    # A terminal shows when the measurement is under way.
    leader, follower = pty.openpty()
    path = tmp_path / "result.json"
    command = [
        sys.executable,
        "-m",
        "lepton_edge",
        "benchmark",
        str(shipped_bundle() / "model.fp32.onnx"),
        "--duration",
        "1h",
        "--json",
        path,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, text=True) as process:
        os.close(follower)
        shown = b""
        while b"p50" not in shown:
            shown += os.read(leader, 1000)
        process.send_signal(number)
        process.send_signal(number)  # the impatient must lose nothing
        out = process.stdout.read()
        shown += os.read(leader, 10000)
    os.close(leader)
    assert process.returncode == 130
    assert "\u2501".encode() in shown or "\u2500".encode() in shown  # the line of progress
    assert "fp32.onnx" in out
    report = load_report(path)
    assert report.is_partial
    assert report.results[0].calls > 100


def test_ctrl_c_before_the_first_sample_leaves_what_was_there(lepton_edge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lepton_edge.latency.measure._Run._warm_up", interrupt)
    (tmp_path / "result.json").write_text("mine")
    lepton_edge("benchmark", shipped_bundle(), "--json", tmp_path / "result.json").refused(1, because="exists; add --force")
    outcome = lepton_edge("benchmark", shipped_bundle(), "--json", tmp_path / "result.json", "--force")
    assert outcome.code == 130
    assert outcome.err == "interrupted before anything was measured: nothing was written\n"
    assert (tmp_path / "result.json").read_text() == "mine"


def test_operators_are_named_and_what_is_not_known_is_said(lepton_edge) -> None:
    outcome = lepton_edge("benchmark", shipped_bundle() / "model.fp32.onnx", *FAST, "--profile")
    assert outcome.code == 0
    assert "the profiler itself adds 1 to 2" in outcome.out
    assert "Conv" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        (("--threads", "²"), None),
        (("--fps", "inf"), "fps must be from 0.001 to 1,000,000, found inf"),
        (("--seconds", "nan"), "seconds must be from 0 to 1,000,000, found nan"),
        (("--duration", "1m", "--processes", "2"), "a sustained run is one process"),
        (("--duration", "1m", "--interval", "1%"), "a sustained run is one process"),
        (("--scenario", "fixed-rate"), "a rate of frames belongs to the scenario fixed-rate"),
        (("--duration", "30"), "such as 30m, found '30'"),
    ],
)
def test_settings_that_make_no_sense(lepton_edge, arguments, because: str | None) -> None:
    outcome = lepton_edge("benchmark", shipped_bundle(), *arguments)
    if because is None:
        assert outcome.code == 2
    else:
        outcome.refused(1, because=because)


@pytest.mark.parametrize(
    ("late", "dropped", "words"), [(0, 0, "holds the rate:"), (3, 0, "with late frames:"), (9, 5, "does not hold the rate:")]
)
def test_whether_the_rate_is_held_is_said(late: int, dropped: int, words: str) -> None:
    result = made_result(processes=1, blocks=1, late=late, dropped=dropped)
    (line,) = remark_lines(result)
    assert words in line
    assert line.endswith(f"{60 + dropped} frames arrived, {late} late, {dropped} dropped")


def test_throughput_is_swept_over_batches_that_are_free(lepton_edge, tmp_path: Path, keras) -> None:
    from lepton_converters import export

    model = keras.Sequential([keras.Input((4,), name="row"), keras.layers.Dense(2)])
    path = export(model, tmp_path / "free.bundle", formats=["onnx"], precisions=["fp32"], batch=None).path
    outcome = lepton_edge("benchmark", path, *FAST, "--scenario", "offline", "--batch", "1,8", "--json", "-")
    one, eight = json.loads(outcome.out)["results"]
    assert (one["batch"], eight["batch"]) == (1, 8)
    assert eight["per_second"] > one["per_second"]  # a call costs next to nothing more for eight rows of four numbers
    outcome = lepton_edge("benchmark", shipped_bundle() / "model.fp32.onnx", *FAST, "--scenario", "offline", "--json", "-")
    assert [result["batch"] for result in json.loads(outcome.out)["results"]] == [1]
    assert "its batch is fixed at 1; export with --batch dynamic" in outcome.err
    lepton_edge("benchmark", shipped_bundle(), "--batch", "2").refused(1, because="--batch is for --scenario offline, found single-stream")


def test_frames_a_second_choose_the_scenario(lepton_edge) -> None:
    arguments = ("--fps", 50, "--runs", 10, "--seconds", 0.1, "--processes", 1)
    outcome = lepton_edge("benchmark", shipped_bundle() / "model.fp32.onnx", *arguments)
    assert outcome.code == 0, outcome.err
    assert "the rate" in outcome.out
    assert "50 frames arrived" in outcome.out


def test_zero_runs_are_wrong_usage(lepton_edge) -> None:
    outcome = lepton_edge("benchmark", shipped_bundle(), "--runs", 0)
    assert outcome.code == 2
    assert "0 is not in the range x>=1" in outcome.err


def test_more_threads_than_cores_are_warned_about(lepton_edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lepton_runtime.cpu.usable_cores", lambda: 1)
    outcome = lepton_edge("benchmark", shipped_bundle() / "model.fp32.onnx", *FAST, "--threads", 2)
    assert outcome.code == 0
    assert "warning: 2 threads share 1 core" in outcome.err


def test_a_result_that_is_not_stable_is_exit_5_if_asked(lepton_edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "_OTHER_LOAD", -99.0)
    monkeypatch.setattr(verdict, "_FEWEST_LOAD_NS", -(10**18))
    arguments = ("benchmark", shipped_bundle() / "model.fp32.onnx", *FAST)
    assert lepton_edge(*arguments).code == 0
    outcome = lepton_edge(*arguments, "--strict")
    assert outcome.code == 5
    assert "error: every result must be stable, 1 of 1 are not: model.fp32.onnx is not stable: other load took" in outcome.err


def test_ctrl_c_saves_what_was_measured_and_marks_it(lepton_edge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(line: object, done: float, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["lepton_edge.cli.progress"].ProgressLine, "__call__", interrupt)
    path = tmp_path / "result.json"
    outcome = lepton_edge("benchmark", shipped_bundle() / "model.fp32.onnx", "--duration", "1h", "--json", path)
    assert outcome.code == 130
    assert "interrupted: what was measured is kept and marked partial" in outcome.err
    assert "fp32.onnx" in outcome.out
    assert load_report(path).is_partial


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Saves a made report under a name."""

    def write(name: str, *results, **changes) -> Path:
        write_json(made_report(*results, **changes).to_dict(), str(tmp_path / name))
        return tmp_path / name

    return write


def at(factor: float):
    """A result of calls that take that many times as long."""
    return made_result(samples=lambda process, block: noise(120, median_ms=2 * factor, seed=10 * process + block))


def test_compare_fails_only_if_it_is_surely_slower(lepton_edge, save) -> None:
    base, slower = save("base.json", at(1)), save("slower.json", at(1.08))
    outcome = lepton_edge("compare", base, slower, "--fail-if-slower", "5%")
    assert outcome.code == 4
    assert outcome.err == "error: no artifact must be slower than 5%, these surely are: model.fp32.onnx (+8.0 %)\n"
    assert "slower" in outcome.out
    assert lepton_edge("compare", base, slower, "--fail-if-slower", "10%").code == 0
    assert lepton_edge("compare", slower, base, "--fail-if-slower", "5%").code == 0
    undecided = lepton_edge("compare", base, save("same.json", at(1.0)), "--fail-if-slower", "5%")
    assert undecided.code == 0
    assert "warning: --fail-if-slower 5% decided nothing about model.fp32.onnx: it cannot be told" in undecided.err
    document = json.loads(lepton_edge("compare", base, slower, "--json", "-").out)
    assert [change["verdict"] for change in document["changes"]] == ["slower"]


def test_the_best_at_a_fixed_rate_holds_it(save) -> None:
    fast, slow = made_result(late=9, dropped=9), at(2)
    slow = replace(slow, blocks=tuple(replace(block, late=0, dropped=0) for block in slow.blocks))
    report = made_report(fast, slow, settings=LatencySettings(scenario="fixed-rate", fps=30.0, seconds=0.5))
    assert best_results(report) == [1]
    assert best_results(replace(report, results=(fast, fast))) == []
    assert best_results(replace(report, results=(slow,))) == []


def test_compare_refuses_what_it_cannot_compare(lepton_edge, save, tmp_path: Path) -> None:
    base = save("base.json")
    other = save("other.json", made_result(candidate=replace(CANDIDATE, source_sha256="2" * 64)))
    lepton_edge("compare", base, other).refused(1, because="both results must be of one model")
    lepton_edge("compare", base, tmp_path / "nothing.json").refused(1, because="cannot be read: No such file")
    lepton_edge("compare", base, base, "--fail-if-slower", "5").refused(1, because="a share is in percent such as 5%, found '5'")


def test_a_report_is_markdown_or_csv(lepton_edge, save, tmp_path: Path) -> None:
    first, second = save("a.json"), save("b.json", at(1.5), notes=("vcgencmd slept",))
    assert lepton_edge("report", first, second, "-o", tmp_path / "r.md").code == 0
    text = (tmp_path / "r.md").read_text()
    assert text.count("| artifact | p50 ms |") == 2
    assert "| fp32.onnx | 3.0" in text
    assert "- vcgencmd slept" in text
    assert "Repeat it: `lepton-edge benchmark cats.bundle`" in text
    assert lepton_edge("report", first, second, "-o", tmp_path / "r.csv").code == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert [row["file"] for row in rows] == ["model.fp32.onnx"] * 2
    assert float(rows[0]["p50_ms"]) == load_report(first).results[0].p50_ms
    assert rows[0]["p99_9_ms"] == ""  # 1,440 calls do not know it
    assert {row["is_stable"] for row in rows} == {"True"}


def test_a_report_that_cannot_be_made_is_refused_in_one_line(lepton_edge, save, tmp_path: Path) -> None:
    result = save("a.json")
    lepton_edge("report", result, "-o", tmp_path / "r.htm").refused(1, because=r"ends in \.html, \.md, \.csv, .* did you mean '\.html'")
    (tmp_path / "r.md").write_text("mine")
    lepton_edge("report", result, "-o", tmp_path / "r.md").refused(1, because="exists; add --force")
    lepton_edge("report", result, "-o", tmp_path / "no/r.md").refused(1, because="its folder is missing or closed")
    result.write_text(result.read_text()[:500])
    lepton_edge("report", result, "-o", tmp_path / "r.md", "--force").refused(1, because="is not or was cut short")
    assert (tmp_path / "r.md").read_text() == "mine"


def test_bars_are_plain_where_blocks_cannot_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert bar(0.5) == "####"
