"""Which samples calibrate and which verify: seeded, streamed, and never the same ones."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lepton_converters.dataset import Dataset, Sample
from lepton_runtime.errors import InputError
from lepton_runtime.preprocess import Preprocessing
from lepton_runtime.tensors import Array, TensorSpec

_FREE_SIZES = (64, 96)


@dataclass(frozen=True)
class Calibration:
    """Samples that ranges are measured on, or blocks searched by.

    Attributes:
        dataset: Where they come from.
        indices: Which of its samples.
        batch: How many a model call takes.
    """

    dataset: Dataset
    indices: tuple[int, ...]
    batch: int
    _digests: set[bytes] = field(default_factory=set)

    def batches(self) -> Iterator[dict[str, Array]]:
        """Model inputs, batch axis included; a last batch that is not full repeats its last sample."""
        for samples in grouped(self.samples(), self.batch):
            yield stack(samples, self.batch)

    def samples(self) -> Iterator[Sample]:
        """One by one."""
        for sample in self.dataset.samples(self.indices):
            self._digests.add(_digest(sample))
            yield sample

    def digests(self) -> Iterator[bytes]:
        """One a sample, of its very values."""
        return map(_digest, self.dataset.samples(self.indices))

    @property
    def distinct(self) -> int:
        """How many of the samples that were read so far differ from all others."""
        return len(self._digests)

    def holds(self, sample: Sample) -> bool:
        """Whether a sample's very values were used, wherever it was read from."""
        return _digest(sample) in self._digests


def split_samples(dataset: Dataset, *, samples: int, seed: int, batch: int, hold_back: bool = True) -> tuple[Calibration, tuple[int, ...]]:
    """A calibration, and the samples held back from it for verification, in seeded random order.

    Args:
        dataset: Where both come from.
        samples: How many to calibrate on, at most.
        seed: Of the choice.
        batch: How many a model call takes.
        hold_back: Whether to keep at least a fifth of the data for verification.

    Raises:
        InputError: There are fewer than two samples, and one must be held back.
    """
    if dataset.count < 2 and hold_back:
        raise InputError(
            f"calibration needs at least 2 samples, one of them held back to verify, found {dataset.count} in {dataset.path!r}"
        )
    order = np.random.default_rng(seed).permutation(dataset.count).tolist()
    count = max(1, min(samples, dataset.count - max(1, dataset.count // 5) * hold_back))
    return Calibration(dataset, tuple(order[:count]), batch), tuple(order[count:])


def split_labelled(evaluated: Dataset, *, samples: int, seed: int, batch: int) -> tuple[Calibration, list[int]]:
    """Labelled samples to search by, at most half, and those that are left to verify on.

    Others of the calibration's data will not do: the network was trained on most of them, so that it is surer of its answers there
    than it will be of new ones, and fewer of them change.

    Args:
        evaluated: Where both come from.
        samples: How many to search by, at most.
        seed: Of the choice.
        batch: How many a model call takes.

    Raises:
        InputError: There are fewer than two.
    """
    if evaluated.count < 2:
        raise InputError(
            f"--max-drop needs at least 2 samples in --eval, one to search by and one to verify on, found {evaluated.count}; give more"
        )
    order = np.random.default_rng(seed).permutation(evaluated.count).tolist()
    # Every second one: where the calibration is of the same data, it has the first of the same order, and both must keep others.
    searched = order[1::2][:samples]
    return Calibration(evaluated, tuple(searched), batch), sorted(set(order) - set(searched))


def unseen(samples: Iterator[Sample], seen: Sequence[Calibration], *, use: str = "verification") -> Iterator[Sample]:
    """Those that were not read before, under another place in the data or not.

    Args:
        samples: To choose from.
        seen: What was calibrated on, and searched by.
        use: What they are for.

    Raises:
        InputError: There were some, and each has the content of one that was.
    """
    count = other = 0
    for sample in samples:
        count += 1
        if not any(others.holds(sample) for others in seen):
            other += 1
            yield sample
    if count and not other:
        before = "calibrated on or searched by" if len(seen) > 1 else "calibrated on"
        raise InputError(
            f"{use} needs samples that differ from all that were {before}, of the {count} others each is the same as one of "
            "those; check the data, or give other samples with --eval or --calib"
        )


def random_samples(
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing | None,
    *,
    count: int,
    seed: int,
    raw_pixels: bool,
    padding: float | Array | None = None,
    limits: Mapping[str, int] | None = None,
) -> Iterator[Sample]:
    """Seeded noise for a verification without data.

    Images are noise in 0…255 that goes through the recorded preprocessing; where none is recorded and the model
    does not rescale its input itself, noise in 0…1. Other real inputs are normally distributed, integers are 0 or 1,
    unless ``limits`` says more. Free axes are 64 long in the first half of the samples; in the second, the first free axis
    of an input is 96 long.

    Where a layer masks steps, every second sample is shorter than its input: its last steps are padding, and in every eighth
    the first ones, too. A step is always left, for an average of none is NaN in Keras.

    Args:
        inputs: The model's inputs.
        preprocessing: Of its image input, or ``None``.
        count: How many samples.
        seed: Of the noise.
        raw_pixels: Whether the model rescales its input itself.
        padding: The value of real steps that a layer masks, ids are 0 there; ``None`` where no layer masks any.
        limits: How many ids there are for an input that takes ids.
    """
    generator = np.random.default_rng(seed)
    limits = limits or {}
    for number in range(count):
        values: dict[str, Array] = {}
        kept = _kept_steps(number, generator) if padding is not None else None
        for spec in inputs:
            shape = _filled(spec.shape[1:], is_longer=2 * number >= count)
            if spec.name in limits or np.dtype(spec.dtype).kind != "f":
                ids = random_ids(shape, spec, limits, generator)
                values[spec.name] = ids if kept is None or not shape else _padded(ids, kept, 0, least=min(1, limits.get(spec.name, 2) - 1))
            elif preprocessing is None or preprocessing.size is None:
                steps = generator.normal(size=shape).astype(spec.dtype)
                values[spec.name] = steps if kept is None or padding is None or len(shape) < 2 else _padded(steps, kept, padding)
            else:
                size = _filled(preprocessing.size, is_longer=2 * number >= count)
                noise = generator.integers(0, 256, (*size, preprocessing.channels or 1)).astype(np.float32)
                values[spec.name] = preprocessing.apply(noise / 255 if preprocessing.is_identity and not raw_pixels else noise)
        yield Sample(values, None)


def random_ids(shape: Sequence[int], spec: TensorSpec, limits: Mapping[str, int], generator: np.random.Generator) -> Array:
    """Whole numbers from 0 that an input takes: all of those that there are, else 0 and 1."""
    limit = limits.get(spec.name, 2)
    if np.dtype(spec.dtype).kind in "iu":
        limit = min(limit, int(np.iinfo(spec.dtype).max) + 1)
    return generator.integers(0, limit, shape).astype(spec.dtype)


def _kept_steps(number: int, generator: np.random.Generator) -> tuple[float, float]:
    """From where to where a sample's steps are not padding, in shares of its length, for inputs of one length to agree."""
    first, last = sorted(generator.random(2))
    return (first if number % 8 == 3 else 0.0, last) if number % 2 else (0.0, 1.0)


def _padded(steps: Array, kept: tuple[float, float], padding: float | Array, *, least: int = 0) -> Array:
    """The steps with padding before and behind those that are kept, whose first is not below ``least``."""
    start = int(kept[0] * len(steps))
    stop = max(start + 1, int(kept[1] * len(steps)))
    padded = np.full_like(steps, padding)
    padded[start:stop] = steps[start:stop]
    if least:
        padded[start] = np.maximum(padded[start], least)
    return padded


def _filled(shape: Sequence[int | None], *, is_longer: bool) -> list[int]:
    """The shape with lengths for its free axes: multiples of 32, since networks halve images up to five times."""
    first = next((position for position, axis in enumerate(shape) if axis is None), None)
    lengths = enumerate(shape)
    return [(_FREE_SIZES[is_longer and position == first] if axis is None else axis) for position, axis in lengths]


def with_noise(dataset: Dataset, specs: Sequence[TensorSpec]) -> Dataset:
    """The data set with the noise that its samples do not hold, for dropout that is kept.

    Args:
        dataset: Of the other inputs.
        specs: The inputs that take noise.
    """
    return replace(dataset, _read=lambda indices: add_noise(dataset.samples(indices), specs))


def add_noise(samples: Iterator[Sample], specs: Sequence[TensorSpec]) -> Iterator[Sample]:
    """The samples with noise for dropout, always the same for the same values."""
    for sample in samples:
        generator = np.random.default_rng(int.from_bytes(_digest(sample)[:8]))
        noise = {spec.name: generator.random([axis or 1 for axis in spec.shape[1:]], np.float32) for spec in specs}
        yield replace(sample, inputs={**sample.inputs, **noise})


def grouped(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    """The samples in lists of ``size``, shorter at the end and where the shape of samples changes."""
    group: list[Sample] = []
    for sample in samples:
        if group and _shapes(group[-1]) != _shapes(sample):
            yield group
            group = []
        group.append(sample)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def stack(samples: Sequence[Sample], batch: int) -> dict[str, Array]:
    """One array an input, ``(batch, …)``; missing samples repeat the last one."""
    padded = [*samples, *[samples[-1]] * (batch - len(samples))]
    return {name: np.stack([sample.inputs[name] for sample in padded]) for name in samples[0].inputs}


def stack_raw(samples: Sequence[Sample], batch: int) -> dict[str, Array]:
    """One array a raw input, ``(batch, …)``; missing samples repeat the last one. Inputs, where nothing is encoded."""
    raw = [Sample(sample.inputs if sample.raw is None else sample.raw, None) for sample in samples]
    return stack(raw, batch)


def _shapes(sample: Sample) -> list[tuple[int, ...]]:
    return [value.shape for value in (*sample.inputs.values(), *(sample.raw or {}).values())]


def _digest(sample: Sample) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for value in sample.inputs.values():
        digest.update(value.tobytes())
    return digest.digest()
