"""What each block of a network makes, in float and in 8 bits, on the same samples: noise, ranges and histograms."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lepton_converters.artifact import Artifact
from lepton_converters.divergence import divergence
from lepton_converters.float_graph import Block
from lepton_converters.inner_tensors import InnerTensors
from lepton_converters.ranges import Range, clipped_share
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_runtime.formats import Format
from lepton_runtime.manifest import BlockRecord
from lepton_runtime.tensors import Array, TensorSpec

_BINS = 64
_SURE = 3  # standard errors: of a hundred blocks, one in seven times any is taken for more than chance
_JUDGED = 32  # samples, evenly among all, that each block is tried on alone: it takes a run of the float network each


@dataclass(frozen=True)
class Histogram:
    """How the values of a tensor are distributed in both files; the outermost bins hold what is beyond them, too.

    Attributes:
        edges: Where bins start and end, one more than there are bins.
        in_float: The share of the float file's values in each bin.
        in_8_bits: The share of the quantized file's.
    """

    edges: tuple[float, ...]
    in_float: tuple[float, ...]
    in_8_bits: tuple[float, ...]


@dataclass(frozen=True)
class BlockExplanation:
    """What one block loses, measured at the tensor that it gives.

    Attributes:
        name: The layer's, from the names of its tensors.
        kinds: What its operators do, each kind once.
        tensor: The one that it gives.
        in_float: Whether it computes in float32.
        snr_db: Signal-to-noise ratio of the quantized network's values, the float network's being the signal: what has added up
            until here. Infinite without noise.
        own_snr_db: The same of what the block makes of the float network's values: what it adds itself, by rounding its inputs,
            weights and output.
        effect: How far that alone moves the float network's answers: their mean :func:`lepton_converters.divergence.divergence`
            over some samples, all other blocks being exact.
        range: From where to where the integers reach; ``None`` if it gives float32.
        low: The smallest value in the float network.
        high: The largest.
        clipped: The share of the float network's values that are beyond the range, 0 to 1.
        unused: The share of the integers that no sample made use of, 0 to 1; ``None`` if it gives float32.
        histogram: Of its values.
        record: What the export measured of it, or ``None``.
    """

    name: str
    kinds: tuple[str, ...]
    tensor: str
    in_float: bool
    snr_db: float
    own_snr_db: float
    effect: float
    range: tuple[float, float] | None
    low: float
    high: float
    clipped: float
    unused: float | None
    histogram: Histogram
    record: BlockRecord | None

    @property
    def surely_saved(self) -> float:
        """``record.saved`` where it is more than chance, else 0."""
        record = self.record
        if record is None or record.saved_error is None or record.saved < _SURE * record.saved_error:
            return 0.0
        return record.saved


class BlockTracing:
    """Runs both files, and the quantized one apart at every block, and adds up what they make."""

    def __init__(
        self,
        in_float: Artifact,
        in_8_bits: Artifact,
        blocks: Sequence[Block],
        *,
        samples: int,
        channel_axis: Callable[[str], int | None],
        opened: Callable[[bytes, Sequence[str]], InnerTensors],
    ) -> None:
        """Find the blocks in both files.

        Args:
            in_float: The float artifact.
            in_8_bits: The quantized one.
            blocks: Of the float artifact.
            samples: How many will come.
            channel_axis: Of a tensor.
            opened: Looks into a file.
        """
        self._artifacts = (in_float, in_8_bits)
        self._channel_axis = channel_axis
        self._record = in_8_bits.quantization
        specs = opened(in_8_bits.model, [operator.output for block in blocks for operator in block.operators]).specs
        held = {block: [operator.output for operator in block.operators if operator.output in specs] for block in blocks}
        self.unmatched = tuple(block.name for block, names in held.items() if not names)
        self._blocks = {
            names[-1]: block for block, names in held.items() if names and self._can_be_8_bits(block, [specs[n] for n in names])
        }
        self._files = tuple(opened(artifact.model, list(self._blocks)) for artifact in self._artifacts)
        self._sums = {name: _Sums(specs[name]) for name in self._blocks}
        self._slopes = {name: _Slopes() for name in self._blocks} if self._record and self._record.equalized else {}
        self._effects = dict.fromkeys(self._blocks, 0.0)
        self._count = self._judged = 0
        self._judged_share = min(1.0, _JUDGED / max(1, samples))

    def _can_be_8_bits(self, block: Block, specs: Sequence[TensorSpec]) -> bool:
        """Whether a block computes in 8 bits, or was kept in float to save accuracy.

        TFLite has others: the operators of a float file are not sorted by that. What ONNX computes in 8 bits may give float32.
        """
        is_quantized = any(spec.scale is not None for spec in specs) or self._artifacts[1].format == Format.ONNX
        return is_quantized or self._is_kept(block)

    def _is_kept(self, block: Block) -> bool:
        return self._record is not None and block.name in self._record.float_blocks

    @property
    def needs_factors(self) -> bool:
        """Whether channels were made alike, so that :meth:`learn` must see all samples before :meth:`add` does."""
        return bool(self._slopes)

    def learn(self, inputs: Mapping[str, Array]) -> None:
        """Take one batch in, to find what each channel was multiplied by when ranges were made alike."""
        given, files = self._given(inputs), self._files
        wanted, found = files[0].values(given[0]), files[1].values(given[1])
        for name, slopes in self._slopes.items():
            axis = self._channel_axis(name)
            if axis is not None:
                slopes.add(wanted[name], self._sums[name].spec.dequantize(found[name]), axis)

    def add(self, inputs: Mapping[str, Array]) -> None:
        """Take one batch in.

        Args:
            inputs: Of the network, real numbers, batch axis included.

        Raises:
            InputError: A value inside of the network is NaN or infinite.
        """
        if not self._blocks:
            return
        count = len(next(iter(inputs.values())))
        given = self._given(inputs)
        exact = self._files[0].values(given[0])
        found = self._files[1].values(given[1])
        factors = self._factors
        wanted = {name: array * factors.get(name, 1) for name, array in exact.items()}
        apart = self._files[1].values_apart(given[1], wanted)
        if self._judged < self._judged_share * (self._count + count):
            errors = {name: sums.spec.dequantize(apart[name]) / factors.get(name, 1) - exact[name] for name, sums in self._sums.items()}
            self._judge(given[0], errors)
        for name, sums in self._sums.items():
            sums.add(wanted[name], found[name], apart[name], first_sample=self._count)
        self._count += count

    @cached_property
    def _factors(self) -> dict[str, Array]:
        """What the channels of each tensor were multiplied by, once :meth:`learn` has seen all samples."""
        return {name: slopes.factors for name, slopes in self._slopes.items()}

    def _judge(self, inputs: Mapping[str, Array], errors: Mapping[str, Array]) -> None:
        """Add up how far the error of each block alone moves the answers."""
        none = {name: np.zeros_like(error, np.float32) for name, error in errors.items()}
        reference = self._files[0].answers(inputs, none)
        for name, error in errors.items():
            moved = self._files[0].answers(inputs, {**none, name: np.asarray(error, np.float32)})
            self._effects[name] += float(divergence(reference, moved).sum())
        self._judged += len(next(iter(inputs.values())))

    def _given(self, inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
        """The inputs as each of the two files takes them."""
        return [{spec.name: spec.quantize(inputs[spec.name]) for spec in artifact.inputs} for artifact in self._artifacts]

    def blocks(self) -> tuple[BlockExplanation, ...]:
        """What each block loses, in the order in which they run."""
        records = {record.name: record for record in self._record.measured} if self._record else {}
        explained = []
        for name, block in self._blocks.items():
            sums = self._sums[name]
            explained.append(
                BlockExplanation(
                    name=block.name,
                    kinds=tuple(dict.fromkeys(operator.kind for operator in block.operators)),
                    tensor=name,
                    in_float=self._is_kept(block),
                    snr_db=_decibels(sums.signal, sums.noise),
                    own_snr_db=_decibels(sums.signal, sums.own_noise),
                    effect=self._effects[name] / max(1, self._judged),
                    range=sums.range,
                    low=sums.statistics.low,
                    high=sums.statistics.high,
                    clipped=sums.clipped,
                    unused=sums.unused,
                    histogram=sums.histogram(),
                    record=records.get(block.name),
                )
            )
        return tuple(explained)


class _Slopes:
    """What the channels of one tensor were multiplied by: the slope of the quantized file's values over the float file's."""

    def __init__(self) -> None:
        self._products: Array | float = 0.0
        self._squares: Array | float = 0.0

    def add(self, wanted: Array, found: Array, axis: int) -> None:
        """Take the values of one batch in."""
        axes = tuple(other for other in range(wanted.ndim) if other != axis % wanted.ndim)
        exact = wanted.astype(np.float64)
        self._products = self._products + (exact * found).sum(axes, keepdims=True)
        self._squares = self._squares + (exact * exact).sum(axes, keepdims=True)

    @property
    def factors(self) -> Array:
        """One for each channel, of a length that the values can be multiplied by: no channel was made smaller."""
        squares = np.asarray(self._squares)
        slopes = np.divide(self._products, squares, out=np.ones_like(squares), where=squares > 0)
        return np.asarray(np.maximum(slopes, 1), np.float32)


class _Sums:
    """What is known of one tensor after any number of batches, in constant memory."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.signal = self.noise = self.own_noise = 0.0
        self.statistics, self._quantized = TensorStatistics(spec.name), TensorStatistics(spec.name)
        self._levels = np.iinfo(spec.dtype) if spec.scale is not None else None
        self._uses = np.zeros(0 if self._levels is None else int(self._levels.max) - int(self._levels.min) + 1, np.int64)

    def add(self, wanted: Array, found: Array, apart: Array, *, first_sample: int) -> None:
        real = self.spec.dequantize(found)
        self.signal += _squares(wanted)
        self.noise += _squares(real - wanted)
        self.own_noise += _squares(self.spec.dequantize(apart) - wanted)
        self.statistics.add(wanted, first_sample=first_sample)
        if self._levels is None:
            self._quantized.add(real, first_sample=first_sample)
        else:
            self._uses += np.bincount(found.reshape(-1).astype(np.intp) - self._levels.min, minlength=len(self._uses))

    @property
    def range(self) -> tuple[float, float] | None:
        if self._levels is None:
            return None
        low, high = self.spec.dequantize(np.array([self._levels.min, self._levels.max])).tolist()
        return low, high

    @property
    def clipped(self) -> float:
        """Half a step beyond the outermost integers is rounded like all other values."""
        if self.range is None or self.spec.scale is None:
            return 0.0
        return clipped_share(self.statistics, Range(self.range[0] - self.spec.scale / 2, self.range[1] + self.spec.scale / 2))

    @property
    def unused(self) -> float | None:
        return None if self._levels is None else float((self._uses == 0).mean())

    def histogram(self) -> Histogram:
        """Over the range, in bins of whole steps: others would hold now more, now fewer integers."""
        step = 0.0 if self.spec.scale is None else self.spec.scale
        low, high = self.range or (min(self.statistics.low, self._quantized.low), max(self.statistics.high, self._quantized.high, 1e-30))
        edges = np.linspace(low - step / 2, high + step / 2, _BINS + 1)
        counts = self._uses.reshape(_BINS, -1).sum(axis=1) if self._levels is not None else _rebinned(self._quantized, edges)
        shares = [found / found.sum() for found in (_rebinned(self.statistics, edges), counts)]
        return Histogram(tuple(edges.tolist()), tuple(shares[0].tolist()), tuple(shares[1].tolist()))


def _rebinned(statistics: TensorStatistics, edges: Array) -> Array:
    """How many values lie in each of other bins, which are wider; exact zeros stay in one."""
    counts = statistics.counts.astype(np.float64)
    counts[len(counts) // 2] -= statistics.zeros
    below = np.concatenate([[0], np.cumsum(counts)])
    ends = np.concatenate([[0], np.interp(edges[1:-1], statistics.edges, below), [below[-1]]])
    found = np.diff(ends)
    found[np.clip(np.searchsorted(edges, 0, side="right") - 1, 0, len(found) - 1)] += statistics.zeros
    return found


def _squares(values: Array) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _decibels(signal: float, noise: float) -> float:
    """How much stronger one is, in decibels."""
    if noise == 0:
        return np.inf
    return 10 * float(np.log10(signal / noise)) if signal else -np.inf
