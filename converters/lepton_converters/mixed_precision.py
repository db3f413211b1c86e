"""The blocks that must compute in float for a network to keep to its budget, at the least cost in time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from lepton_converters.artifact import Artifact
from lepton_converters.artifact_runner import ArtifactRunner
from lepton_converters.budget import Budget
from lepton_converters.calibration import grouped
from lepton_converters.candidate import Candidate, Comparison
from lepton_converters.dataset import Sample
from lepton_converters.expected_drop import CONFIDENCE, expected_drop, temperature_scaled
from lepton_converters.float_graph import Block
from lepton_converters.sensitivity import measure_blocks
from lepton_runtime.errors import InputError
from lepton_runtime.formats import Target
from lepton_runtime.labels import class_output, class_scores
from lepton_runtime.manifest import BlockRecord, SearchStep
from lepton_runtime.tensors import Array

_GROUP = 256
# What one product of numbers costs in 8 bits, as a share of the same in float32. Measured for VNNI alone: the fastest matrix products
# of an AMD Zen 5 reach 236 GFLOP/s in float32 and 913 GOP/s in 8 bits on one thread, 0.26. The others are estimates, by how many products
# an instruction does: 16 for 4 of float32 with ARM's dot products; without, two or three instructions widen and add, so that little
# is won. Any CPU is taken to be between. Only how blocks compare depends on them, and whether keeping them saves any time.
_PRODUCT_COST = {Target.ANY: 0.5, Target.X86_VNNI: 0.25, Target.X86_AVX2: 0.6, Target.ARM_DOTPROD: 0.25, Target.ARM_V8: 0.7}
_LEAST_COST = 0.01  # of the whole network: so that blocks that cost next to nothing are told apart by what they save
# Of turning one value to or from 8 bits, in float32 products: an estimate, not measured, of a scaling, a rounding, two limits, a
# conversion, a load and a store, none of which does more values at once than a product does.
_CROSSING_COST = 8.0


class Search:
    """Measures accuracy on samples of its own, and finds what to keep in float."""

    def __init__(self, samples: Callable[[], Iterator[Sample]], budget: Budget, *, batch: int, on_progress: Callable[[str], None]) -> None:
        """Prepare to search.

        Args:
            samples: Labelled ones, anew at each call, that neither calibrate nor verify.
            budget: How much accuracy may be lost.
            batch: How many a call takes.
            on_progress: Told in words what is under way.
        """
        self.samples, self._budget, self._batch, self._on_progress = samples, budget, batch, on_progress

    def __call__(self, candidate: Candidate, comparison: Comparison) -> Candidate:
        """The candidate with as few blocks in float as keep to the budget, by cost.

        Blocks are taken in the order of the error that each makes or saves for the time that it costs; then each is taken back that turns
        out not to be needed. None are kept where none must, nor where so many must that 8 bits would save no time.
        """
        blocks = {block.name: block for block in candidate.graph.blocks}
        labels = np.array([sample.label for sample in self.samples()])
        scores = self._scores(replace(candidate, io="float").artifact(frozenset(blocks)))
        probabilities, before = temperature_scaled(scores, labels), scores.argmax(axis=1)
        accuracy = float((before == labels).mean())
        steps: list[SearchStep] = []

        def keeps(names: Sequence[str], changed: str = "") -> bool:
            after = self._scores(candidate.artifact(frozenset(names))).argmax(axis=1)
            drop, standard_error = expected_drop(probabilities, before, after)
            margin = CONFIDENCE * standard_error
            steps.append(SearchStep(len(names), changed, drop, margin))
            self._on_progress(f"search: {len(names)} of {len(blocks)} blocks in float, drop {100 * drop:.2f} ± {100 * margin:.2f}pp")
            # What the labels say is noisier; it must not speak against it. Where no answer changes, more blocks in float could show
            # nothing better, however few the samples and wide the margin.
            labelled = float((after == labels).mean())
            worst = accuracy if (after == before).all() else min(accuracy - drop - margin, labelled + margin)
            return self._budget.allows(worst, source_accuracy=accuracy)

        if keeps([]):
            return replace(candidate, record=replace(candidate.record, steps=tuple(steps)))
        measured = measure_blocks(candidate, comparison, on_progress=self._on_progress)
        order = _ranked(candidate, measured)
        kept = order[: _least(len(order), lambda count: keeps(order[:count]))]
        if len(kept) == len(order) < len(blocks) and not keeps(kept):
            kept = []  # those that were left out would be needed
        for name in reversed(kept):
            without = [other for other in kept if other != name]
            if without and keeps(without, name):
                kept = without
        float_blocks = tuple(name for name in blocks if name in kept) if _saves_time(candidate, kept) else ()
        return replace(candidate, record=replace(candidate.record, float_blocks=float_blocks, measured=tuple(measured), steps=tuple(steps)))

    def _scores(self, artifact: Artifact) -> Array:
        """An artifact's class scores, ``(samples, classes)``."""
        runner, classes = ArtifactRunner(artifact, threads=1), class_output(artifact.outputs)
        if classes is None:
            raise InputError(f"accuracy needs an output of (batch, classes), found {', '.join(map(str, artifact.outputs))}")
        groups = grouped(self.samples(), -(-_GROUP // self._batch) * self._batch)
        return np.concatenate([class_scores(runner.answers(group, self._batch)[classes.name]) for group in groups])


def _ranked(candidate: Candidate, measured: Sequence[BlockRecord]) -> list[str]:
    """Names of blocks, first those that make the most error alone in 8 bits, or save it in float, for the time that they cost."""
    blocks = {block.name: block for block in candidate.graph.blocks}
    whole = _float_cost(candidate)
    costs = {name: _extra_cost(candidate, block) / whole for name, block in blocks.items()}
    worth = {record.name: max(record.saved, record.alone) / (_LEAST_COST + costs[record.name]) for record in measured}
    return sorted(worth, key=lambda name: -worth[name])


def _saves_time(candidate: Candidate, kept: Sequence[str]) -> bool:
    """Whether the network is faster with those blocks in float, and the others in 8 bits, than in float as a whole."""
    in_8_bits = _PRODUCT_COST[Target(candidate.record.target)] * _float_cost(candidate)
    return in_8_bits + sum(_extra_cost(candidate, block) for block in candidate.graph.blocks if block.name in kept) < _float_cost(candidate)


def _float_cost(candidate: Candidate) -> float:
    """About how long the float network takes, in products."""
    return float(sum(block.products for block in candidate.graph.blocks)) or 1.0


def _extra_cost(candidate: Candidate, block: Block) -> float:
    """How much longer a block takes in float between others in 8 bits, in products."""
    return (1 - _PRODUCT_COST[Target(candidate.record.target)]) * block.products + _CROSSING_COST * block.values


def _least(most: int, keeps: Callable[[int], bool]) -> int:
    """The smallest number from 1 to ``most`` for which that holds, if it holds from there on; ``most`` is taken to."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle + 1, high)
    return low
