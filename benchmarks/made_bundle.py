"""Bundles of ONNX graphs that are made on the spot, for measurements of the measuring itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx

from lepton_converters.bundle_writer import GOLDEN_FILE, file_record, pack_arrays, write_bundle
from lepton_runtime import Format, Manifest, Precision, TensorSpec
from lepton_runtime.manifest import ArtifactRecord, Parity


def write_made_bundle(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: tuple[int, ...]) -> Path:
    """A bundle whose model goes from ``x`` to ``y``, both float32 of that shape."""
    spec, answer = TensorSpec("x", shape, "float32"), TensorSpec("y", shape, "float32")
    doors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy"]
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = onnx.helper.make_graph(nodes, "made", doors[:1], doors[1:], tensors)
    data = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7).SerializeToString()
    inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    golden = pack_arrays({"input/x": inputs, "output/y": inputs, "model.onnx/y": inputs})
    record = ArtifactRecord(
        file="model.onnx",
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        format=Format.ONNX,
        precision=Precision.FP32,
        inputs=(spec,),
        outputs=(answer,),
        requires={},
        parity=Parity(0, 1, None, 1),
        accuracy=None,
        verdict="same as Keras",
        passed=True,
    )
    manifest = Manifest({"file": None, "sha256": None}, (spec,), (answer,), None, None, (record,), file_record(GOLDEN_FILE, golden))
    write_bundle(path, manifest, {"model.onnx": data, GOLDEN_FILE: golden}, force=False)
    return path
