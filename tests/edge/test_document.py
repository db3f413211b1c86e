"""The document that measurements are kept in: what was written is read back, and what was changed is noticed."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lepton_edge.latency.settings import LatencySettings, parse_duration
from lepton_edge.report.document import load_report
from lepton_edge.report.terminal import write_json
from lepton_runtime import InputError
from lepton_runtime.engines import OperatorTime
from tests.edge.made import CANDIDATE, made_report, made_result


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    result = replace(made_result(), operators=(OperatorTime("conv", "Conv", 1000),))
    write_json(made_report(result, made_result(candidate=replace(CANDIDATE, threads=2))).to_dict(), str(tmp_path / "result.json"))
    return tmp_path / "result.json"


def test_what_was_written_is_read_back(saved: Path) -> None:
    report = load_report(saved)
    assert json.loads(json.dumps(report.to_dict())) == json.loads(saved.read_text())
    assert report.results[0].candidate == CANDIDATE
    assert report.results[0].samples_ns == made_result().samples_ns
    assert [pair.ratio.verdict for pair in report.ratios] == ["cannot tell"]


def test_a_file_of_numbers_is_small(saved: Path) -> None:
    assert len(saved.read_text().splitlines()) < 2500  # samples take one line a result, not one line each


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file(saved: Path, share: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"must be a whole JSON document, it is not or was cut short.*; measure again"):
        load_report(saved)


def edit(saved: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    values = json.loads(saved.read_text())
    change(values)
    saved.write_text(json.dumps(values))
    return saved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(schema_version=2), r"reads results of schema 1, .* has 2; update"),
        (lambda values: values.update(schema="cats"), "it is another document"),
        (lambda values: values.pop("device"), "the report must have 'device', it is missing"),
        (lambda values: values.update(mood="good"), "found 'mood'"),
        (lambda values: values["device"].update(cores="four"), r"the report\.device\.cores must be int, found 'four'"),
        (lambda values: values["results"][0]["samples_ns"].pop(), "must have the samples that its blocks tell of, found 1439 samples"),
        (lambda values: values["results"][0]["samples_ns"].__setitem__(3, -5), "must have the samples that its blocks tell of"),
        (lambda values: values["results"][0]["samples_ns"].__setitem__(3, 2.5), "must be a list of whole numbers"),
        (lambda values: values["results"][0]["samples_ns"].__setitem__(3, 1), r"results\[0\]\.blocks\[0\] must fit its samples"),
        (lambda values: values["results"][0].update(p50_ms=1.0), r"results\[0\]\.p50_ms must follow from the samples \(2.*\), found 1\.0"),
        (lambda values: values["results"][1].update(mad_ms=1), r"results\[1\]\.mad_ms must follow from the samples"),
        (lambda values: values.update(results=[], ratios=[]), "must hold at least one measured artifact, it holds none"),
        (lambda values: values["results"][0].update(accuracy=float("nan")), "NaN is no number of JSON"),
        (lambda values: values["results"][0].update(accuracy=75.0), "must have a candidate that can be"),
        (lambda values: values["results"][0].update(threads=0), "must have a candidate that can be"),
        (lambda values: values["results"][0].update(size_bytes=10**400), "must be a finite number of 64 bits"),
        (lambda values: values["results"][0]["samples_ns"].__setitem__(3, 10**400), "a list of whole numbers of 64 bits"),
        (lambda values: values["results"][0]["processes"][0].update(idle_ns=0), "times and memory of 0 or more"),
        (lambda values: values["results"][0]["processes"][0].update(load_ns=-1), "times and memory of 0 or more, found -1"),
        (lambda values: values["settings"].update(seconds=1e9), "seconds must be from 0 to 1,000,000, found 1e"),
        (lambda values: values["ratios"][0].update(verdict="faster"), "ratios must follow from the samples"),
        (lambda values: values["settings"].update(runs=5000), r"must hold what the settings ask for, found 1440 calls"),
        (lambda values: values["settings"].update(runs=0), "runs must be more than 0, found 0"),
        (lambda values: values["settings"].update(processes=7), "must hold what the settings ask for"),
        (
            lambda values: values["settings"].update(scenario="server"),
            "must be 'single-stream' or 'offline' or 'fixed-rate'",
        ),
        (lambda values: values["results"][0]["processes"].pop(), "must have blocks of each of its 5 processes"),
        (lambda values: values["results"][0]["blocks"][0]["state"].update(clocks_mhz=[0, "fast"]), r"clocks_mhz\[1\] must be float"),
        (lambda values: values["results"][0]["blocks"][0].update(late=0, dropped=0), "must count frames at a fixed rate and nowhere else"),
    ],
)
def test_what_was_edited_is_noticed(saved: Path, change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_report(edit(saved, change))


def test_what_another_version_judged_otherwise_is_judged_anew(saved: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["results"][0].update(verdict={"is_stable": False, "reasons": ["of old"]}, p50_interval_ms=None)
        values["results"][0]["blocks"][0]["state"].update(clocks_mhz=[None, 0])

    report = load_report(edit(saved, change))
    assert report.results[0].interval_ms is not None
    assert report.to_dict()["results"][0]["verdict"] == {"is_stable": True, "reasons": []}


def test_a_partial_result_may_hold_less_than_the_settings_ask_for(saved: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["settings"].update(runs=5000)
        values.update(is_partial=True)

    assert load_report(edit(saved, change)).is_partial


@pytest.mark.parametrize("name", ["nothing.json", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="a result of `lepton-edge benchmark --json` is needed"):
        load_report(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": 0}, "runs must be more than 0, found 0"),
        ({"processes": -1}, "processes must be more than 0"),
        ({"scenario": "fixed-rate"}, "a rate of frames belongs to the scenario fixed-rate"),
        ({"fps": 30.0}, "a rate of frames belongs to the scenario fixed-rate"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LatencySettings(**changes)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("0.5h", 1800)])
def test_durations_have_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    for wrong in ("30", "0m", "m", "-3s"):
        with pytest.raises(InputError, match="such as 30m"):
            parse_duration(wrong)


def test_every_key_of_the_document_is_described(saved: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmark-results.md").read_text(encoding="utf-8")

    def keys(value: Any, skipped: tuple[str, ...] = ("versions",)) -> set[str]:
        if isinstance(value, dict):
            return {key for name in value if name not in skipped for key in ({name} | keys(value[name]))}
        return {key for entry in value for key in keys(entry)} if isinstance(value, list) else set()

    described = set(re.findall(r"`([a-z0-9_]+)`", page))
    assert keys(json.loads(saved.read_text())) <= described
    assert {"bytes_per_hour", "doubt", "arrived", "late", "dropped"} <= described
