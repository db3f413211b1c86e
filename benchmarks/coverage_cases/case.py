"""One case of the coverage table: a tiny Keras model with lively weights, and the samples it is calibrated on."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
Sampler = Callable[[np.random.Generator, tuple[int, ...]], Array]


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normally distributed numbers up to 2.5: what 8 bits were calibrated on holds for the other samples, too."""
    return generator.normal(size=shape).clip(-2.5, 2.5).astype(np.float32)


def ranks(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Evenly spaced numbers, shuffled, in a range of its own in each row: rounding to 8 bits keeps their order."""
    rows = np.linspace(-1, 1, shape[-1]) * generator.uniform(1, 2, (*shape[:-1], 1)) + generator.uniform(-0.5, 0.5, (*shape[:-1], 1))
    return np.ascontiguousarray(generator.permuted(rows, axis=-1), np.float32)


def positive(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Numbers from 0.1 to 2."""
    return generator.uniform(0.1, 2, shape).astype(np.float32)


def unit(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Numbers from -0.95 to 0.95."""
    return generator.uniform(-0.95, 0.95, shape).astype(np.float32)


def pixels(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Whole numbers from 0 to 255, each sample with a brightness and a contrast of its own, and not only noise."""
    coarse = [-(-axis // 4) if position and position < len(shape) - 1 else axis for position, axis in enumerate(shape)]
    values = generator.uniform(0, 1, coarse)
    for position, axis in enumerate(shape[1:-1], 1):
        values = np.repeat(values, 4, axis=position).take(range(axis), axis=position)
    values = values + generator.normal(0, 0.1, shape)
    one = (shape[0], *[1] * (len(shape) - 1))
    bright = 255 * (values * generator.uniform(0.3, 1, one) + generator.uniform(0, 0.4, one))
    return bright.clip(0, 255).round().astype(np.float32)


def indices(count: int) -> Sampler:
    """Integers from 0 up to ``count``."""
    return lambda generator, shape: generator.integers(0, count, shape).astype(np.int32)


def padded(count: int) -> Sampler:
    """Integers from 1 up to ``count``, each row ending in zeros."""

    def sample(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        values = generator.integers(1, count, shape).astype(np.int32)
        lengths = generator.integers(1, shape[1], (shape[0], 1))
        return values * (np.arange(shape[1]) < lengths)

    return sample


def padded_rows(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normally distributed sequences ``(samples, steps, features)``, each ending in steps of zeros."""
    lengths = generator.integers(1, shape[1], (shape[0], 1, 1))
    return normal(generator, shape) * (np.arange(shape[1])[:, None] < lengths).astype(np.float32)


def flags(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Truth values, the first of each sample true."""
    values = generator.integers(0, 2, shape).astype(bool)
    values.reshape(shape[0], -1)[:, 0] = True
    return values


def words(*vocabulary: str, most: int = 1) -> Sampler:
    """Texts of up to ``most`` of these words."""

    def sample(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        texts = [" ".join(generator.choice(vocabulary, generator.integers(1, most + 1))) for _ in range(int(np.prod(shape)))]
        return np.array(texts).reshape(shape)

    return sample


@dataclass(frozen=True)
class Door:
    """One input of a case.

    Attributes:
        shape: Of one sample.
        sample: Makes ``(samples, …)`` of them.
        dtype: As the Keras input has it.
    """

    shape: tuple[int, ...]
    sample: Sampler = normal
    dtype: str = "float32"


@dataclass(frozen=True)
class Case:
    """One row of the coverage table.

    Attributes:
        name: ``KIND: variant``, or ``KIND`` alone.
        doors: What goes in.
        make: Given Keras and one symbolic tensor a door, what comes out.
        samples: How many there are, for calibration and verification.
        calib_samples: How many of them are calibrated on, at most.
        batch: The length of the batch axis, if the model has a fixed one.
        settle: On how many samples BatchNormalization takes its statistics, as in training; 0 leaves it alone.
        trust_code: Whether the file holds code.
    """

    name: str
    doors: tuple[Door, ...]
    make: Callable[..., Any]
    samples: int = 80
    calib_samples: int = 64
    batch: int | None = None
    settle: int = 0
    trust_code: bool = False

    @property
    def kind(self) -> str:
        """The layer class, operation or network that it is a case of."""
        return self.name.partition(":")[0]

    @property
    def seed(self) -> int:
        """The same for the same name."""
        return zlib.crc32(self.name.encode())

    def inputs(self, count: int) -> dict[str, Array]:
        """That many samples, one array an input."""
        generator = np.random.default_rng(self.seed)
        return {f"input_{number}": door.sample(generator, (count, *door.shape)) for number, door in enumerate(self.doors)}

    def model(self, keras: Any) -> Any:
        """The Keras model, its outputs seen to depend on its inputs.

        Raises:
            ValueError: They do not.
        """
        keras.utils.set_random_seed(self.seed % 2**31)
        tensors = [keras.Input(door.shape, self.batch, dtype=door.dtype, name=f"input_{number}") for number, door in enumerate(self.doors)]
        model = keras.Model(tensors, self.make(keras, *tensors))
        generator = np.random.default_rng(self.seed)
        liven(model, generator)
        count = max(self.samples, self.settle)
        samples = [keras.ops.convert_to_tensor(values) for values in self.inputs(count).values()]
        if self.settle:
            settle(keras, model, samples, generator)
        if self.batch is None:
            answers = [keras.tree.flatten(model(samples, training=False))]
        else:
            starts = range(0, count, self.batch)
            answers = [keras.tree.flatten(model([values[at : at + self.batch] for values in samples], training=False)) for at in starts]
            for each in model.layers:
                if getattr(each, "stateful", False):
                    each.reset_state()
        for outputs in zip(*answers, strict=True):
            check_lively(np.concatenate([np.asarray(output) for output in outputs]))
        return model

    def save(self, keras: Any, model_file: Path, samples_file: Path) -> None:
        """Write the model, and its samples as ``.npz``."""
        self.model(keras).save(model_file)
        np.savez(samples_file, **self.inputs(self.samples))


def layer(name: str, door: Door, build: Callable[[Any], Any]) -> Case:
    """A case of one layer: ``build`` makes it, given ``keras.layers``."""
    return Case(name, (door,), lambda keras, tensor: build(keras.layers)(tensor))


def liven(model: Any, generator: np.random.Generator) -> None:
    """Give weights that start as zeros or ones values of their own."""
    for weight in model.weights:
        name, values = weight.path.rsplit("/", 1)[-1], np.asarray(weight)
        if values.dtype.kind != "f" or name == "seed_generator_state" or "state" in name:
            continue
        if name in ("gamma", "scale", "moving_variance", "variance"):
            weight.assign(generator.uniform(0.5, 1.5, values.shape))
        elif name in ("bias", "recurrent_bias"):
            weight.assign(values + generator.normal(0, 0.3, values.shape))
        elif values.size and values.min() == values.max():
            weight.assign(generator.normal(0, 0.3, values.shape))
        elif name == "embeddings":
            weight.assign(generator.normal(0, 1, values.shape))


def settle(keras: Any, model: Any, samples: list[Any], generator: np.random.Generator) -> None:
    """Give a network what it learns in training: BatchNormalization its shifts, and the statistics of one batch.

    The shifts are positive, so that most units work. Without them a deep network of random weights is chaotic, as
    trained ones are not: weights rounded to float16 (5e-4) moved the outputs of MobileNet and ResNet50 by 4 to 8 %,
    with them by under 1 %. A network without normalization gets kernels that keep the size of what goes through, and
    the last layer one that makes scores of about 1: a softmax of larger ones answers 0 and 1, and hides differences.

    Source: He et al. 2015, "Delving Deep into Rectifiers", equation 10: twice the variance behind a ReLU.
    """
    layers = list(model._flatten_layers())
    normalizations = [each for each in layers if isinstance(each, keras.layers.BatchNormalization)]
    if not normalizations and not any(isinstance(each, keras.layers.LayerNormalization) for each in layers):
        for weight in model.weights:
            weight.assign(weight * (2**0.5 if len(weight.shape) > 1 else 0.1))
    momenta = [each.momentum for each in normalizations]
    for each in normalizations:
        each.momentum = 0.0
        if each.center:
            each.beta.assign(generator.uniform(0.5, 1.5, each.beta.shape))
    model(samples, training=True)
    for each, momentum in zip(normalizations, momenta, strict=True):
        each.momentum = momentum
    last = next(each for each in reversed(layers) if hasattr(each, "kernel"))  # Dense, or a convolution of 1×1
    kernel = keras.ops.reshape(last.kernel, (-1, last.kernel.shape[-1]))
    scores = keras.ops.matmul(keras.Model(model.inputs, last.input)(samples, training=False), kernel)
    last.kernel.assign(last.kernel / keras.ops.std(scores))


def check_lively(output: Array) -> None:
    """Refuse outputs that are the same for every sample: they would prove nothing."""
    if output.dtype.kind == "f" and not np.isfinite(output).all():
        raise ValueError("the case's own outputs must be finite")
    if (output == output[:1]).all():
        raise ValueError(f"the case's outputs must depend on its inputs, found {output.ravel()[:4]} for every sample")
    if output.dtype.kind == "f":
        spread = float(np.abs(output - output[:1]).max())
        if spread < 0.01 * float(np.abs(output).max()):
            raise ValueError(f"the case's outputs must depend on its inputs, found them {spread:.2g} apart")
