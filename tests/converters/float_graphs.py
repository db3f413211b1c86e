"""Float networks of both formats as quantization sees them, made of Keras models on the way that an export takes."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_converters.artifact import Artifact
from lepton_converters.artifact_runner import ArtifactRunner
from lepton_converters.calibration import Calibration
from lepton_converters.calibration_cache import CalibrationCache
from lepton_converters.dataset import Dataset, Sample
from lepton_converters.float_graph import Block, FloatGraph, Operator
from lepton_converters.keras_source import KerasSource
from lepton_converters.onnx_export import OnnxExporter
from lepton_converters.onnx_float_graph import OnnxFloatGraph
from lepton_converters.quantizer import Quantizer, find_ranges, measure_statistics
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_converters.tflite_export import TfliteExporter
from lepton_runtime import Format, Precision, Target


def measured(graph: FloatGraph, calibration: Calibration) -> dict[str, TensorStatistics]:
    return measure_statistics(graph, calibration, CalibrationCache())


@dataclass(frozen=True)
class Network:
    """One float network with samples for it."""

    graph: FloatGraph
    calibration: Calibration
    source: KerasSource

    @property
    def operators(self) -> list[Operator]:
        return [operator for block in self.graph.blocks for operator in block.operators]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(block.name for block in self.graph.blocks)

    def block(self, part: str) -> Block:
        """The one block with that in its name."""
        (found,) = (block for block in self.graph.blocks if part in block.name)
        return found

    def ranges(self) -> dict[str, tuple[float, float]]:
        return find_ranges(measured(self.graph, self.calibration), "min-max")

    def quantized(self, *in_float: str, **options: Any) -> Artifact:
        settings = {"ranges": self.ranges(), "target": Target.ANY, "io": "float", **options}
        return self.graph.quantize(settings.pop("ranges"), in_float=frozenset(in_float), **settings)

    def answers(self, artifact: Artifact) -> dict[str, np.ndarray]:
        return ArtifactRunner(artifact, threads=1).answers(self.samples, 1)

    @property
    def samples(self) -> list[Sample]:
        return list(self.calibration.samples())

    def expected(self) -> dict[str, np.ndarray]:
        """What Keras answers."""
        batches = [self.source.predict(batch) for batch in self.calibration.batches()]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


class _CaughtError(Exception):
    pass


@dataclass(frozen=True)
class _Catcher(Quantizer):
    def quantize(self, graph: FloatGraph) -> Artifact:
        raise _CaughtError(graph)


def normal_samples(source: KerasSource, *, count: int, seed: int = 3) -> Calibration:
    """Samples of normally distributed values, the same for the same seed."""
    generator = np.random.default_rng(seed)
    shapes = {spec.name: [axis or 1 for axis in spec.shape[1:]] for spec in source.inputs}
    made = [
        Sample({name: generator.normal(0.2, 1, shape).astype(np.float32) for name, shape in shapes.items()}, None) for _ in range(count)
    ]
    return Calibration(
        Dataset("made", count, None, False, lambda indices: (made[index] for index in sorted(indices))), tuple(range(count)), 1
    )


def onnx_float_graph(source: KerasSource) -> OnnxFloatGraph:
    """What is quantized of the ONNX network."""
    return _onnx_exporter(source).float_graph()


def float_network(model: Any, format_: Format, *, count: int = 24) -> Network:
    """The network that an export would quantize."""
    source = KerasSource.open(model)
    calibration = normal_samples(source, count=count)
    catcher = _Catcher(calibration)
    exporter = _tflite_exporter(source) if format_ == Format.TFLITE else _onnx_exporter(source)
    try:
        exporter.make(Precision.STATIC_INT8, quantizer=catcher)
    except _CaughtError as caught:
        return Network(caught.args[0], calibration, source)
    raise AssertionError("the exporter must quantize a float graph")


def _onnx_exporter(source: KerasSource) -> OnnxExporter:
    return OnnxExporter(source, tflite=_tflite_exporter(source), accept=lambda artifact: None)


def _tflite_exporter(source: KerasSource) -> TfliteExporter:
    return TfliteExporter(source, accept=lambda artifact: None)
