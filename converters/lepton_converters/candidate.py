"""One way to quantize a network, and how far several are from it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lepton_converters.artifact import Artifact
from lepton_converters.artifact_runner import ArtifactRunner, best_classes
from lepton_converters.calibration import grouped
from lepton_converters.dataset import Sample
from lepton_converters.divergence import divergence
from lepton_converters.float_graph import FloatGraph, Ranges, operators_of
from lepton_converters.recipe import IntegerIo
from lepton_runtime.formats import Target
from lepton_runtime.labels import class_output
from lepton_runtime.manifest import Quantization
from lepton_runtime.tensors import Array


@dataclass(frozen=True)
class Candidate:
    """One way to quantize a network.

    Attributes:
        graph: The network, perhaps with other weights.
        ranges: Of its activations.
        record: What was chosen.
        io: The number type at the doors.
        exact: The network before its weights were rounded: blocks in float take theirs from it. ``None`` if they were not.
    """

    graph: FloatGraph
    ranges: Ranges
    record: Quantization
    io: IntegerIo
    exact: FloatGraph | None = None

    def artifact(self, in_float: frozenset[str] | None = None) -> Artifact:
        """The artifact; with other blocks in float than the record says, if they are given.

        Raises:
            UnsupportedError: It cannot be made.
        """
        kept = frozenset(self.record.float_blocks) if in_float is None else in_float
        graph = _with_blocks_of(self.exact, self.graph, kept) if self.exact is not None and kept else self.graph
        artifact = graph.quantize(self.ranges, in_float=kept, target=Target(self.record.target), io=self.io)
        return replace(artifact, quantization=self.record)


def _with_blocks_of(exact: FloatGraph, graph: FloatGraph, names: Collection[str]) -> FloatGraph:
    """A network with the weights and biases that those blocks have in another."""
    operators = operators_of(block for block in graph.blocks if block.name in names)
    return graph.with_constants({name: exact.constant(name) for operator in operators for name in (operator.weight, operator.bias) if name})


class Comparison:
    """The errors of candidates on samples that no range was measured on."""

    def __init__(self, candidate: Candidate, samples: Sequence[Sample], batch: int) -> None:
        """Let the float network answer.

        Args:
            candidate: With the network to compare to.
            samples: To compare on.
            batch: How many a call takes.
        """
        ordered = sorted(samples, key=lambda sample: [value.shape for value in sample.inputs.values()])
        self._groups, self._batch = list(grouped(iter(ordered), len(ordered))), batch
        labels = [sample.label for sample in ordered]
        self._labels = None if None in labels else np.array(labels)
        self._reference = self._answers(candidate.artifact(frozenset(block.name for block in candidate.graph.blocks)))

    def error(self, artifact: Artifact) -> Array:
        """How far its answers are from the float network's, ``(samples,)``, by the samples' size."""
        return self._error(self._answers(artifact))

    def measure(self, artifact: Artifact) -> tuple[Array, float | None]:
        """The error of each sample, and the accuracy that is lost, if they have labels and the answers are classes."""
        found, classes = self._answers(artifact), class_output(artifact.outputs)
        error = self._error(found)
        if self._labels is None or classes is None:
            return error, None
        right, wanted = (
            float((np.concatenate([best_classes(group, classes) for group in answers]) == self._labels).mean())
            for answers in (found, self._reference)
        )
        return error, wanted - right

    def _error(self, found: Sequence[dict[str, Array]]) -> Array:
        return np.concatenate([divergence(*answers) for answers in zip(self._reference, found, strict=True)])

    def _answers(self, artifact: Artifact) -> list[dict[str, Array]]:
        """Of the samples of each size, whose outputs may have sizes of their own, too."""
        runner = ArtifactRunner(artifact, threads=1)
        return [runner.answers(group, self._batch) for group in self._groups]
