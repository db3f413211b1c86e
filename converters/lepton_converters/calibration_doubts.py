"""What looks wrong with calibration data, said before its ranges go into a file."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from lepton_converters.ranges import LEVELS
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_runtime.labels import class_output
from lepton_runtime.preprocess import Preprocessing
from lepton_runtime.tensors import Array, TensorSpec

_ENOUGH_SAMPLES = 64
_WASTED = 0.5  # of the steps
_DEAD = 0.25  # of a tensor's channels; a few are in most networks
_LEAST_CHANNELS = 8
_EMPTY_FEATURES = 0.5  # of an input that is no image: the border of handwritten digits is always empty
# Of the answers, by the number of classes: one of two is often rare, as with faults and fraud; of many, a network is not always right.
_ONE_CLASS = {2: 0.98, 3: 0.9, 4: 0.9}
_ONE_CLASS_OF_MANY = 0.6
_LEAST_ANSWERS = 32
_BY_CHANCE = 1e-5  # how likely honest halves are to be doubted, for one tensor
_PIXELS = 255.0
_FEW_UNITS = 10.0  # as far as pixels reach that were brought to a mean of 0 and a deviation of 1
_SHOWN = 3  # names in a message


def find_doubts(
    statistics: Mapping[str, TensorStatistics],
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    samples: int,
    distinct_samples: int,
    preprocessing: Preprocessing | None,
    takes_raw_pixels: bool,
    best_counts: Array | None,
) -> list[str]:
    """Warnings in plain words: what was found, why it matters and what to do; none for data that shows what the model will see.

    Args:
        statistics: By tensor name, of the inputs and of everything that depends on them. Inputs of ids may be left out.
        inputs: The model's inputs.
        outputs: The model's outputs.
        samples: How many samples were measured.
        distinct_samples: How many of them differ from all others.
        preprocessing: What was recorded for the model's image, or ``None``.
        takes_raw_pixels: Whether the model rescales or normalizes its input itself.
        best_counts: How many samples each class was the best answer to, ``(classes,)``, or ``None`` if answers are no classes.
    """
    few = list(_too_few(samples))
    if samples > 1 and distinct_samples == 1:
        # Everything else that would be found follows from this.
        return [*few, _all_same(statistics, inputs, samples)]
    statistics = {name: found for name, found in statistics.items() if found.count}
    numbers = [spec for spec in inputs if spec.name in statistics and np.dtype(spec.dtype).kind == "f"]
    names = {spec.name for spec in inputs}
    # Inner tensors of one value are constants of the graph, such as the first states of a recurrent layer.
    inner = {name: found for name, found in statistics.items() if name not in names and not _is_constant(found)}
    twice = list(_normalized_twice(statistics, numbers, preprocessing, takes_raw_pixels))
    return [
        *few,
        *_constant_inputs(statistics, numbers),
        *twice,
        *(() if twice else _without_zero({**{spec.name: statistics[spec.name] for spec in numbers}, **inner})),  # it follows
        *(_dead_channels(inner) if samples >= _ENOUGH_SAMPLES else ()),
        *_halves_apart(statistics, samples),
        *_one_class(best_counts, outputs),
    ]


def _too_few(samples: int) -> Iterator[str]:
    if samples < _ENOUGH_SAMPLES:
        yield (
            f"calibration takes {_ENOUGH_SAMPLES} samples or more, found {samples}: other samples go beyond the ranges of so few, and are "
            "cut off there; give more with --calib and --calib-samples"
        )


def _all_same(statistics: Mapping[str, TensorStatistics], inputs: Sequence[TensorSpec], samples: int) -> str:
    constant = [spec.name for spec in inputs if spec.name in statistics and _is_constant(statistics[spec.name])]
    values = f" (every value of {_listed(constant)} is {statistics[constant[0]].low:g})" if constant else ""
    return (
        f"all {samples} calibration samples are the same{values}: ranges of one sample fit no other; "
        "look at what --calib reads, and give samples that differ"
    )


def _constant_inputs(statistics: Mapping[str, TensorStatistics], inputs: Sequence[TensorSpec]) -> Iterator[str]:
    for spec in inputs:
        found = statistics[spec.name]
        if _is_constant(found):
            yield (
                f"input {spec.name!r} is {found.low:g} in every calibration sample: nothing that depends on it was measured; "
                "give samples in which it varies"
            )
            continue
        constant, channels = _constant_channels(found)
        if constant > (0 if len(spec.shape) == 4 and channels <= 4 else _EMPTY_FEATURES * channels):
            yield (
                f"{constant} of {channels} channels of input {spec.name!r} have one value in all calibration samples: nothing that "
                "depends on them was measured; give samples in which they vary"
            )


def _normalized_twice(
    statistics: Mapping[str, TensorStatistics], inputs: Sequence[TensorSpec], steps: Preprocessing | None, takes_raw_pixels: bool
) -> Iterator[str]:
    """Doubts about an image whose values were scaled, or centered, once more than the model wants."""
    spec = next((spec for spec in inputs if len(spec.shape) == 4), None)
    if spec is None or steps is None or steps.size is None or _is_constant(statistics[spec.name]):
        return
    found = statistics[spec.name]
    values = f"input {spec.name!r} gets {found.low:.4g} to {found.high:.4g}"
    scale, mean, std = steps.scale, np.array(steps.mean), np.array(steps.std)
    is_unscaled = steps.scale == 1 and not mean.any() and (std == 1).all()
    if takes_raw_pixels:
        if found.low >= -1 and found.high <= 1:
            advice = "give raw values from 0 to 255 with --calib" if is_unscaled else "leave --scale, --mean and --std out"
            yield f"{values}, and the model rescales or normalizes it itself: it looks normalized twice, and is next to black; {advice}"
        return
    # Steps that turn 255 into a number of a few units are meant for raw pixels.
    if np.abs(_PIXELS * scale / std).max() > _PIXELS / 10:
        return
    small, few, pixels = (
        (np.array([[low], [high]]) * scale - mean) / std for low, high in ((-1, 1), (-_FEW_UNITS, _FEW_UNITS), (0, _PIXELS))
    )
    has_negative = found.low < pixels.min() - 0.1 * scale / std.max()
    if _is_within(found, small) or (has_negative and _is_within(found, few)):
        yield (
            f"{values}, where the recorded preprocessing makes {pixels.min():.4g} to {pixels.max():.4g} of pixels of 0 to 255: the samples "
            "look normalized already, and are so twice; give raw values with --calib, or leave --scale, --mean and --std out"
        )


def _is_within(found: TensorStatistics, ends: Array) -> bool:
    slack = 1e-4 * np.abs(ends).max()
    return bool(ends.min() - slack <= found.low and found.high <= ends.max() + slack)


def _without_zero(statistics: Mapping[str, TensorStatistics]) -> Iterator[str]:
    wasted = {name: _wasted(found) for name, found in statistics.items()}
    worst = sorted((name for name, share in wasted.items() if share > _WASTED), key=lambda name: -wasted[name])
    if worst:
        found = statistics[worst[0]]
        yield (
            f"values stay far from 0 in {_listed(worst)} ({worst[0]!r} has {found.low:.4g} to {found.high:.4g}): 8-bit ranges include 0, "
            f"so {int(wasted[worst[0]] * LEVELS)} of {LEVELS} steps are never used and the rest are coarse; "
            "center the data with --mean, or keep that part in float if accuracy suffers"
        )


def _wasted(statistics: TensorStatistics) -> float:
    """The share of the steps that lie between 0 and all values."""
    low, high = statistics.low, statistics.high
    if low == high or low <= 0 <= high:
        return 0.0
    return min(abs(low), abs(high)) / max(abs(low), abs(high))


def _dead_channels(statistics: Mapping[str, TensorStatistics]) -> Iterator[str]:
    constant = {name: _constant_channels(found) for name, found in statistics.items()}
    shares = {name: number / channels for name, (number, channels) in constant.items() if channels >= _LEAST_CHANNELS}
    worst = sorted((name for name, share in shares.items() if share > _DEAD), key=lambda name: -shares[name])
    if worst:
        number, channels = constant[worst[0]]
        yield (
            f"many channels have one value in all calibration samples in {_listed(worst)} ({number} of {channels} in {worst[0]!r}): what "
            "other samples make of them was not measured; give samples that show everything the model will see, preprocessed as in training"
        )


def _halves_apart(statistics: Mapping[str, TensorStatistics], samples: int) -> Iterator[str]:
    """A doubt where even and odd samples are distributed more differently than chance explains.

    The limit holds for samples of one value each. The values of a sample are alike at the most, so more of them move a
    distribution no more than that.

    Source: the two-sample test of Kolmogorov and Smirnov, with the bound of Dvoretzky, Kiefer, Wolfowitz and Massart.
    """
    if samples < 2:
        return
    limit = math.sqrt(math.log(2 / _BY_CHANCE) / 2 * (1 / (samples // 2) + 1 / (samples - samples // 2)))
    distances = {name: _distance(found) for name, found in statistics.items() if found.half_counts.any(axis=1).all()}
    name = max(distances, key=lambda name: distances[name], default=None)
    if name is not None and distances[name] > limit:
        yield (
            f"even and odd calibration samples disagree, most in {name!r}: their distributions are {distances[name]:.2f} apart, chance "
            f"explains {limit:.2f}: ranges would depend on which were taken; look whether --calib mixes two sources, or spoils every "
            "second sample"
        )


def _distance(statistics: TensorStatistics) -> float:
    """The largest difference between the cumulated shares of even and of odd samples, 0 to 1."""
    even, odd = (np.cumsum(counts) / counts.sum() for counts in statistics.half_counts)
    return float(np.abs(even - odd).max())


def _one_class(best_counts: Array | None, outputs: Sequence[TensorSpec]) -> Iterator[str]:
    if best_counts is None or best_counts.sum() < _LEAST_ANSWERS:
        return
    if best_counts.max() < _ONE_CLASS.get(len(best_counts), _ONE_CLASS_OF_MANY) * best_counts.sum():
        return
    output = class_output(outputs)
    where = f" of {output.name!r}" if output else ""
    yield (
        f"the model answers class {int(best_counts.argmax())}{where} to {int(best_counts.max())} of {int(best_counts.sum())} calibration "
        "samples: what it does for other classes was hardly measured, or the samples are not preprocessed as in training; give samples of "
        "every class, and check --scale, --mean and --std"
    )


def _is_constant(statistics: TensorStatistics) -> bool:
    return statistics.count > 0 and statistics.low == statistics.high


def _constant_channels(statistics: TensorStatistics) -> tuple[int, int]:
    """How many channels have one value, and how many there are."""
    if statistics.channel_axis is None:
        return 0, 1
    return int((statistics.channel_lows == statistics.channel_highs).sum()), len(statistics.channel_lows)


def _listed(names: Iterable[str]) -> str:
    """The first few names.

    >>> _listed(["a", "b", "c", "d", "e"])
    "'a', 'b', 'c' and 2 more"
    """
    quoted = [repr(name) for name in names]
    more = f" and {len(quoted) - _SHOWN} more" if len(quoted) > _SHOWN else ""
    return ", ".join(quoted[:_SHOWN]) + more
