"""A slice of the sweep of benchmarks/coverage.py: its cases, its bookkeeping, and a few cells."""

from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

SLICE = (
    "Conv2D: same, stride 2",
    "SeparableConv1D: valid",
    "GRU: sequences",
    "MultiHeadAttention: causal",
    "GroupNormalization: image",
    "Resizing: bilinear",
)


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_on_the_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield


@pytest.fixture(scope="module")
def cases(_benchmarks_on_the_path):
    from coverage_cases.table import all_cases

    return all_cases()


@pytest.fixture
def verified(_benchmarks_on_the_path):
    """A result of each cell."""
    from coverage_cases.result import TARGETS, Result

    return [Result("Dense: row", *target, "verified", relative=1e-7, cosine=1.0, date="2026-01-01") for target in TARGETS]


@pytest.fixture
def job(_benchmarks_on_the_path, tmp_path):
    from coverage_cases.pool import Job
    from coverage_cases.result import TARGETS

    return Job("Dense: row", TARGETS, tmp_path, 60.0)


def test_every_layer_class_has_a_case_or_a_reason_to_have_none(keras, cases) -> None:
    from coverage_cases.table import EXCUSED, layer_classes

    kinds = {case.kind for case in cases.values()}
    classes = set(layer_classes(keras))
    assert classes - kinds - set(EXCUSED) == set()
    assert set(EXCUSED) <= classes - kinds


def test_every_network_has_a_case(keras, cases) -> None:
    networks = {name for name, value in vars(keras.applications).items() if callable(value)}
    assert networks == {case.kind for case in cases.values()} & networks


@pytest.mark.parametrize("name", SLICE)
def test_a_slice_of_the_layers_is_verified_in_every_cell(keras, cases, tmp_path, name: str) -> None:
    from coverage_cases.result import TARGETS
    from coverage_cases.worker import convert

    results = convert(cases[name], TARGETS, tmp_path)
    assert [result.target for result in results] == list(TARGETS)
    assert {result.outcome for result in results} == {"verified"}
    assert all(result.relative < 1e-4 for result in results if result.precision == "fp32")


def test_a_crash_and_a_hang_are_outcomes_and_the_next_job_is_done(job, tmp_path, monkeypatch) -> None:
    from coverage_cases.pool import run

    (tmp_path / "made_serve.py").write_text(
        "import os, signal\n"
        "def serve(connection, log, memory_bytes):\n"
        "    while True:\n"
        "        name, *_ = connection.recv()\n"
        "        if name == 'crash': os.kill(os.getpid(), signal.SIGSEGV)\n"
        "        if name == 'hang': connection.recv()\n"
        "        connection.send((f'done: {name}', name == 'leave'))\n"
        "        if name == 'leave': return\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from made_serve import serve

    limits = {"hang": 0.1}
    jobs = deque(replace(job, case=name, limit_seconds=limits.get(name, 60.0)) for name in ("a", "crash", "b", "hang", "leave", "c"))
    answers = {found.case: answer for found, answer in run(jobs, count=1, log=tmp_path / "log", memory_bytes=2**30, serve=serve)}
    assert answers == {
        "a": "done: a",
        "crash": "crashes: SIGSEGV",
        "b": "done: b",
        "hang": "hangs: not done after 0 s",
        "leave": "done: leave",
        "c": "done: c",
    }


def test_a_case_that_fails_as_a_whole_is_tried_a_format_and_then_a_cell_at_a_time(job) -> None:
    from coverage import settle
    from coverage_cases.result import TARGETS

    jobs = deque([replace(job, case="next")])
    assert settle(job, "crashes: SIGSEGV", jobs, {}) == []
    assert [each.targets for each in jobs] == [TARGETS[:4], TARGETS[4:], TARGETS]
    settle(jobs.popleft(), "crashes: SIGSEGV", jobs, {})
    assert [each.targets for each in jobs] == [*((target,) for target in TARGETS[:4]), TARGETS[4:], TARGETS]
    (result,) = settle(jobs.popleft(), "crashes: SIGSEGV", jobs, {})
    assert (result.outcome, result.reason, result.target) == ("DEFECT", "crashes: SIGSEGV", TARGETS[0])


def test_a_refused_cell_that_converts_without_the_check_is_a_defect(job, verified) -> None:
    from coverage import settle

    barred = replace(verified[0], outcome="barred", reason="too old", fix="buy")
    one = replace(job, targets=(barred.target,))
    jobs = deque()
    assert settle(one, [barred], jobs, {}) == [barred]
    doubted = jobs.popleft()
    assert doubted == replace(one, is_doubted=True)
    results = {job.case: {barred.target: barred}}
    assert settle(doubted, "UnsupportedError: no", jobs, results) == []
    (result,) = settle(doubted, [verified[0]], jobs, results)
    assert (result.outcome, result.reason) == ("DEFECT", "the check bars what converts: too old")


def test_a_sweep_goes_on_where_it_stopped(cases, verified, tmp_path) -> None:
    from coverage import plan
    from coverage_cases.result import TARGETS, append_results, read_results

    file = tmp_path / "results.jsonl"
    append_results(file, verified[:2])
    with file.open("a") as stream:
        stream.write('{"case": "Dense: ro')  # stopped while it wrote
    append_results(file, verified[2:3])
    results = read_results(file)
    assert results == {"Dense: row": {result.target: result for result in verified[:3]}}
    (job,) = plan([cases["Dense: row"]], TARGETS, results, [], tmp_path)
    assert job.targets == TARGETS[3:]
    (job,) = plan([cases["Dense: row"]], TARGETS, results, ["Dense: row"], tmp_path)
    assert job.targets == TARGETS


def test_the_page_has_a_row_a_case_with_its_figures_and_refusals(cases, verified) -> None:
    from coverage_cases.page import write_page

    verified[3] = replace(verified[3], outcome="barred", reason="has no form", fix="use another")
    results = {"Dense: row": {result.target: result for result in verified}}
    page = write_page([cases["Dense: row"]], results, missing=[], smallest_cosine={"layers": 0.9, "networks": 0.9})
    assert "| Dense: row | 1e-07 | 1e-07 | 1e-07 | [1] | 1e-07 | 1e-07 | 1e-07 | 1e-07 |" in page
    assert "| [1] | 1 | has no form | use another |" in page
    assert "| layers | ONNX | static-int8 | 1 | 0 | 1 | 0 | 0.0 % |" in page
    assert "## Defects" not in page


def test_a_case_whose_outputs_are_the_same_for_every_sample_is_refused(keras) -> None:
    from coverage_cases.case import Case, Door

    dead = Case("dead", (Door((4,)),), lambda keras, x: keras.ops.zeros_like(x) + 1)
    with pytest.raises(ValueError, match="must depend on its inputs"):
        dead.model(keras)


def test_networks_take_batch_statistics_that_keep_their_outputs_apart(keras) -> None:
    from coverage_cases.case import Case, Door, pixels

    def network(keras, x):
        for _ in range(12):
            x = keras.layers.ReLU()(keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, padding="same")(x)))
        return keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x))

    model = Case("deep", (Door((16, 16, 3), pixels),), network, settle=8).model(keras)
    variances = [weight for weight in model.weights if weight.path.endswith("moving_variance")]
    assert len(variances) == 12
    assert not any((np.asarray(variance) == 1).all() for variance in variances)
