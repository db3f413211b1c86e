"""The 8-bit form of a network that answers most like it: which ranges, which rounding, which blocks stay in float."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from time import monotonic
from typing import Protocol

from lepton_converters.artifact import Artifact
from lepton_converters.calibration import Calibration
from lepton_converters.calibration_cache import CalibrationCache, calibration_key
from lepton_converters.candidate import Candidate, Comparison
from lepton_converters.dataset import Sample
from lepton_converters.divergence import is_lower
from lepton_converters.equalization import equalize
from lepton_converters.float_graph import FloatGraph, Ranges
from lepton_converters.ranges import Range, RangeMethod, best_range, find_range
from lepton_converters.recipe import IntegerIo
from lepton_converters.sensitivity import measure_blocks
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_converters.weight_fitting import Rounding, fit_weights
from lepton_runtime.errors import InputError
from lepton_runtime.formats import Format, Target
from lepton_runtime.manifest import Quantization

_HELD_BACK = 5  # one of so many calibration samples
_FEWEST_COMPARED = 32
_COMPARED_PRODUCTS = 4e10  # all together, so that a comparison takes some seconds
_COMPARED = (100, 1000)  # samples: at least and at most
_WORTH_KEEPING_S = 1.0
_WORTH_A_THIRD = 1.25  # so much more error, of a network that is answered in two thirds of the time
_BY_TENSOR = "by-tensor"


class BlockSearch(Protocol):
    """Finds the blocks that must stay in float; see :class:`lepton_converters.mixed_precision.Search`."""

    @property
    def samples(self) -> Callable[[], Iterator[Sample]]:
        """Gives its own samples, anew at each call, that neither calibrate nor verify."""
        ...

    def __call__(self, candidate: Candidate, comparison: Comparison) -> Candidate:
        """The candidate with those blocks in float."""
        ...


@dataclass(frozen=True)
class Quantizer:
    """Makes ``static-int8`` artifacts of float networks, with what lowers the error on held-back samples switched on.

    Attributes:
        calibration: Samples to measure the ranges on.
        spare: Others of its data set, to compare by; where they are few, some of the calibration are held back instead, and where
            these are too few, samples of the search are taken.
        io: ``float`` keeps float32 at the doors, ``int8`` and ``uint8`` take and give integers.
        target: The CPU that ONNX artifacts are for; those of a recipe are for the one that it says.
        seed: Of everything chosen at random.
        search: Finds the blocks that must stay in float; ``None`` keeps none.
        measures_blocks: Whether to record what each block costs, also where no search needs it; not of a recipe.
        recipe: What to take instead of choosing, by format.
        cache: Of what was measured before.
        on_measured: Given what is known of each activation of a network.
        on_progress: Told in words what is under way.
    """

    calibration: Calibration
    spare: tuple[int, ...] = ()
    io: IntegerIo = "float"
    target: Target = Target.ANY
    seed: int = 0
    search: BlockSearch | None = None
    measures_blocks: bool = False
    recipe: Mapping[Format, Quantization] = field(default_factory=dict)
    cache: CalibrationCache = field(default_factory=CalibrationCache)
    on_measured: Callable[[Mapping[str, TensorStatistics]], None] = lambda statistics: None
    on_progress: Callable[[str], None] = lambda text: None

    def quantize(self, graph: FloatGraph) -> Artifact:
        """The artifact, with the record of what was chosen.

        Raises:
            UnsupportedError: It cannot be made.
            InputError: The recipe is of another network, or there are too few samples to measure blocks by.
        """
        count = _most_compared(graph)
        measured, held_back = self._split(count)
        if graph.format in self.recipe:
            return self._repeated(graph, measured, self.recipe[graph.format]).artifact()
        if self.measures_blocks and not held_back and not self.search:
            raise InputError(
                f"--measure-blocks needs {_FEWEST_COMPARED} samples that no range is measured on, found {len(self.calibration.indices)} to "
                f"calibrate on and {len(self.spare)} others: give more with --calib, or leave more over with a smaller --calib-samples"
            )
        plain = Quantization(str(self._target(graph)), RangeMethod.MIN_MAX, False, Rounding.NEAREST, (), len(graph.blocks))
        self.on_progress("ranges")
        statistics = measure_statistics(graph, measured, self.cache)
        self.on_measured(statistics)
        candidate = Candidate(graph, find_ranges(statistics, RangeMethod.MIN_MAX), plain, self.io)
        if not held_back and self.search:
            held_back = tuple(islice(self.search.samples(), count))
        if not held_back:
            return candidate.artifact()
        comparison = Comparison(replace(candidate, io="float"), held_back, self.calibration.batch)
        if len(held_back) >= _FEWEST_COMPARED:
            candidate = self._chosen(candidate, statistics, measured, comparison)
        if self.search:
            candidate = self.search(candidate, comparison)
        if self.measures_blocks and not candidate.record.measured:
            measured_blocks = measure_blocks(candidate, comparison, on_progress=self.on_progress)
            candidate = replace(candidate, record=replace(candidate.record, measured=tuple(measured_blocks)))
        return candidate.artifact()

    def _chosen(
        self, candidate: Candidate, statistics: Mapping[str, TensorStatistics], measured: Calibration, comparison: Comparison
    ) -> Candidate:
        """The candidate with everything that lowers its error."""
        best, error = candidate, comparison.error(candidate.artifact())

        def take_lowest(others: Iterable[Candidate]) -> None:
            """Of those that are better than what there is, the best."""
            nonlocal best, error
            base_error = error
            for other in others:
                found = comparison.error(other.artifact())
                if is_lower(found, base_error) and found.mean() < error.mean():
                    best, error = other, found

        take_lowest(
            replace(candidate, ranges=ranges, record=replace(candidate.record, ranges=method))
            for method, ranges in _all_ranges(statistics).items()
        )
        self.on_progress("equalize")
        equal = equalize(best.graph, statistics)
        if equal is not None:
            ranges = find_ranges(measure_statistics(equal, measured, self.cache), best.record.ranges)
            take_lowest([replace(best, graph=equal, ranges=ranges, record=replace(best.record, equalized=True))])
        shared = best.graph.with_shared_scales()
        if shared is not None:
            other = replace(best, graph=shared, record=replace(best.record, shared_scales=True))
            found = comparison.error(other.artifact())
            if found.mean() <= _WORTH_A_THIRD * error.mean():
                best, error = other, found
        self.on_progress("round")
        exact = best.graph
        take_lowest(
            replace(best, graph=graph, exact=exact, record=replace(best.record, rounding=str(rounding)))
            for rounding, graph in self._rounded(exact, measured, tuple(Rounding)[1:], Target(best.record.target)).items()
        )
        return best

    def _repeated(self, graph: FloatGraph, measured: Calibration, record: Quantization) -> Candidate:
        """The candidate that a record describes.

        Raises:
            InputError: It is of another network.
        """
        unknown = set(record.float_blocks) - {block.name for block in graph.blocks}
        if unknown or record.blocks != len(graph.blocks):
            raise InputError(
                f"--recipe must be of the same network, found {record.blocks} blocks in it and {len(graph.blocks)} in the model"
                + (f", and no block {sorted(unknown)[0]!r}" if unknown else "")
            )
        statistics = measure_statistics(graph, measured, self.cache)
        if record.equalized:
            graph = equalize(graph, statistics) or graph
            statistics = measure_statistics(graph, measured, self.cache)
        if record.shared_scales:
            graph = graph.with_shared_scales() or graph
        candidate, rounding = Candidate(graph, find_ranges(statistics, record.ranges), record, self.io), Rounding(record.rounding)
        if rounding == Rounding.NEAREST:
            return candidate
        rounded = self._rounded(graph, measured, (rounding,), Target(record.target))
        return replace(candidate, graph=rounded[rounding], exact=graph)

    def _rounded(
        self, graph: FloatGraph, measured: Calibration, roundings: tuple[Rounding, ...], target: Target
    ) -> dict[Rounding, FloatGraph]:
        return fit_weights(graph, measured.batches, roundings, target=target, seed=self.seed)

    def _target(self, graph: FloatGraph) -> Target:
        return self.target if graph.format == Format.ONNX else Target.ANY

    def _split(self, count: int) -> tuple[Calibration, tuple[Sample, ...]]:
        """What is measured, and samples to compare by, at most so many; none where there are too few."""
        indices, compared = self.calibration.indices, self.spare[:count]
        if len(compared) < len(indices) // _HELD_BACK:
            compared = indices[::_HELD_BACK][:count]
            held_back = set(compared)
            indices = tuple(index for index in indices if index not in held_back)
        if len(compared) < _FEWEST_COMPARED:
            return self.calibration, ()
        return replace(self.calibration, indices=indices), tuple(self.calibration.dataset.samples(compared))


def _most_compared(graph: FloatGraph) -> int:
    """How many samples to compare by: the more, the smaller the network."""
    least, most = _COMPARED
    return int(min(most, max(least, _COMPARED_PRODUCTS / max(1, sum(block.products for block in graph.blocks)))))


def measure_statistics(graph: FloatGraph, calibration: Calibration, cache: CalibrationCache) -> dict[str, TensorStatistics]:
    """What is known of each activation whose range quantization needs.

    Args:
        graph: The network.
        calibration: Its inputs.
        cache: Where statistics of before are, those of a calibration that was interrupted too, and where these go.
    """
    axes = {name: graph.channel_axis(name) for name in graph.tensors}
    key = calibration_key(bytes.fromhex(graph.digest), samples=calibration.digests(), tensors=axes, settings={"batch": calibration.batch})
    start = monotonic()
    new = {name: TensorStatistics(name, channel_axis=axis) for name, axis in axes.items()}
    statistics, count = cache.load(key) or (new, 0)
    batches = islice(calibration.batches(), count // calibration.batch, None)
    for values in graph.values(batches, graph.tensors):
        for name, array in values.items():
            statistics[name].add(array, first_sample=count)
        count += calibration.batch
        cache.save_now_and_then(key, statistics, count)
    if monotonic() - start > _WORTH_KEEPING_S:
        cache.save(key, statistics, count)
    return statistics


def find_ranges(statistics: Mapping[str, TensorStatistics], method: str) -> dict[str, tuple[float, float]]:
    """The range of each tensor by a :class:`RangeMethod`, or by the one that is best for it (``by-tensor``)."""
    if method == _BY_TENSOR:
        return _all_ranges(statistics)[_BY_TENSOR]
    found = {name: find_range(entry, RangeMethod(method)) for name, entry in statistics.items()}
    return {name: (range_.low, range_.high) for name, range_ in found.items()}


def _all_ranges(statistics: Mapping[str, TensorStatistics]) -> dict[str, dict[str, tuple[float, float]]]:
    """The ranges by each method."""
    found = {str(method): find_ranges(statistics, method) for method in RangeMethod}
    return {**found, _BY_TENSOR: _mixed(statistics, found)}


def _mixed(statistics: Mapping[str, TensorStatistics], found: Mapping[str, Ranges]) -> dict[str, tuple[float, float]]:
    """The range of each tensor by the method that is best for it."""
    chosen = {
        name: best_range(entry, {RangeMethod(method): Range(*ranges[name]) for method, ranges in found.items()})
        for name, entry in statistics.items()
    }
    return {name: found[method][name] for name, method in chosen.items()}
