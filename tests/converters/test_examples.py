from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import reference
import run_all

ARTIFACTS = ["Keras", "fp32.onnx", "static-int8.onnx", "fp32.tflite", "static-int8.tflite"]
SCRIPTS = {path.stem for path in Path(run_all.__file__).parent.glob("*.py")} - {"reference", "run_all"}


@pytest.fixture
def result() -> reference.Result:
    scores = {"Keras": 0.9, "fp32.onnx": 0.9, "static-int8.onnx": 0.895, "fp32.tflite": 0.9, "static-int8.tflite": 0.88}
    return reference.Result(
        about=reference.About("lstm", "an application", "real: something", "a network"),
        script=reference.digest_script(Path(run_all.__file__).with_name("lstm.py")),
        created="2026-01-02",
        parameters=1234,
        epochs=3,
        train_seconds=4.5,
        samples=100,
        scores={name: {"accuracy": value, "recall x": value / 2} for name, value in scores.items()},
        frames={"static-int8.onnx": {"arrived": 600, "late": 1, "dropped": 0, "verdict": "stable"}},
        machine="a machine",
        versions={"numpy": "2.4.6"},
    )


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    generator = np.random.default_rng(0)
    labels, scores = generator.random(200) < 0.3, generator.integers(0, 20, 200) / 20
    above, below = scores[labels][:, None], scores[~labels][None]
    wanted = ((above > below) + 0.5 * (above == below)).mean()
    assert reference.area_under_curve(labels, scores) == pytest.approx(wanted, abs=1e-12)


def test_recalls_are_of_each_class() -> None:
    scores = np.eye(3)[[0, 0, 1, 2, 2]]
    found = reference.accuracy_and_recalls(np.array([0, 1, 1, 2, 0]), ["a", "b", "c"])(scores)
    assert found == {"accuracy": 0.6, "recall a": 0.5, "recall b": 0.5, "recall c": 1.0}


def test_films_with_equal_scores_share_their_places(keras) -> None:
    recommender = import_module("recommender")
    one_of_twenty_best = np.zeros((1, recommender.CANDIDATES))
    one_of_twenty_best[0, :20] = 1
    third = np.zeros((1, recommender.CANDIDATES))
    third[0, :3] = 1, 2, 2
    assert recommender.metrics(one_of_twenty_best.reshape(-1, 1))["hit rate@10"] == pytest.approx(0.5)
    assert recommender.metrics(third.reshape(-1, 1)) == {"hit rate@10": 1.0, "NDCG@10": pytest.approx(0.5)}


def test_credit_scoring_keeps_to_its_metric_on_every_artifact(keras, tmp_path: Path) -> None:
    import_module("credit_scoring").main(tmp_path, epochs=4)
    result = reference.Result.load(tmp_path / "credit_scoring.json")
    assert list(result.scores) == ARTIFACTS
    assert result.faults == []
    assert result.scores["Keras"]["AUC"] > 0.75  # the figure after 12 epochs is in docs/examples.md


def test_a_road_scene_runs_on_a_clock(keras, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    road_scene = import_module("road_scene")
    monkeypatch.setattr(road_scene, "LEARNED", 192)
    monkeypatch.setattr(road_scene, "HELD_OUT", 64)
    road_scene.main(tmp_path, epochs=1, seconds_of_frames=1)
    result = reference.Result.load(tmp_path / "road_scene.json")
    # Hardly trained: 8 bits may answer otherwise, 32 bits must not.
    assert result.drop_pp("fp32.onnx") == result.drop_pp("fp32.tflite") == 0
    assert {frames["arrived"] for frames in result.frames.values()} == {30}


def test_what_loses_too_much_is_a_fault(result: reference.Result) -> None:
    assert result.faults == ["static-int8.tflite loses 2.00pp of accuracy"]


def test_a_result_comes_back_from_its_file_until_the_script_changes(result: reference.Result, tmp_path: Path) -> None:
    result.save(tmp_path / "lstm.json")
    assert run_all.load_result("lstm", tmp_path) == result
    replace(result, script="another").save(tmp_path / "lstm.json")
    assert run_all.load_result("lstm", tmp_path) is None


def test_the_page_says_what_was_found(result: reference.Result, tmp_path: Path) -> None:
    run_all.write_page([result], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| lstm | accuracy | 100 | 90.00 % | 90.00 % (+0.00) | 89.50 % (-0.50) | 90.00 % (+0.00) | 88.00 % (-2.00) |" in page
    assert "| recall x | 45.00 % | 45.00 % | 44.75 % | 45.00 % | 44.00 % |" in page
    assert "| static-int8.onnx | 600 | 1 | 0 | stable |" in page


def test_the_page_in_docs_has_every_example() -> None:
    assert set(run_all.NAMES) == SCRIPTS
    page = run_all.PAGE.read_text(encoding="utf-8")
    assert {name for name in SCRIPTS if f"| [{name}](../examples/{name}.py) |" in page} == SCRIPTS
