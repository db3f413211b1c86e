"""What benchmarks/peers.py and its kin take for a result."""

import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.workstation


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_on_the_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield


EXPECTED = np.array([0.1, 0.7, 0.2])


@pytest.mark.parametrize(
    ("found", "limit", "fault"),
    [
        ([EXPECTED, EXPECTED + 1e-6], 0.02, ""),
        ([EXPECTED + 0.2], None, ""),
        ([EXPECTED[:2]], None, "2 numbers for an answer of 3"),
        ([EXPECTED, EXPECTED + 0.07], None, "it answers otherwise in each process, 10 % of the largest answer apart"),
        ([EXPECTED + 0.07], 0.02, "its answer is 10 % of the largest answer off"),
        ([EXPECTED * np.nan], None, "it answers otherwise in each process, nan % of the largest answer apart"),
    ],
)
def test_a_row_whose_answers_are_wrong_is_none(found: list[np.ndarray], limit: float | None, fault: str) -> None:
    from peers import wrong_answer

    assert wrong_answer(found, EXPECTED, limit=limit) == fault


def test_results_of_other_conditions_are_not_continued(tmp_path: Path) -> None:
    from latency_peers.kept import continued, days

    path = tmp_path / "work" / "results.json"
    conditions = {"versions": {"onnxruntime": "1"}, "sets": 6}
    results = continued(path, conditions, ("cells",))
    assert results == {**conditions, "cells": {}}
    path.write_text(json.dumps({**results, "cells": {"a/1": {}}}))
    assert continued(path, conditions, ("cells",))["cells"] == {"a/1": {}}
    with pytest.raises(SystemExit, match="must be of this machine, these versions and settings"):
        continued(path, {**conditions, "versions": {"onnxruntime": "2"}}, ("cells",))
    assert days(["2026-11-26", "2026-11-26"]) == "2026-11-26"
    assert days(["2026-11-27", "2026-11-26"]) == "2026-11-26 to 2026-11-27"
