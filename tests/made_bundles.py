"""Small bundles of a text and of a table, written without TensorFlow."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_runtime import Format, Manifest, Precision, TensorSpec
from lepton_runtime.bundle import DIGEST_FILE, MANIFEST_FILE, digest_line
from lepton_runtime.encoders import Encoder
from lepton_runtime.lookups import Lookup, TextVectorization, Vocabulary
from lepton_runtime.manifest import ArtifactRecord, EncoderRecord, FileRecord, Parity


def _texts_encoder() -> Encoder:
    lookup = Lookup(Vocabulary(("good", "bad", "very")), takes="string", mask_token="")
    return Encoder(
        (TensorSpec("review", (1, 1), "string"),), TensorSpec("words", (1, 4), "int64"), TextVectorization(lookup, sequence_length=4)
    )


def _colors_encoder() -> Encoder:
    lookup = Lookup(Vocabulary(("red", "green")), takes="string", output="one_hot", depth=3)
    return Encoder((TensorSpec("color", (1, 1), "string"),), TensorSpec("color_lookup", (1, 3), "float32"), lookup)


def _write_made_bundle(folder: Path, model: bytes, inputs: list[TensorSpec], encoder: Encoder, raw: dict[str, Any]) -> Path:
    """A bundle of one ONNX file and one encoder, as the converters would write it; its answers are not filled in."""
    encoded = encoder.apply({name: np.array([[value]]) for name, value in raw.items()})
    golden = io.BytesIO()
    arrays = {f"raw/{encoder.inputs[0].name}": np.array([[raw[encoder.inputs[0].name]]]), f"input/{encoder.output.name}": encoded}
    arrays |= {f"input/{spec.name}": np.float32([[raw[spec.name]]]) for spec in inputs if spec.name in raw}
    scores = np.zeros((1, 2), np.float32)
    np.savez(golden, **arrays, **{"output/scores": scores, "model.fp32.onnx/scores": scores})
    files = {"model.fp32.onnx": model, "golden.npz": golden.getvalue(), "vocabulary.words.json": encoder.vocabulary.to_json()}
    records = {name: FileRecord(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    outputs = (TensorSpec("scores", (1, 2), "float32"),)
    artifact = ArtifactRecord(
        **vars(records["model.fp32.onnx"]),
        format=Format.ONNX,
        precision=Precision.FP32,
        inputs=tuple(inputs),
        outputs=outputs,
        requires={},
        parity=Parity(0.0, 1.0, 1.0, 1),
        accuracy=None,
        verdict="same as Keras",
        passed=True,
    )
    manifest = Manifest(
        source={"file": None, "sha256": None},
        inputs=tuple(inputs),
        outputs=outputs,
        preprocessing=None,
        labels=("bad", "good"),
        artifacts=(artifact,),
        golden=records["golden.npz"],
        encoders=(EncoderRecord(encoder.kind, encoder.inputs, encoder.output, encoder.step.to_dict(), records["vocabulary.words.json"]),),
    )
    data = manifest.to_json()
    folder.mkdir()
    for name, content in {**files, MANIFEST_FILE: data, DIGEST_FILE: digest_line(data)}.items():
        (folder / name).write_bytes(content)
    return folder


def write_text_bundle(folder: Path) -> Path:
    """A model of one text: each word has a weight for ``bad`` and one for ``good``."""
    onnx = pytest.importorskip("onnx", reason="the model is written with onnx, which is not installed")
    make, dtype = onnx.helper, onnx.TensorProto
    weights = np.float32([[0, 0], [0.1, 0.1], [0, 2], [2, 0], [0.5, 0.5]])
    graph = make.make_graph(
        [
            make.make_node("Gather", ["weights", "words"], ["found"]),
            make.make_node("ReduceMean", ["found"], ["scores"], axes=[1], keepdims=0),
        ],
        "text",
        [make.make_tensor_value_info("words", dtype.INT64, (1, 4))],
        [make.make_tensor_value_info("scores", dtype.FLOAT, (1, 2))],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=7).SerializeToString()
    encoder = _texts_encoder()
    return _write_made_bundle(folder, model, [encoder.output], encoder, {"review": "Very good!"})


def write_table_bundle(folder: Path) -> Path:
    """A model of a color and an age: red is ``bad`` and green ``good``, the more so with age."""
    onnx = pytest.importorskip("onnx", reason="the model is written with onnx, which is not installed")
    make, dtype = onnx.helper, onnx.TensorProto
    weights = np.float32([[0, 0], [1, 0], [0, 1]])
    graph = make.make_graph(
        [make.make_node("MatMul", ["color_lookup", "weights"], ["found"]), make.make_node("Mul", ["found", "age"], ["scores"])],
        "table",
        [make.make_tensor_value_info("color_lookup", dtype.FLOAT, (1, 3)), make.make_tensor_value_info("age", dtype.FLOAT, (1, 1))],
        [make.make_tensor_value_info("scores", dtype.FLOAT, (1, 2))],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=7).SerializeToString()
    encoder = _colors_encoder()
    inputs = [encoder.output, TensorSpec("age", (1, 1), "float32")]
    return _write_made_bundle(folder, model, inputs, encoder, {"color": "red", "age": 41.0})
