"""A network trained on for a few epochs as its static-int8 file will compute, where quantization alone loses too much."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_converters.calibration import Calibration
from lepton_converters.conversion import Step
from lepton_converters.dataset import check_exists
from lepton_converters.epoch import Epoch
from lepton_converters.export_data import plan_preprocessing
from lepton_converters.keras_loading import CustomObjects, import_keras, read_custom_objects
from lepton_converters.keras_model import functional
from lepton_converters.keras_reader import load_model
from lepton_converters.keras_source import KerasSource
from lepton_converters.keras_writer import check_keras_output, keras_file
from lepton_converters.label_doubt import label_doubts
from lepton_converters.model_file import read_model_file
from lepton_converters.output_place import alone_at_output
from lepton_runtime.errors import InputError, UnsupportedError
from lepton_runtime.formats import Target
from lepton_runtime.preprocess import Preprocessing

if TYPE_CHECKING:
    import keras

    from lepton_converters.gain import Gain
    from lepton_converters.quantized_training import Samples
    from lepton_converters.training_data import TrainingData


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
        held_back: How many others chose the epoch.
        evaluated: How many of a third kind the four scores are of; ``None``: they are of those that chose, and so a little too good.
        operators: How many operators with weights were simulated in 8 bits.
        floating: Recurrent layers, which stay in float as in the file.
        unmatched: Layers whose values the file rounds, but the simulation could not: it sees less loss there than there is.
        diverged: The epoch that ended the training with NaN or infinite numbers, or ``None``; those before it stay.
        target: The CPU that was trained for.
        seconds: How long all of it took.
        settings: What makes it again: ``epochs``, ``learning_rate``, ``samples``, ``batch_size``, ``target``, ``size``, ``seed``,
            ``use_labels`` and ``keep_frozen``, as they were used.
        notes: What looks wrong, and what is not in the file as it was, in words.
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
    evaluated: int | None
    operators: int
    floating: tuple[str, ...]
    unmatched: tuple[str, ...]
    diverged: int | None
    target: Target
    seconds: float
    settings: Mapping[str, Any]
    notes: tuple[str, ...]


@alone_at_output
def finetune(
    model: "str | Path | keras.Model",
    output: str | Path,
    *,
    data: str | Path,
    evaluate: str | Path | None = None,
    epochs: int = 3,
    learning_rate: float = 1e-5,
    samples: int = 2000,
    batch_size: int = 32,
    target: str = "any",
    size: Sequence[int] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    use_labels: bool = True,
    keep_frozen: bool = False,
    seed: int = 0,
    custom_objects: CustomObjects = (),
    trust_code: bool = False,
    force: bool = False,
    on_step: Callable[[Step], None] = lambda step: None,
) -> FinetuneResult:
    """The same network with weights that 8 bits lose less of, as a ``.keras`` file for the ordinary export.

    It learns to answer as the float network does and, where there are labels, what they say, while its weights and the values
    between its layers are rounded as in its static-int8 file. Batch normalization keeps its statistics, dropout is off. The samples
    are kept in memory, of which they may take half of what is free; a step takes about as long as one of ordinary training. A
    network that was compiled stays so, its optimizer with the moments that it had before.

    Args:
        model: A ``.keras`` or ``.h5`` file, or a ``keras.Model``, whose weights are as they were afterwards.
        output: The ``.keras`` file to write.
        data: Samples, raw, with or without classes, as for :func:`lepton_converters.export`.
        evaluate: Labelled samples, raw, that neither train nor choose the epoch, to measure the gain on.
        epochs: How many times to go through them; the best one is kept.
        learning_rate: Of the first step; it falls to zero along a cosine.
        samples: How many of them to use, at most; a fifth is held back to choose the epoch by.
        batch_size: How many a step takes, or all that there are.
        target: Name of the :class:`lepton_runtime.formats.Target` that the file is for, as for an export.
        size: Lengths for the free axes of the inputs.
        preprocessing: Settings of :class:`lepton_runtime.Preprocessing`, as for an export.
        labels: Class names in the order of the outputs.
        use_labels: Whether to learn from the labels of ``data``, where there are any.
        keep_frozen: Leave layers with ``trainable=False`` as they are, which are trained otherwise: they lose to 8 bits, too.
        seed: Of the choice and order of samples: the same seed gives the same weights on the same machine.
        custom_objects: The model's own layers and functions.
        trust_code: Load Lambda layers, which are programs.
        force: Replace a file that is there.
        on_step: Told what is happening.

    Raises:
        InputError: A file or an option does not fit.
        OutputError: The file cannot be written.
        UnsupportedError: The model cannot be trained this way, or not be saved.
        ParityError: No epoch was better than the beginning.
        MissingExtraError: TensorFlow is not installed.
    """
    started, path, cpu = monotonic(), Path(output), Target.parse(target)
    _check_options(epochs, learning_rate, samples, batch_size, seed)
    check_keras_output(path, force=force)
    check_exists(str(data), option="--data")
    if evaluate is not None:
        check_exists(str(evaluate), option="--eval")
    on_step(Step("read", "TensorFlow"))
    import_keras()
    # These import ONNX, which may be missing, and which the other commands do without.
    from lepton_converters.gain import train
    from lepton_converters.quantized_training import QuantizedTrainer
    from lepton_converters.training_data import TrainingData

    own = read_custom_objects(custom_objects)
    loaded, notes = _load(model, trust_code=trust_code, custom_objects=own)
    source = KerasSource.open(loaded, batch=batch_size, size=size)
    _check_source(source)
    name = Path(model).name if isinstance(model, str | Path) else "model"
    on_step(Step("read", name, f"{source.name}, {source.parameters:,} parameters", 1))
    steps = plan_preprocessing(source, preprocessing or {})
    chosen = TrainingData.open(
        source,
        steps,
        data=str(data),
        evaluate=None if evaluate is None else str(evaluate),
        labels=labels,
        use_labels=use_labels,
        most=samples,
        seed=seed,
    )
    if chosen.trained < batch_size:
        batch_size = chosen.trained
        source = KerasSource.open(loaded, batch=batch_size, size=size)
    training, held_back = chosen.read(source, on_read=lambda fraction: on_step(Step("read", str(data), fraction=fraction)))
    on_step(Step("read", str(data), f"{training.count:,} samples to train on, {held_back.count:,} others", 1))
    notes += _data_doubts(source, chosen, steps)
    with _unchanged(loaded), keras_file(loaded, path, custom_objects=own) as write:
        trainer = QuantizedTrainer(
            source,
            training=training,
            held_back=held_back,
            target=cpu,
            on_progress=lambda name, subject, fraction: on_step(Step(name, subject, fraction=fraction)),
        )
        gain = train(
            source,
            trainer,
            evaluated=chosen.evaluated,
            epochs=epochs,
            learning_rate=learning_rate,
            seed=seed,
            keep_frozen=keep_frozen,
            on_step=on_step,
        )
        on_step(Step("write", str(path)))
        _give_back(source, loaded)
        write()
    on_step(Step("write", str(path), f"{path.stat().st_size / 1000:,.0f} kB", 1))
    return FinetuneResult(
        path=path,
        metric=gain.metric,
        float_before=gain.before[0],
        int8_before=gain.before[1],
        int8_after=gain.after[1],
        float_after=gain.after[0],
        best_epoch=gain.training.best.number,
        epochs=gain.training.epochs[1:],
        samples=training.count,
        held_back=held_back.count,
        evaluated=chosen.evaluated.count if chosen.evaluated else None,
        operators=trainer.simulated.operators,
        floating=trainer.simulated.floating,
        unmatched=trainer.simulated.unmatched,
        diverged=gain.training.diverged,
        target=cpu,
        seconds=monotonic() - started,
        settings={
            "epochs": epochs,
            "learning_rate": learning_rate,
            "samples": samples,
            "batch_size": batch_size,
            "target": target,
            "size": "x".join(map(str, size)) if size else None,
            "seed": seed,
            "use_labels": use_labels,
            "keep_frozen": keep_frozen,
        },
        notes=(*notes, *_doubts(trainer.float_accuracy, held_back), *_gain_doubts(gain)),
    )


def _check_options(epochs: int, learning_rate: float, samples: int, batch_size: int, seed: int) -> None:
    if min(epochs, samples - 1, batch_size) < 1 or not 0 < learning_rate < 1 or seed < 0:
        raise InputError(
            f"epochs and batch size must be at least 1, samples 2, the learning rate between 0 and 1 and the seed at least 0, found "
            f"{epochs}, {batch_size}, {samples}, {learning_rate} and {seed}"
        )


def _load(
    model: "str | Path | keras.Model", *, trust_code: bool, custom_objects: Mapping[str, Any]
) -> tuple[Any, list[str]]:  # Any: Keras has no type hints
    """The model, and what of its file it lacks, in words."""
    if not isinstance(model, str | Path):
        return model, []
    path = Path(model)
    if path.is_dir():
        read_model_file(path)  # which says so if it is a bundle
        raise UnsupportedError(f"fine-tuning needs the layers of a .keras or .h5 file, a SavedModel keeps none: {str(model)!r}")
    loaded = load_model(path, trust_code=trust_code, custom_objects=custom_objects, is_compiled=True)
    if loaded.compiled or not read_model_file(path).is_compiled:
        return loaded, []
    return loaded, [f"the loss, metrics and optimizer of {path.name} could not be read: compile the tuned network to train or evaluate it"]


def _check_source(source: KerasSource) -> None:
    if source.states:
        raise UnsupportedError(
            f"fine-tuning shuffles samples, {source.states[0]!r} is a state from sample to sample; build it stateful=False"
        )
    free = next((spec for spec in source.inputs if None in spec.shape), None)
    if free is not None:
        is_encoded = free.name in {encoder.output.name for encoder in source.encoders}
        advice = "build its layer with output_sequence_length" if is_encoded else "give it with --size"
        raise InputError(f"fine-tuning needs inputs of known size, found {free}; {advice}")


def _data_doubts(source: KerasSource, chosen: "TrainingData", steps: Preprocessing | None) -> list[str]:
    """What looks wrong with as many samples as ranges are found by, in the words of this command's options."""
    from lepton_converters.calibration_review import CalibrationReview
    from lepton_converters.quantized_training import CALIBRATION_SAMPLES

    review = CalibrationReview(source, Calibration(chosen.dataset, tuple(sorted(chosen.order[:CALIBRATION_SAMPLES])), 1), steps)
    review.look_at({})
    return [doubt.replace("--calib-samples", "--samples").replace("--calib", "--data") for doubt in review.found]


def _gain_doubts(gain: "Gain") -> list[str]:
    if gain.after[1] >= gain.before[1]:
        return []
    return ["in 8 bits the tuned network answers worse than the one it was made of: export that one, or train on more samples"]


def _doubts(accuracy: float | None, held_back: "Samples") -> list[str]:
    """What looks as if the labels were not the model's, which then unlearns what it knows."""
    counts = [] if held_back.labels is None else np.bincount(held_back.labels).tolist()
    return [f"{doubt}; --ignore-labels trains without them" for doubt in label_doubts(accuracy, counts)]


@contextmanager
def _unchanged(model: Any) -> Iterator[None]:
    """Give the model back the weights that it has now, however this ends."""
    before = [np.asarray(weight) for weight in model.weights]
    try:
        yield
    finally:
        model.set_weights(before)


def _give_back(source: KerasSource, loaded: Any) -> None:
    """Set the weights of the model that was given, where a copy in float32 was trained in its place."""
    if source.model is not None and any(one is not other for one, other in zip(source.model.weights, loaded.weights, strict=False)):
        original = functional(loaded)
        for layer in source.model.layers:
            if layer.weights:  # an input's layer may have another name in the copy
                original.get_layer(layer.name).set_weights(layer.get_weights())
