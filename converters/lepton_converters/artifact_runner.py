"""Artifacts on their own engines, from samples to answers."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np

from lepton_converters.artifact import Artifact
from lepton_converters.calibration import grouped, stack
from lepton_converters.dataset import Sample
from lepton_converters.quiet import quiet_tensorflow
from lepton_runtime.cpu import usable_cores
from lepton_runtime.engines import ENGINES_OF_FORMAT, Engine, open_engine
from lepton_runtime.errors import InputError
from lepton_runtime.labels import class_scores
from lepton_runtime.tensors import Array, TensorSpec


class ArtifactRunner:
    """An artifact on its own engine, from samples to real numbers."""

    def __init__(self, artifact: Artifact, *, threads: int | None = None) -> None:
        """Load an artifact.

        Args:
            artifact: Which.
            threads: How many one call may use; by default, as many as there are.

        Raises:
            BundleError: Its engine cannot load it.
        """
        self.artifact = artifact
        self._has_free_batch = artifact.inputs[0].shape[0] is None
        self._is_free = any(None in spec.shape[1:] for spec in artifact.inputs)
        with quiet_tensorflow():  # LiteRT announces its delegate
            self.engine: Engine = open_engine(
                ENGINES_OF_FORMAT[artifact.format][0],
                artifact.model,
                inputs=artifact.inputs,
                outputs=artifact.outputs,
                threads=threads or usable_cores(),
            )

    def raw(self, samples: Sequence[Sample], batch: int) -> dict[str, Array]:
        """Outputs as the file gives them, one row a sample."""
        rows: list[list[Array]] = []
        for group in grouped(iter(samples), batch):
            inputs = stack(group, len(group) if self._has_free_batch else batch)
            arrays = [spec.quantize(inputs[spec.name]) for spec in self.artifact.inputs]
            with quiet_tensorflow() if self._is_free else nullcontext():  # LiteRT waits for the size, and announces itself now
                outputs = self.engine.run(arrays)
            for spec, output in zip(self.artifact.outputs, outputs, strict=True):
                if len(output) != len(next(iter(inputs.values()))):
                    raise InputError(f"{self.artifact.file} must answer each of {len(group)} samples, {spec.name!r} has {len(output)} rows")
            rows.append([output[: len(group)] for output in outputs])
        columns = zip(*rows, strict=True)
        return {spec.name: np.concatenate(parts) for spec, parts in zip(self.artifact.outputs, columns, strict=True)}

    def answers(self, samples: Sequence[Sample], batch: int) -> dict[str, Array]:
        """Outputs as real numbers, one row a sample."""
        raw = self.raw(samples, batch)
        return {spec.name: spec.dequantize(raw[spec.name]) for spec in self.artifact.outputs}


def best_classes(outputs: Mapping[str, Array], classes: TensorSpec | None) -> Array:
    """The number of the best class of each sample; -2 where no output holds class scores."""
    if classes is None:
        return np.full(len(next(iter(outputs.values()))), -2)
    best: Array = class_scores(outputs[classes.name]).argmax(axis=1)
    return best
