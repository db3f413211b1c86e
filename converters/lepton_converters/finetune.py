"""A network trained on for a few epochs as its static-int8 file will compute, where quantization alone loses too much."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_converters.calibration import stack
from lepton_converters.dataset import Sample, check_exists
from lepton_converters.export_data import fitting_labels, open_samples, plan_preprocessing
from lepton_converters.keras_loading import CustomObjects, import_keras, read_custom_objects
from lepton_converters.keras_model import functional
from lepton_converters.keras_reader import load_model
from lepton_converters.keras_source import KerasSource
from lepton_converters.model_file import check_file
from lepton_converters.quantized_training import Epoch, QuantizedTrainer, Samples, Training
from lepton_converters.quiet import quiet_tensorflow
from lepton_runtime.errors import InputError, OutputError, ParityError, UnsupportedError
from lepton_runtime.formats import Target
from lepton_runtime.labels import class_output

if TYPE_CHECKING:
    import keras

_HELD_BACK = 5  # one of so many samples
_CHANCE = 1.5  # times as many right answers as by guessing are the least that labels which belong to a model give


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning made.

    Attributes:
        path: The tuned network's ``.keras`` file.
        metric: What the four scores are: ``accuracy`` by the labels, ``agreement`` with the float network on the best class, or
            ``fidelity`` of its outputs, joined by ``and`` where they are a mean over several kinds of outputs; see
            :class:`lepton_converters.distillation.Head`. 1 is the best.
        float_before: Of the network as it was.
        int8_before: Of its static-int8 file, as it is simulated.
        int8_after: Of the tuned network's, likewise.
        float_after: Of the tuned network itself.
        best_epoch: Which epoch's weights were kept, from 1.
        epochs: What each took and gave.
        samples: How many samples it was trained on.
        held_back: How many others the scores are of.
        operators: How many operators with weights were simulated in 8 bits.
        floating: Recurrent layers, which stay in float as in the file.
        unmatched: Layers whose values the file rounds, but the simulation could not: it sees less loss there than there is.
        diverged: The epoch that ended the training with NaN or infinite numbers, or ``None``; those before it stay.
        target: The CPU that was trained for.
    """

    path: Path
    metric: str
    float_before: float
    int8_before: float
    int8_after: float
    float_after: float
    best_epoch: int
    epochs: tuple[Epoch, ...]
    samples: int
    held_back: int
    operators: int
    floating: tuple[str, ...]
    unmatched: tuple[str, ...]
    diverged: int | None
    target: Target


def finetune(
    model: "str | Path | keras.Model",
    output: str | Path,
    *,
    data: str | Path,
    epochs: int = 3,
    learning_rate: float = 1e-5,
    samples: int = 2000,
    batch_size: int = 32,
    target: str = "any",
    size: Sequence[int] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    custom_objects: CustomObjects = (),
    trust_code: bool = False,
    force: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> FinetuneResult:
    """The same network with weights that 8 bits lose less of, as a ``.keras`` file for the ordinary export.

    It learns to answer as the float network does and, where there are labels, what they say, while its weights and the values
    between its layers are rounded as in its static-int8 file. Batch normalization keeps its statistics, dropout is off, and layers
    that are frozen are trained, too. The samples are kept in memory; a step takes about as long as one of ordinary training.

    Args:
        model: A ``.keras`` or ``.h5`` file, or a ``keras.Model``, whose weights are as they were afterwards.
        output: The ``.keras`` file to write.
        data: Samples, raw, with or without classes, as for :func:`lepton_converters.export`.
        epochs: How many times to go through them; the best one is kept.
        learning_rate: Of the first step; it falls to zero along a cosine.
        samples: How many of them to use, at most; a fifth is held back to judge by.
        batch_size: How many a step takes.
        target: Name of the :class:`lepton_runtime.formats.Target` that the file is for, as for an export.
        size: Lengths for the free axes of the inputs.
        preprocessing: Settings of :class:`lepton_runtime.Preprocessing`, as for an export.
        labels: Class names in the order of the outputs.
        seed: Of the choice and order of samples: the same seed gives the same weights on the same machine.
        custom_objects: The model's own layers and functions.
        trust_code: Load Lambda layers, which are programs.
        force: Replace a file that is there.
        on_epoch: Told how it goes.

    Raises:
        InputError: A file or an option does not fit.
        OutputError: The file cannot be written.
        UnsupportedError: The model cannot be trained this way.
        ParityError: No epoch was better than the beginning.
        MissingExtraError: TensorFlow is not installed.
    """
    path, cpu = Path(output), Target.parse(target)
    _check_options(epochs, learning_rate, samples, batch_size, seed)
    _check_output(path, force=force)
    check_exists(str(data), option="--data")
    loaded = _load(model, trust_code=trust_code, custom_objects=custom_objects)
    before = [np.asarray(weight) for weight in loaded.weights]
    source = KerasSource.open(loaded, batch=batch_size, size=size)
    _check_source(source)
    training, held_back = _read_samples(source, str(data), preprocessing or {}, labels, count=samples, seed=seed)
    if training.count < batch_size:
        raise InputError(f"there must be a batch of {batch_size} to train on, found {training.count} samples; give more or a smaller batch")
    trainer = QuantizedTrainer(source, training=training, held_back=held_back, target=cpu)
    _check_labels(trainer.float_accuracy, source)
    try:
        trained = trainer.run(epochs=epochs, learning_rate=learning_rate, seed=seed, on_epoch=on_epoch)
        first, best = trained.epochs[0], trained.best
        if best is first:
            raise ParityError(_nothing_won(trainer.objective.metric, trainer.float_before, trained))
        float_after = trainer.float_score()
        _save(source, loaded, path)
    finally:
        loaded.set_weights(before)
    return FinetuneResult(
        path=path,
        metric=trainer.objective.metric,
        float_before=trainer.float_before,
        int8_before=first.score,
        int8_after=best.score,
        float_after=float_after,
        best_epoch=best.number,
        epochs=trained.epochs[1:],
        samples=training.count,
        held_back=held_back.count,
        operators=trainer.simulated.operators,
        floating=trainer.simulated.floating,
        unmatched=trainer.simulated.unmatched,
        diverged=trained.diverged,
        target=cpu,
    )


def _check_options(epochs: int, learning_rate: float, samples: int, batch_size: int, seed: int) -> None:
    if min(epochs, samples, batch_size) < 1 or not 0 < learning_rate < 1 or seed < 0:
        raise InputError(
            f"epochs, samples and batch size must be at least 1, the learning rate between 0 and 1 and the seed at least 0, found "
            f"{epochs}, {samples}, {batch_size}, {learning_rate} and {seed}"
        )


def _check_output(path: Path, *, force: bool) -> None:
    """Refuse a file that cannot be written, before any work is done."""
    if path.suffix != ".keras":
        raise OutputError(f"the tuned network is written as a .keras file, found {str(path)!r}; end its name in .keras")
    if path.is_dir() or (path.exists() and not force):
        advice = "choose another with --output" if path.is_dir() else "add --force to replace it, or choose another with --output"
        raise OutputError(f"the output {str(path)!r} exists{' and is a folder' if path.is_dir() else ''}; {advice}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"the output's folder must be writable, {str(path.parent)!r} is not; choose another with --output")


def _load(model: "str | Path | keras.Model", *, trust_code: bool, custom_objects: CustomObjects) -> Any:  # Any: Keras has no type hints
    import_keras()
    if not isinstance(model, str | Path):
        return model
    check_file(Path(model), trust_code=trust_code)
    if Path(model).is_dir():
        raise UnsupportedError(f"fine-tuning needs the layers of a .keras or .h5 file, a SavedModel keeps none: {str(model)!r}")
    return load_model(Path(model), trust_code=trust_code, custom_objects=read_custom_objects(custom_objects))


def _check_source(source: KerasSource) -> None:
    if source.states:
        raise UnsupportedError(
            f"fine-tuning shuffles samples, {source.states[0]!r} is a state from sample to sample; build it stateful=False"
        )
    free = next((spec for spec in source.inputs if None in spec.shape), None)
    if free is not None:
        raise InputError(f"fine-tuning needs inputs of known size, found {free}; give it with --size")


def _check_classes(source: KerasSource) -> None:
    """Refuse classes that the model has no scores for, as ``--eval`` of an export does."""
    if not source.has_class_scores():
        raise InputError(
            f"classes need an output of (batch, classes), or one unit with a sigmoid; found {', '.join(map(str, source.outputs))}; give "
            "--data without classes, or end the model in a sigmoid"
        )


def _read_samples(
    source: KerasSource, data: str, preprocessing: Mapping[str, Any], labels: Sequence[str] | None, *, count: int, seed: int
) -> tuple[Samples, Samples]:
    """What to train on and what is held back to judge by, in seeded random order."""
    dataset = open_samples(source, data, plan_preprocessing(source, preprocessing), labels=labels, option="--data")
    if dataset.count < 2:
        raise InputError(f"--data needs at least 2 samples, one of them held back to judge by, found {dataset.count} in {data!r}")
    if dataset.is_labeled:
        _check_classes(source)
    fitting_labels(source, labels, dataset if source.has_class_scores() else None, None)
    order = np.random.default_rng(seed).permutation(dataset.count)[:count]
    # They come in ascending order, whatever was asked for.
    read = dict(zip(sorted(order.tolist()), dataset.samples(order.tolist()), strict=True))
    chosen = [read[place] for place in order.tolist()]
    split = max(1, len(chosen) // _HELD_BACK)
    if len(chosen) < 2:
        raise InputError(f"at least 2 samples are needed, one of them held back to judge by, found --samples {count}")
    is_labeled = dataset.is_labeled
    return _stacked(source, chosen[split:], is_labeled=is_labeled), _stacked(source, chosen[:split], is_labeled=is_labeled)


def _stacked(source: KerasSource, samples: Sequence[Sample], *, is_labeled: bool) -> Samples:
    inputs = stack(samples, len(samples))
    if not is_labeled:
        return Samples(inputs, None)
    labels = np.array([sample.label for sample in samples], np.int32)
    found = class_output(source.outputs)
    classes = max(2, (found.shape[1] or 2) if found else 2)
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"labels must be the model's {classes} classes, 0 to {classes - 1}, found {labels.min()} to {labels.max()}")
    return Samples(inputs, labels)


def _check_labels(accuracy: float | None, source: KerasSource) -> None:
    """Refuse to train on labels that look as if they were not the model's: it would unlearn what it knows."""
    found = class_output(source.outputs)
    if accuracy is not None and found and accuracy <= _CHANCE / max(2, found.shape[1] or 2):
        raise InputError(
            f"the labels must be the model's, it is right on {100 * accuracy:.1f} % of those held back, little more than chance: check "
            "the preprocessing and the order of the classes (--labels), or leave the labels out"
        )


def _nothing_won(metric: str, float_before: float, trained: Training) -> str:
    first, *others = (f"{100 * epoch.score:.2f} % at a loss of {epoch.held_loss:.4f}" for epoch in trained.epochs)
    if trained.diverged is not None:
        others.append(f"NaN or infinity in epoch {trained.diverged}, for the training diverged")
    advice = "another" if trained.diverged is None else "a lower"
    return (
        f"an epoch must be better than the beginning, int8 {metric} was {first} (float {100 * float_before:.2f} %) and then "
        f"{', '.join(others)}; nothing was written: try {'more samples or epochs, or ' if trained.diverged is None else ''}{advice} "
        "--learning-rate"
    )


def _save(source: KerasSource, loaded: Any, path: Path) -> None:
    """Write the network with its new weights: whole, or not at all."""
    if source.model is not None and any(one is not other for one, other in zip(source.model.weights, loaded.weights, strict=False)):
        original = functional(loaded)
        for layer in source.model.layers:  # a copy that computes in float32
            if layer.weights:
                original.get_layer(layer.name).set_weights(layer.get_weights())
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.keras")
    try:
        with quiet_tensorflow():
            loaded.save(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"the output {str(path)!r} must be writable: {error.strerror}; nothing was left behind") from error
    finally:
        temporary.unlink(missing_ok=True)
