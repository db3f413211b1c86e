"""A road-scene classifier at a fixed frame rate: what is on the road ahead? Depthwise-separable convolutions, 30 frames a second.

Data: generated, no real scenes being at hand. A seeded generator draws a road into the distance, with bends, markings, trees,
poles, people beside it and parked cars, by day, at night and in fog; on the road is a vehicle, a person, a barrier, or nothing.

    pip install ".[convert]"
    python examples/road_scene.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import keras
import numpy as np
import reference
from keras import layers
from PIL import Image, ImageDraw, ImageFilter

from lepton_converters import export
from lepton_edge.report.document import load_report
from lepton_runtime import Session

SEED = 7
EPOCHS = 10
FPS, SECONDS = 30, 20
HEIGHT, WIDTH = 48, 96
LEARNED, HELD_OUT = 5000, 1000
CLASSES = ("barrier", "clear", "person", "vehicle")
ABOUT = reference.About(
    "road_scene",
    "a road scene at 30 frames a second: barrier, person, vehicle, or a clear road",
    "generated: drawn scenes with bends, weather, night and things beside the road",
    "depthwise-separable CNN with BatchNorm",
)
Color = tuple[int, int, int]


def draw_thing(draw: ImageDraw.ImageDraw, kind: str, x: float, y: float, size: float, dice: np.random.Generator) -> None:
    """A vehicle, person, barrier, pole or tree that stands at ``(x, y)``, ``size`` pixels wide as a lane is there."""

    def box(left: float, top: float, right: float, bottom: float, color: Color) -> None:
        draw.rectangle((x + left * size, y - top * size, x + max(right, left) * size, y - min(bottom, top) * size), fill=color)

    paint: Color = tuple(dice.integers(20, 235, 3).tolist())
    if kind == "vehicle":
        tall = dice.uniform(0.45, 0.85)
        box(-0.35, tall, 0.35, 0.06, paint)
        box(-0.28, tall - 0.06, 0.28, 0.6 * tall, (40, 50, 60))
        box(-0.33, 0.09, -0.2, 0, (15, 15, 15))
        box(0.2, 0.09, 0.33, 0, (15, 15, 15))
        for side in (-0.33, 0.24):
            box(side, 0.4 * tall, side + 0.09, 0.3 * tall, (230, 30, 30))
    elif kind == "person":
        tall, stride = dice.uniform(0.75, 0.95), dice.uniform(0.03, 0.12)
        box(-0.1, tall - 0.14, 0.1, 0.36, paint)
        for side in (-1, 1):
            box(side * stride - 0.04, 0.36, side * stride + 0.04, 0, (35, 35, 70))
        draw.ellipse((x - 0.08 * size, y - tall * size, x + 0.08 * size, y - (tall - 0.16) * size), fill=(200, 160, 130))
    elif kind == "barrier":
        tall = dice.uniform(0.25, 0.4)
        for part in range(8):
            box(-0.4 + 0.1 * part, tall, -0.3 + 0.1 * part, tall - 0.14, (215, 40, 30) if part % 2 else (235, 235, 235))
        box(-0.35, tall - 0.14, -0.3, 0, (90, 90, 90))
        box(0.3, tall - 0.14, 0.35, 0, (90, 90, 90))
    elif kind == "pole":
        box(-0.02, dice.uniform(0.7, 1.6), 0.02, 0, (80, 80, 85))
    else:
        box(-0.04, 0.5, 0.04, 0, (70, 50, 35))
        green: Color = tuple((dice.uniform(0.6, 1.2) * np.array([50, 90, 40])).astype(int).tolist())
        draw.ellipse((x - 0.3 * size, y - 1.2 * size, x + 0.3 * size, y - 0.4 * size), fill=green)


def draw_scene(kind: str, dice: np.random.Generator) -> np.ndarray:
    """One frame ``(48, 96, 3)`` uint8 with that thing on the road."""
    height, width = 2 * HEIGHT, 2 * WIDTH  # twice as large, then halved: soft edges
    horizon, bend = dice.uniform(0.3, 0.45) * height, dice.normal(0, 0.25) * width
    sky: Color = tuple(dice.integers((90, 120, 150), (190, 210, 250)).tolist())
    ground: Color = tuple(dice.integers((60, 70, 40), (120, 125, 90)).tolist())
    gray = int(dice.integers(70, 120))
    image = Image.new("RGB", (width, height), sky)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, horizon, width, height), fill=ground)

    def place(depth: float, lane: float) -> tuple[float, float, float]:
        """Where the middle of a lane is, 0 (horizon) to 1 (near), and how wide it is there."""
        return width / 2 + bend * (1 - depth) ** 2 + 0.55 * width * lane * depth, horizon + depth * (height - horizon), 0.55 * width * depth

    depths = np.linspace(0.02, 1.1, 14)
    left, right = ([place(depth, side)[:2] for depth in depths] for side in (-1.1, 1.1))
    draw.polygon([*left, *right[::-1]], fill=(gray, gray, gray + 4))
    for near, far in zip(depths[::2], depths[1::2], strict=True):
        draw.line([place(near, 0)[:2], place(far, 0)[:2]], fill=(225, 225, 215), width=1 + int(5 * far**2))
    beside = [(dice.uniform(0.1, 0.8), dice.choice([-1, 1]) * dice.uniform(1.5, 2.6)) for _ in range(dice.integers(2, 7))]
    things = [(depth, lane, str(dice.choice(["tree", "pole", "person", "vehicle"]))) for depth, lane in beside]
    if kind != "clear":
        things.append((dice.uniform(0.25, 0.85), dice.choice([-0.5, 0.5]) + dice.uniform(-0.2, 0.2), kind))
    for depth, lane, thing in sorted(things):
        draw_thing(draw, thing, *place(depth, lane), dice)

    frame = np.asarray(image.filter(ImageFilter.GaussianBlur(dice.uniform(0, 1.6))).reduce(2), np.float32)
    fog = dice.uniform(0, 0.6) * np.clip(1.3 - np.abs(np.arange(HEIGHT) - horizon / 2) / 20, 0, 1)[:, None, None]
    frame = (frame * (1 - fog) + 190 * fog) * dice.choice([1.0, dice.uniform(0.3, 0.7)])
    return np.clip(frame + dice.normal(0, dice.uniform(2, 9), frame.shape), 0, 255).astype(np.uint8)


def load_data(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames ``(count, 48, 96, 3)`` uint8 and the numbers of their classes."""
    dice = np.random.default_rng(seed)
    labels = dice.integers(0, len(CLASSES), count)
    return np.stack([draw_scene(CLASSES[label], dice) for label in labels]), labels


def build_model() -> keras.Model:
    """The four classes' scores from frames ``(batch, 48, 96, 3)`` in 0–255."""

    def block(x: keras.KerasTensor, filters: int, stride: int) -> keras.KerasTensor:
        x = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x)
        x = layers.ReLU(6)(layers.BatchNormalization()(x))
        x = layers.Conv2D(filters, 1, use_bias=False)(x)
        return layers.ReLU(6)(layers.BatchNormalization()(x))

    inputs = keras.Input((HEIGHT, WIDTH, 3), name="frame")
    x = layers.RandomFlip("horizontal")(layers.Rescaling(1 / 127.5, -1)(inputs))
    x = layers.Conv2D(16, 3, 2, padding="same", use_bias=False)(x)
    x = layers.ReLU(6)(layers.BatchNormalization()(x))
    for filters, stride in ((32, 1), (48, 2), (64, 1), (96, 2), (96, 1)):
        x = block(x, filters, stride)
    # The object may be anywhere: what is most striking counts, beside the average.
    x = layers.concatenate([layers.GlobalMaxPooling2D()(x), layers.GlobalAveragePooling2D()(x)])
    x = layers.Dropout(0.2)(x)
    return keras.Model(inputs, layers.Dense(len(CLASSES), activation="softmax", name="scores")(x), name="road_scene")


def count_frames(bundle: Path, work: Path, seconds: int) -> dict[str, dict[str, Any]]:
    """What ``lepton-edge benchmark --fps`` says of the 8-bit artifacts: frames that arrived, were late, were dropped, and its verdict."""
    report = work / "road_scene.clock.json"
    command = [
        "benchmark",
        str(bundle),
        "--precision",
        "static-int8",
        "--fps",
        str(FPS),
        "--duration",
        f"{seconds}s",
        "--json",
        str(report),
        "--force",
    ]
    subprocess.run([sys.executable, "-m", "lepton_edge", *command], check=True)
    measured = load_report(report)
    frames = {}
    for result, verdict in zip(measured.results, measured.verdicts, strict=True):
        counts = dict(zip(("arrived", "late", "dropped"), result.frames or (), strict=True))
        frames[result.candidate.file.removeprefix("model.")] = {**counts, "verdict": str(verdict)}
    return frames


def main(work: Path, epochs: int, seconds_of_frames: int) -> None:
    """Train, export, verify, and answer as a device would."""
    keras.utils.set_random_seed(SEED)
    frames, labels = load_data(LEARNED, SEED)
    test_frames, test_labels = load_data(HELD_OUT, SEED + 1)
    model = build_model()
    rate = keras.optimizers.schedules.CosineDecay(4e-3, epochs * -(-len(frames) // 64))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    started = monotonic()
    model.fit(frames.astype(np.float32), labels, batch_size=64, epochs=epochs, verbose=2)
    seconds = monotonic() - started

    model.save(work / "road_scene.keras")
    np.savez(work / "road_scene.calib.npz", x=frames)
    np.savez(work / "road_scene.test.npz", x=test_frames, y=test_labels)
    exported = export(
        work / "road_scene.keras",
        work / "road_scene.bundle",
        precisions=["fp32", "static-int8"],
        calib=work / "road_scene.calib.npz",
        evaluate=work / "road_scene.test.npz",
        labels=CLASSES,
        force=True,
    )
    metrics = reference.accuracy_and_recalls(test_labels, CLASSES)
    scores = reference.measure(model, exported.path, {"frame": test_frames.astype(np.float32)}, metrics)
    on_clock = count_frames(exported.path, work, seconds_of_frames)
    reference.write_result(
        work, ABOUT, model, exported, scores, epochs=epochs, train_seconds=seconds, samples=len(test_labels), frames=on_clock
    )

    # On the device: nothing but lepton_runtime and the bundle. A camera's frames are RGB, 0 to 255, as they come.
    with Session.open(exported.path, precision="static-int8") as session:
        for frame in test_frames[:FPS]:
            best = session.predict(frame)[0]
            if best.label != "clear" and best.score > 0.9:
                print(f"brake: {best.label} ({best.score:.2f})")
                break


if __name__ == "__main__":
    arguments = reference.parse_arguments(__doc__, epochs=EPOCHS)
    main(arguments.work, arguments.epochs, seconds_of_frames=SECONDS)
