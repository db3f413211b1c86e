"""Crafted models, which are refused before an engine parses them."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from lepton_converters import export
from lepton_converters.tflite_content import packed, read_content
from lepton_runtime import Bundle, BundleError
from lepton_runtime.engines import open_engine
from lepton_runtime.engines.onnx_guard import check_onnx
from lepton_runtime.engines.tflite_guard import check_tflite
from lepton_runtime.tensors import TensorSpec

_SPECS = {"inputs": [TensorSpec("x", (1, 4), "float32")], "outputs": [TensorSpec("y", (1, 4), "float32")]}


def graph_of(nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto]) -> onnx.GraphProto:
    doors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy"]
    return onnx.helper.make_graph(nodes, "crafted", doors[:1], doors[1:], initializers)


def model_of(graph: onnx.GraphProto, **more: object) -> bytes:
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("evil", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8, **more).SerializeToString()


def outside(name: str) -> onnx.TensorProto:
    """A tensor whose values are in another file."""
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[1, 4], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def add(*inputs: str) -> onnx.NodeProto:
    return onnx.helper.make_node("Add", list(inputs), ["y"])


def inner(tensor: onnx.TensorProto) -> onnx.NodeProto:
    """A node that holds a graph which holds the tensor."""
    value = onnx.helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, [1, 4])
    return onnx.helper.make_node("If", ["x"], ["y"], then_branch=onnx.helper.make_graph([], "then", [], [value], [tensor]))


def deep(depth: int) -> onnx.NodeProto:
    node = add("x", "x")
    for number in range(depth):
        node = onnx.helper.make_node("If", ["x"], ["y"], then_branch=onnx.helper.make_graph([node], f"inner{number}", [], []))
    return node


def crafted() -> dict[str, bytes]:
    marked = onnx.numpy_helper.from_array(np.ones((1, 4), np.float32), "w")
    marked.data_location = onnx.TensorProto.EXTERNAL
    foreign = onnx.helper.make_node("Add", ["x", "x"], ["y"], domain="evil")
    sparse = graph_of([add("x", "x")], [])
    sparse.sparse_initializer.add().values.CopyFrom(outside("w"))
    function = onnx.helper.make_function("", "Plus", ["x"], ["y"], [foreign], [onnx.helper.make_opsetid("", 17)])
    good = model_of(graph_of([add("x", "x")], []))
    external = outside("w").SerializeToString()
    fat = external.replace(b"\x6a", b"\xea\x80\x80\x80\x10").replace(b"\x70\x01", b"\xf0\x80\x80\x80\x10\x01")
    assert len(fat) == len(external) + 8
    graph = graph_of([add("x", "w")], [])
    graph = graph.SerializeToString() + b"\x2a" + bytes([len(fat)]) + fat
    return {
        "fields whose numbers are written too long": b"\x08\x08\x3a" + bytes([len(graph) & 127 | 128, len(graph) >> 7]) + graph,
        "a file of onnxruntime's own format": b"\x08\x00\x09\x00ORTM" + bytes(40) + good,
        "a page of OpenVINO's": b"\n\x10<!--            " + good + b"-->",
        "training": good + b"\xa2\x01\x00",
        "weights in another file": model_of(graph_of([add("x", "w")], [outside("w")])),
        "weights that are marked so": model_of(graph_of([add("x", "w")], [marked])),
        "a constant in another file": model_of(graph_of([onnx.helper.make_node("Constant", [], ["y"], value=outside("v"))], [])),
        "one in a graph inside": model_of(graph_of([inner(outside("w"))], [])),
        "sparse weights": model_of(sparse),
        "a foreign operator": model_of(graph_of([foreign], [])),
        "functions": model_of(graph_of([add("x", "x")], []), functions=[function]),
        "graphs without end": model_of(graph_of([deep(20)], [])),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "half of a model": model_of(graph_of([add("x", "w")], [onnx.numpy_helper.from_array(np.ones((1, 4), np.float32), "w")]))[:-9],
    }


@pytest.mark.parametrize("name", sorted(crafted()))
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_crafted_onnx_file_is_refused(name: str, engine: str) -> None:
    with pytest.raises(BundleError, match=r"an ONNX model (must|has)"):
        open_engine(engine, crafted()[name], **_SPECS, threads=1)


@pytest.fixture(scope="module")
def files(models: Path, photos: Path, tmp_path_factory) -> dict[str, bytes]:
    """Files of ours, by their names."""
    path = export(models / "tiny_cnn.keras", tmp_path_factory.mktemp("guard") / "cnn.bundle", calib=photos, calib_samples=12).path
    return {file.name: file.read_bytes() for file in path.iterdir() if file.suffix in (".onnx", ".tflite")}


def test_our_own_files_pass(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (check_onnx if name.endswith(".onnx") else check_tflite)(content)


def minus_one(content: bytes) -> list[bytes]:
    """The file with -1 for one tensor, for each place where one must be."""
    found: list[bytes] = []
    count = len(read_content(content).subgraphs[0].operators)
    for number, field in [(number, field) for number in range(count) for field in ("inputs", "outputs")]:
        for position in range(len(getattr(read_content(content).subgraphs[0].operators[number], field))):
            changed = read_content(content)
            operator = changed.subgraphs[0].operators[number]
            kind = changed.operatorCodes[operator.opcodeIndex].builtinCode
            is_optional = field == "inputs" and (kind, position) in {(3, 2), (4, 2), (9, 2), (67, 3)}  # a bias
            places = [int(place) for place in getattr(operator, field)]
            places[position] = -1
            setattr(operator, field, places)
            if not is_optional:
                found.append(packed(changed))
    for field in ("inputs", "outputs"):
        changed = read_content(content)
        setattr(changed.subgraphs[0], field, [-1])
        found.append(packed(changed))
    return found


@pytest.mark.parametrize("file", ["model.fp32.tflite", "model.static-int8.tflite"])
def test_a_tensor_that_is_not_there_is_refused(files: dict[str, bytes], file: str) -> None:
    variants = minus_one(files[file])
    assert len(variants) > 20
    for content in variants:
        with pytest.raises(BundleError, match="a tensor that is not there, -1; do not use this bundle"):
            open_engine("litert", content, **_SPECS, threads=1)


def changed_file(files: dict[str, bytes], change: Callable) -> bytes:
    content = read_content(files["model.fp32.tflite"])
    change(content)
    return packed(content)


def test_other_faults_of_a_tflite_file_are_named(files: dict[str, bytes]) -> None:
    def beyond(content) -> None:
        content.subgraphs[0].operators[0].inputs = [10_000]

    def no_kind(content) -> None:
        content.subgraphs[0].operators[0].opcodeIndex = 99

    def foreign(content) -> None:
        content.operatorCodes[0].builtinCode = content.operatorCodes[0].deprecatedBuiltinCode = 32
        content.operatorCodes[0].customCode = b"Evil"

    for change, message in (
        (beyond, "a tensor that is not there, 10000"),
        (no_kind, "an operator of no kind"),
        (foreign, "not TFLite's own"),
    ):
        with pytest.raises(BundleError, match=message):
            check_tflite(changed_file(files, change))
    for content in (b"", b"TFL3", files["model.fp32.onnx"], b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(BundleError, match="must have the mark TFL3"):
            check_tflite(content)


def test_a_graph_that_runs_itself_is_refused(keras, tmp_path) -> None:
    model = keras.Sequential([keras.Input((6, 3)), keras.layers.GRU(4)])
    path = export(model, tmp_path / "gru.bundle", precisions=["fp32"], formats=["tflite"]).path
    content = read_content((path / "model.fp32.tflite").read_bytes())
    check_tflite(packed(content))
    loops = [
        operator for graph in content.subgraphs for operator in graph.operators if hasattr(operator.builtinOptions, "bodySubgraphIndex")
    ]
    assert loops
    for body, message in ((0, "a graph runs itself"), (99, "a graph that is not there, 99")):
        loops[0].builtinOptions.bodySubgraphIndex = body
        with pytest.raises(BundleError, match=message):
            check_tflite(packed(content))


def test_half_of_an_input_gate_is_refused(files: dict[str, bytes]) -> None:
    def change(content, *, kind: int, missing: set[int]) -> None:
        operator = content.subgraphs[0].operators[0]
        code = content.operatorCodes[operator.opcodeIndex]
        code.builtinCode = code.deprecatedBuiltinCode = kind
        content.subgraphs[0].operators = [operator]
        operator.inputs = [-1 if place in missing else 0 for place in range(24)]

    for kind in (16, 44):
        check_tflite(changed_file(files, lambda content, kind=kind: change(content, kind=kind, missing={1, 5, 9, 12, 20})))
        for missing in ({12}, {1, 5}, {2}, {18}):
            with pytest.raises(BundleError, match=r"half of an input gate|a tensor that is not there"):
                check_tflite(changed_file(files, lambda content, kind=kind, missing=missing: change(content, kind=kind, missing=missing)))


def repeated(count: int) -> bytes:
    """A file whose graphs are all the same one, with as many times the same operator, with as many times the same input."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    builder = flatbuffers.Builder(0)

    def vector(entries: list[int], *, is_table: bool) -> int:
        builder.StartVector(4, len(entries), 4)
        for entry in entries:
            builder.PrependUOffsetTRelative(entry) if is_table else builder.PrependInt32(entry)
        return int(builder.EndVector())

    places = vector([0] * count, is_table=False)
    schema.OperatorStart(builder)
    schema.OperatorAddInputs(builder, places)
    operators = vector([schema.OperatorEnd(builder)] * count, is_table=True)
    schema.TensorStart(builder)
    tensors = vector([schema.TensorEnd(builder)], is_table=True)
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    schema.SubGraphAddOperators(builder, operators)
    graphs = vector([schema.SubGraphEnd(builder)] * count, is_table=True)
    schema.OperatorCodeStart(builder)
    codes = vector([schema.OperatorCodeEnd(builder)], is_table=True)
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, graphs)
    schema.ModelAddOperatorCodes(builder, codes)
    builder.Finish(schema.ModelEnd(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_a_file_that_names_one_thing_again_and_again_is_not_followed() -> None:
    check_tflite(repeated(2))
    with pytest.raises(BundleError, match="vectors are longer than the file"):
        check_tflite(repeated(3000))  # it would take a day


def test_damage_is_a_bundle_error_or_nothing(files: dict[str, bytes]) -> None:
    """The guards themselves neither fail nor hang, whatever the bytes are."""
    generator = random.Random(3)
    for file, check in (("model.fp32.tflite", check_tflite), ("model.fp32.onnx", check_onnx)):
        content, refused = files[file], 0
        for _ in range(1500):
            damaged = bytearray(content[: generator.randrange(len(content))] if generator.random() < 0.3 else content)
            for _ in range(generator.randrange(1, 8)):
                if damaged:
                    damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            try:
                check(bytes(damaged))
            except BundleError:
                refused += 1
        assert refused > 300


def test_a_bundle_with_a_crafted_file_and_the_right_checksums_is_refused(files, models, tmp_path, rewrite_manifest) -> None:
    from lepton_converters.bundle_writer import file_record
    from lepton_runtime import Session

    path = export(models / "tiny_cnn.keras", tmp_path / "cnn.bundle", precisions=["fp32"], formats=["tflite"]).path
    content = minus_one((path / "model.fp32.tflite").read_bytes())[0]
    (path / "model.fp32.tflite").write_bytes(content)
    entry = file_record("model.fp32.tflite", content)
    rewrite_manifest(path, lambda values: values["artifacts"][0].update(size_bytes=entry.size_bytes, sha256=entry.sha256))
    Bundle.open(path).check()
    with pytest.raises(BundleError, match="a tensor that is not there"):
        Session.open(path)
