"""Which epoch is kept, and how a training ends; on networks that train in a moment."""

from collections.abc import Callable

import numpy as np
import pytest

from lepton_converters import quantized_training
from lepton_converters.compiled_function import compile_function
from lepton_converters.epoch import Epoch, best_epoch
from lepton_converters.keras_source import KerasSource
from lepton_converters.quantized_training import QuantizedTrainer, Samples
from lepton_runtime import InputError
from lepton_runtime.formats import Target


def right(share: float, *, of: int = 200) -> np.ndarray:
    """Scores of which the first ones are right."""
    return (np.arange(of) < round(share * of)).astype(np.float64)


@pytest.mark.parametrize(
    ("shares", "losses", "best"),
    [
        ((0.2, 0.5), (1.0, 2.0), 1),
        ((0.5, 0.49), (2.0, 1.0), 0),  # paired: the same samples and two more are wrong
        ((0.5, 0.5), (2.0, 1.0), 1),
        ((0.5, 0.5), (1.0, 2.0), 0),
        ((0.5, 0.2), (2.0, 1.0), 0),
        ((0.7, 0.8, 0.8), (3.0, 2.0, 1.0), 2),
        ((0.7, 0.8, 0.9, 0.8), (3.0, 1.0, 2.0, 0.5), 2),
    ],
)
def test_the_lowest_loss_wins_among_scores_as_good_as_the_highest(shares, losses, best: int) -> None:
    assert best_epoch(losses, [right(share) for share in shares]) == best


def test_scores_that_fall_step_by_step_do_not_win_by_their_losses() -> None:
    # Each is within chance of the one before, the last is not within chance of the highest.
    scores = [right(share) for share in (0.80, 0.785, 0.77, 0.755)]
    assert best_epoch((4.0, 3.0, 2.0, 1.0), scores) == 0


def test_what_chance_could_have_made_of_the_highest_wins_by_its_loss() -> None:
    scores = [right(0.5), right(0.8), np.roll(right(0.8), 1)]
    scores[2][:2], scores[2][-1] = 0, 0  # three are wrong that were right, one is right that was wrong
    assert scores[2].mean() < scores[1].mean()
    assert best_epoch((3.0, 2.0, 1.0), scores) == 2


@pytest.fixture
def trainer(keras, liven) -> Callable[..., QuantizedTrainer]:
    """A trainer of a network of two Dense layers on 100 rows."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    row = keras.Input((6,), name="row")
    model = keras.Model(row, layers.Dense(3, name="head")(layers.Dense(8, activation="relu", name="hidden")(row)))
    liven(keras, model)
    rows = np.random.default_rng(2).normal(size=(100, 6)).astype(np.float32)

    def make(change: Callable[[np.ndarray], None] = lambda rows: None) -> QuantizedTrainer:
        changed = rows.copy()
        change(changed)
        training, held_back = Samples({"row": changed[20:]}, None), Samples({"row": changed[:20]}, None)
        return QuantizedTrainer(KerasSource.open(model, batch=16), training=training, held_back=held_back, target=Target.ANY)

    return make


def run(trainer: QuantizedTrainer, told: list[Epoch], **settings):
    return trainer.run(**{"epochs": 3, "learning_rate": 1e-3, "seed": 0, "on_epoch": told.append, **settings})


def test_the_weights_of_the_best_epoch_are_left(trainer) -> None:
    made = trainer()
    judged = iter([(3.0, right(0.5)), (2.0, right(0.9)), (1.0, right(0.7)), (1.0, right(0.4))])
    made._judge = lambda: next(judged)
    told: list[tuple[Epoch, list[np.ndarray]]] = []

    def on_epoch(epoch: Epoch) -> None:
        told.append((epoch, [np.asarray(weight) for weight in made._source.model.weights]))

    training = made.run(epochs=3, learning_rate=1e-3, seed=0, on_epoch=on_epoch)
    assert training.epochs == tuple(epoch for epoch, _ in told)
    assert training.best is told[1][0]
    assert training.diverged is None
    for weight, best, last in zip(made._source.model.weights, told[1][1], told[3][1], strict=True):
        np.testing.assert_array_equal(weight, best)
        assert not np.array_equal(weight, last)


def test_ranges_are_left_that_fit_the_weights_of_the_best_epoch(trainer) -> None:
    made = trainer()
    judged = iter([(3.0, right(0.5)), (2.0, right(0.9)), (1.0, right(0.7))])

    def judge() -> tuple[float, np.ndarray]:
        made._calibrate()
        return next(judged)

    made._judge = judge
    assert run(made, [], epochs=2, learning_rate=1e-2).best.number == 1
    left = np.asarray(made.simulated._ranges)
    made._calibrate()
    np.testing.assert_array_equal(left, made.simulated._ranges)


@pytest.mark.parametrize(("loss", "weight"), [(np.nan, 1.0), (1.0, np.nan), (1.0, 1e30)])
def test_a_training_that_diverges_keeps_the_epochs_before(trainer, loss: float, weight: float) -> None:
    made, told = trainer(), []
    variables = quantized_training._trained_variables(made._source.model, keep_frozen=False)
    before = [np.asarray(variable) for variable in variables]
    train = made._train

    def broken_step(*given) -> float:
        for variable in variables:  # so large that the answers overflow, or NaN
            variable.assign(np.full(variable.shape, weight, np.float32))
        return loss

    def breaking(step, variables, order, *, subject: str) -> float:
        return train(broken_step if len(told) == 2 else step, variables, order, subject=subject)

    made._train = breaking
    training = run(made, told, learning_rate=3e-3)
    assert training.diverged == 2
    assert [epoch.number for epoch in training.epochs] == [0, 1]
    assert all(np.isfinite(np.asarray(variable)).all() for variable in variables)
    is_as_before = all(np.array_equal(one, variable) for one, variable in zip(before, variables, strict=True))
    assert is_as_before == (training.best.number == 0)


def test_answers_that_are_not_finite_are_refused(trainer) -> None:
    def break_one(rows: np.ndarray) -> None:
        rows[50, 2] = np.inf

    with pytest.raises(InputError, match="the float network's own answers must be finite, found NaN or infinity; check its weights"):
        trainer(break_one)


def test_a_batch_that_does_not_fit_in_memory_says_which_option_helps(monkeypatch) -> None:
    import tensorflow as tf

    class Traced:
        def get_concrete_function(self):
            return self

        def __call__(self, *arguments):
            raise tf.errors.ResourceExhaustedError(
                None, None, "{{function_node f}} OOM when allocating a tensor\n\t [[{{node Fill}}]]\nHint"
            )

    monkeypatch.setattr(tf, "function", lambda *arguments, **settings: Traced())
    match = r"a batch must fit in memory, this one does not: OOM when allocating a tensor; lower --batch-size$"
    with pytest.raises(InputError, match=match):
        compile_function(abs, [])()


def test_ranges_are_found_over_whole_batches_of_a_few_samples(trainer, monkeypatch) -> None:
    monkeypatch.setattr(quantized_training, "CALIBRATION_SAMPLES", 20)
    made, seen = trainer(), []
    made.simulated.calibrate = lambda batches, ranges: seen.extend(batches)  # type: ignore[method-assign]  # one object alone
    made._judge()
    np.testing.assert_array_equal(np.concatenate([batch["row"] for batch in seen]), made._training.inputs["row"][:16])


def test_indices_out_of_range_are_the_samples_fault(keras) -> None:
    layers = keras.layers
    keras.utils.set_random_seed(1)
    ids = keras.Input((5,), dtype="int32", name="ids")
    model = keras.Model(ids, layers.Dense(2, name="head")(layers.Flatten()(layers.Embedding(7, 4)(ids))))
    samples = Samples({"ids": np.full((16, 5), 7, np.int32)}, None)
    with pytest.raises(InputError, match=r"the model must be able to run on the samples: indices.* = 7 is not in \[0, 7\)$"):
        QuantizedTrainer(KerasSource.open(model, batch=8), training=samples, held_back=samples, target=Target.ANY)


def test_an_embedding_and_a_recurrent_layer_learn_what_they_answered_before(keras) -> None:
    layers = keras.layers
    keras.utils.set_random_seed(1)
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = layers.GRU(6, name="memory")(layers.Embedding(9, 4, embeddings_initializer="normal", name="words")(ids))
    model = keras.Model(ids, layers.Dense(2, name="head")(layers.Dense(8, activation="relu", name="hidden")(x)))
    generator = np.random.default_rng(3)
    drawn = generator.integers(0, 9, (96, 5)).astype(np.int32)
    training, held_back = Samples({"ids": drawn[16:]}, None), Samples({"ids": drawn[:16]}, None)
    made = QuantizedTrainer(KerasSource.open(model, batch=8), training=training, held_back=held_back, target=Target.ANY)
    for weight in model.weights:
        weight.assign(np.asarray(weight) + generator.normal(0, 0.05, weight.shape))
    before = [np.asarray(weight) for weight in model.weights]
    trained = run(made, [], epochs=4, learning_rate=1e-2)
    assert trained.best.held_loss < trained.epochs[0].held_loss / 2
    assert made.simulated.floating == ("memory",)
    assert not any(np.array_equal(one, weight) for one, weight in zip(before, model.weights, strict=True))


def test_several_inputs_and_outputs_are_trained_with_the_labels_of_the_first_classes(keras, liven) -> None:
    layers = keras.layers
    keras.utils.set_random_seed(1)
    left, right_ = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    x = layers.Dense(8, activation="relu", name="hidden")(layers.concatenate([left, right_]))
    cat, best = layers.Dense(1, activation="sigmoid", name="cat")(x), layers.Lambda(lambda x: keras.ops.argmax(x, axis=-1), name="best")(x)
    model = keras.Model([left, right_], [cat, layers.Dense(2, name="box")(x), best])
    liven(keras, model)
    generator = np.random.default_rng(4)
    drawn = {"left": generator.normal(size=(48, 4)).astype(np.float32), "right": generator.normal(size=(48, 3)).astype(np.float32)}
    source = KerasSource.open(model, batch=16)
    labels = (source.predict(drawn)["cat"][:, 0] > 0.5).astype(np.int32)
    labels[0] = 1 - labels[0]
    first, last = ({name: rows[part] for name, rows in drawn.items()} for part in (slice(16), slice(16, None)))
    made = QuantizedTrainer(source, training=Samples(last, labels[16:]), held_back=Samples(first, labels[:16]), target=Target.ANY)
    assert made.objective.metric == "accuracy and fidelity"
    assert made.float_accuracy == 15 / 16
    assert made.float_before == pytest.approx((15 / 16 + 1) / 2)
    told: list[Epoch] = []
    run(made, told, epochs=1)
    assert np.isfinite([told[1].loss, told[1].held_loss, told[1].score]).all()


def test_a_model_for_batches_of_one_size_is_measured_in_these(keras, liven) -> None:
    layers = keras.layers
    model = keras.Sequential([keras.Input((6,), batch_size=16, name="row"), layers.Dense(8, activation="relu"), layers.Dense(3)])
    liven(keras, model)
    samples = Samples({"row": np.random.default_rng(2).normal(size=(40, 6)).astype(np.float32)}, None)
    made = QuantizedTrainer(KerasSource.open(model, batch=16), training=samples, held_back=samples, target=Target.ANY)
    told: list[Epoch] = []
    run(made, told, epochs=1)
    assert (made._few, len(told)) == (16, 2)
