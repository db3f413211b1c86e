"""``lepton-edge run`` on frame after frame."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lepton_edge.digits import Digits, shipped_bundle

image_module = pytest.importorskip("PIL.Image", reason="images need Pillow, which is not installed")


@pytest.fixture
def folder(digits: Digits, tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(3):
        image_module.fromarray(digits.test_images[number]).save(tmp_path / "in" / f"{number}.png")
    return tmp_path / "in"


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_folder_is_answered_line_by_line(lepton_edge, folder: Path) -> None:
    outcome = lepton_edge("run", shipped_bundle(), "--folder", folder, "--top", 2)
    assert outcome.code == 0
    answers = lines_of(outcome.out)
    assert [(answer["frame"], answer["name"], answer["dropped"]) for answer in answers] == [(n, f"{n}.png", 0) for n in range(3)]
    for number, answer in enumerate(answers):
        alone = json.loads(lepton_edge("run", shipped_bundle(), folder / f"{number}.png", "--top", 2, "--json", "-").out)
        assert answer["top"] == alone["top"]
        assert answer["latency_ms"] > 0
    assert outcome.err.startswith("3 frames, 3 answered, 0 dropped, latency median ")


def test_an_image_that_cannot_be_answered_says_so_and_does_not_hold_up_the_others(lepton_edge, folder: Path) -> None:
    (folder / "1.png").write_bytes(b"no image")
    outcome = lepton_edge("run", shipped_bundle(), "--folder", folder)
    assert outcome.code == 1
    assert ["error" in answer for answer in lines_of(outcome.out)] == [False, True, False]
    assert outcome.err.startswith("3 frames, 2 answered, 1 not readable, 0 dropped")
    assert "error: every image must fit the model, 1 of 3 did not" in outcome.err
    assert lepton_edge("run", shipped_bundle(), "--folder", folder, "--watch", "--count", 3).code == 0  # its line has said so


def test_what_is_no_number_is_null(lepton_edge, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lepton_runtime import Prediction

    monkeypatch.setattr("lepton_runtime.Session.named", lambda session, outputs, count: [[Prediction("7", float("nan"))]])
    answers = lines_of(lepton_edge("run", shipped_bundle(), "--folder", folder).out)
    assert [answer["top"] for answer in answers] == [[{"label": "7", "score": None}]] * 3


def test_it_stops_after_so_many(lepton_edge, folder: Path) -> None:
    outcome = lepton_edge("run", shipped_bundle(), "--folder", folder, "--watch", "--count", 2)
    assert (outcome.code, len(lines_of(outcome.out))) == (0, 2)


@pytest.mark.parametrize("color", ["gray", "keep"])
def test_a_video_is_answered_frame_by_frame(lepton_edge, digits: Digits, digits_bundle, rewrite_manifest, tmp_path: Path, color) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    writer = cv2.VideoWriter(str(tmp_path / "digits.avi"), cv2.VideoWriter_fourcc(*"FFV1"), 30, (28, 28))
    for image in digits.test_images[:4]:
        writer.write(np.repeat(image[:, :, None], 3, axis=2))
    writer.release()
    rewrite_manifest(digits_bundle, lambda values: values["preprocessing"].update(color=color))
    outcome = lepton_edge("run", digits_bundle, "--video", tmp_path / "digits.avi", "--precision", "fp32", "--top", 1)
    if color == "gray":
        assert [int(answer["top"][0]["label"]) for answer in lines_of(outcome.out)] == list(digits.test_labels[:4])
    else:
        assert (outcome.code, outcome.out) == (1, "")
        assert "error: the image array must have 1 channels, found mode 'RGB'; export with --color gray" in outcome.err


@pytest.mark.parametrize(
    ("options", "because"),
    [
        (("--folder", "x", "--text", "y"), "give one of INPUT, --text, --camera, --video and --folder, found --text and --folder"),
        ((), "found none"),
        (("--watch", "--text", "y"), "--watch is for --folder"),
        (("--watch",), "--watch is for --folder"),
        (("--folder", "x", "--json", "-"), "--folder prints one line of JSON a frame by itself; leave --json out"),
        (("--camera", "-1"), "-1 is not in the range"),
        (("--folder", "x", "--timeout", "0"), "0.0 is not in the range"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(lepton_edge, options, because: str) -> None:
    outcome = lepton_edge("run", shipped_bundle(), *options)
    assert outcome.code == 2
    assert because in outcome.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(folder: Path, number: int) -> None:
    command = [sys.executable, "-m", "lepton_edge", "run", str(shipped_bundle()), "--folder", str(folder), "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        os.kill(process.pid, number)
        started = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - started < 30  # emulated, too
    assert process.returncode == 0
    assert len(lines_of("".join(lines) + out)) == 3
    assert err.startswith("3 frames, 3 answered, 0 dropped")


def test_a_reader_that_goes_away_ends_it(folder: Path) -> None:
    command = [sys.executable, "-m", "lepton_edge", "run", str(shipped_bundle()), "--folder", str(folder), "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        digit = image_module.open(folder / "0.png")
        for number in range(100):
            if process.poll() is not None:
                break
            digit.save(folder / f"later{number}.png")
            time.sleep(0.3)
        assert process.wait(60) == 1
        assert "Traceback" not in process.stderr.read()


@pytest.mark.workstation
def test_a_bundle_that_takes_frames_answers_pictures_and_videos(lepton_edge, tmp_path: Path) -> None:
    from lepton_converters.keras_loading import import_keras

    cv2, keras = pytest.importorskip("cv2", reason="needs OpenCV"), import_keras()
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()])
    model.save(tmp_path / "mean.keras")
    frames = ("--input", "uint8", "--pixels", "nv12", "--frame-size", "24x32")
    options = ("--resize", "crop", "--color", "rgb", "--precision", "fp32", *frames)
    assert lepton_edge("export", tmp_path / "mean.keras", "-o", tmp_path / "mean.bundle", *options).code == 0
    told = lepton_edge("inspect", tmp_path / "mean.bundle").out
    assert "frame          nv12 of 24×32 pixels, (36, 32) uint8; the preprocessing is inside of the files" in told
    assert "preprocessing  resize crop, color rgb" in told

    writer = cv2.VideoWriter(str(tmp_path / "video.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 30, (64, 48))
    writer.write(np.full((48, 64, 3), (200, 100, 50), np.uint8))  # BGR
    writer.release()
    outcome = lepton_edge("run", tmp_path / "mean.bundle", "--video", tmp_path / "video.avi")
    assert outcome.code == 0, outcome.err
    image_module.fromarray(np.full((48, 64, 3), (50, 100, 200), np.uint8)).save(tmp_path / "picture.png")
    alone = lepton_edge("run", tmp_path / "mean.bundle", tmp_path / "picture.png", "--json", "-")
    for found in (lines_of(outcome.out)[0]["outputs"], json.loads(alone.out)["outputs"]):
        (answer,) = next(iter(found.values()))
        assert np.abs(np.array(answer) - (50, 100, 200)).max() <= 4  # JPEG and YUV round


def test_a_camera_is_asked_for_the_frames_that_the_models_take(lepton_edge, monkeypatch: pytest.MonkeyPatch) -> None:
    from lepton_edge.cli import stream

    asked: list[object] = []
    monkeypatch.setattr(stream, "Camera", lambda number, size: asked.append((number, size)))
    stream.open_source(2, None, None, watch=False, size=(480, 640))
    assert asked == [(2, (480, 640))]
