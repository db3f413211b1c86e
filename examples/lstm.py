"""An LSTM: which exercise is a shoulder patient doing? Two seconds of a smartwatch's acceleration and rotation.

Data: real. 140 recordings of ten people who did seven physiotherapy exercises with a watch on (Burns et al. 2018, "Shoulder
physiotherapy exercise recognition: machine learning the inertial signals from a smartwatch"), which the PyPI package seglearn
ships (BSD). The recordings of three people are held out.

    pip install ".[convert,examples]"
    python examples/lstm.py
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import keras
import numpy as np
import reference
from keras import layers

from lepton_converters import export
from lepton_runtime import Session

SEED = 9
EPOCHS = 14
STEPS = 50  # 25 a second
HELD_OUT = (3, 6, 9)
CLASSES = ("pendulum", "abduction", "forward elevation", "internal rotation", "external rotation", "trapezius", "row")
ABOUT = reference.About(
    "lstm",
    "an LSTM: physiotherapy exercises from a smartwatch",
    "real: 140 recordings of ten people that seglearn ships",
    "Normalization, LSTM of 32 units",
)


def load_data() -> list[tuple[np.ndarray, np.ndarray]]:
    """Windows ``(n, 50, 6)`` float32, in g and radians a second, and their exercises: of people to learn from, and held out."""
    # A NumPy file with a dictionary in it is a pickle; this one came with a package that is trusted as code, too.
    watch = np.load(reference.find_file("seglearn", "data/watch_dataset.npy"), allow_pickle=True).item()
    splits: list[tuple[list[np.ndarray], list[int]]] = [([], []), ([], [])]
    for recording, exercise, person in zip(watch["X"], watch["y"], watch["subject"], strict=True):
        windows, labels = splits[person in HELD_OUT]
        halved = recording[: len(recording) // 2 * 2].reshape(-1, 2, 6).mean(axis=1).astype(np.float32)  # 50 a second to 25
        for start in range(0, len(halved) - STEPS + 1, STEPS // 2):
            windows.append(halved[start : start + STEPS])
            labels.append(int(exercise))
    return [(np.stack(windows), np.array(labels)) for windows, labels in splits]


def build_model(windows: np.ndarray) -> keras.Model:
    """The seven exercises' scores; the first layer learns each channel's mean and variance from ``windows``."""
    inputs = keras.Input((STEPS, 6), name="movement")
    normalization = layers.Normalization()
    normalization.adapt(windows)
    x = layers.Dropout(0.4)(layers.LSTM(32)(normalization(inputs)))
    return keras.Model(inputs, layers.Dense(len(CLASSES), activation="softmax", name="scores")(x), name="lstm")


def main(work: Path, epochs: int) -> None:
    """Train, export, verify, and answer as a device would."""
    keras.utils.set_random_seed(SEED)
    (windows, labels), (test_windows, test_labels) = load_data()
    model = build_model(windows)
    model.compile(keras.optimizers.Adam(4e-3, clipnorm=1.0), "sparse_categorical_crossentropy", metrics=["accuracy"])
    started = monotonic()
    model.fit(windows, labels, batch_size=64, epochs=epochs, verbose=2)
    seconds = monotonic() - started

    model.save(work / "lstm.keras")
    np.savez(work / "lstm.test.npz", x=test_windows, y=test_labels)
    exported = export(
        work / "lstm.keras",
        work / "lstm.bundle",
        precisions=["fp32", "dynamic-int8"],
        evaluate=work / "lstm.test.npz",
        labels=CLASSES,
        force=True,
    )
    metrics = reference.accuracy_and_recalls(test_labels, CLASSES)
    scores = reference.measure(model, exported.path, {"movement": test_windows}, metrics)
    reference.write_result(work, ABOUT, model, exported, scores, epochs=epochs, train_seconds=seconds, samples=len(test_labels))

    # On the device: nothing but lepton_runtime and the bundle.
    with Session.open(exported.path, precision="dynamic-int8") as session:
        for answer in session.predict(test_windows[0], count=2):
            print(f"{answer.label}: {answer.score:.2f}")


if __name__ == "__main__":
    arguments = reference.parse_arguments(__doc__, epochs=EPOCHS)
    main(arguments.work, arguments.epochs)
