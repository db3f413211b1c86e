"""One step of making a network's files, in a process and, for some, an environment of its own: ``python make.py STEP NETWORK FOLDER``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_CALIBRATION = 32
_BUDGET = "0.5pp"
_RECURRENT = {"GRU", "LSTM", "Loop", "RNN", "Scan"}


def keras_files(name: str, folder: Path) -> None:
    """The network, samples of what it takes, Keras' own ONNX export, and TensorFlow's own TFLite files."""
    import keras
    import tensorflow as tf

    trained = folder / "trained.keras"
    if trained.exists():
        model, inputs = keras.saving.load_model(trained, compile=False), np.load(folder / "trained.npy")
    else:
        from latency_peers.networks import build

        model, inputs = build(name)
    model.save(folder / "model.keras")
    np.save(folder / "samples.npy", inputs)
    fixed = keras.Input(batch_shape=(1, *model.input_shape[1:]), dtype=model.inputs[0].dtype, name="given")
    single = keras.Model(fixed, model(fixed))
    signature = [keras.InputSpec(shape=(1, *model.input_shape[1:]), dtype="float32", name="given")]
    model.export(folder / "keras.onnx", format="onnx", verbose=False, input_signature=signature)
    _close_inputs(folder / "keras.onnx", model)
    for kind in ("fp32", "dynamic", "int8"):
        converter = tf.lite.TFLiteConverter.from_keras_model(single)
        if kind != "fp32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "int8":
            converter.representative_dataset = lambda: ([sample[None]] for sample in inputs[:_CALIBRATION])
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        (folder / f"tf-{kind}.tflite").write_bytes(converter.convert())


def _close_inputs(path: Path, model: object) -> None:
    """Give the mean and variance of a Normalization layer, which Keras leaves as inputs of the graph, their values."""
    import keras
    import onnx

    graph = onnx.load(path)
    normal = next((layer for layer in model.layers if isinstance(layer, keras.layers.Normalization)), None)
    for value in list(graph.graph.input)[1:]:
        numbers = normal.variance if "Sqrt" in value.name else normal.mean
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(numbers, np.float32), value.name))
        graph.graph.input.remove(value)
    onnx.save(graph, path)


def quantize_static(name: str, folder: Path) -> None:
    """What the quantizer of onnxruntime makes with its defaults, on Keras' own export."""
    from onnxruntime.quantization import quantize_static as quantize  # noqa: TID251

    quantize(folder / "keras.onnx", folder / "ort-default.onnx", _Reader(np.load(folder / "samples.npy")[:_CALIBRATION], folder))


class _Reader:
    def __init__(self, samples: np.ndarray, folder: Path) -> None:
        import onnx

        given = onnx.load(folder / "keras.onnx").graph.input[0].name
        self._feeds: Iterator[dict[str, np.ndarray]] = ({given: sample[None]} for sample in samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def nncf(name: str, folder: Path) -> None:
    """The post-training quantization of NNCF, for OpenVINO."""
    os.environ["NNCF_CI"] = "1"  # no telemetry
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import nncf as quantizer
    import openvino

    samples = np.load(folder / "samples.npy")[:_CALIBRATION]
    dataset = quantizer.Dataset([sample[None] for sample in samples])
    model = quantizer.quantize(openvino.Core().read_model(folder / "keras.onnx"), dataset, subset_size=_CALIBRATION)
    openvino.save_model(model, folder / "nncf.xml", compress_to_fp16=False)


def ncnn(name: str, folder: Path) -> None:
    """The files of ncnn, by pnnx."""
    shape = str(list(np.load(folder / "samples.npy")[:1].shape)).replace(" ", "")
    work = folder / "pnnx"
    work.mkdir(exist_ok=True)
    shutil.copyfile(folder / "keras.onnx", work / "net.onnx")
    subprocess.run([Path(sys.executable).with_name("pnnx"), "net.onnx", f"inputshape={shape}", "fp16=0"], cwd=work, check=True)
    shutil.move(work / "net.ncnn.param", folder / "ncnn.param")
    shutil.move(work / "net.ncnn.bin", folder / "ncnn.bin")
    shutil.rmtree(work)


def mnn(name: str, folder: Path) -> None:
    """The file of MNN, by its converter."""
    files = ["--modelFile", folder / "keras.onnx", "--MNNModel", folder / "model.mnn"]
    subprocess.run([Path(sys.executable).with_name("mnnconvert"), "-f", "ONNX", "--bizCode", "lepton", *files], check=True)


def ours(name: str, folder: Path) -> None:
    """Our bundle for this CPU, and how many products the network takes, where that is known of each operator.

    Trained networks have labels, to hold a budget against.
    """
    import onnx

    from lepton_converters import export
    from lepton_converters.onnx_float_graph import OnnxFloatGraph
    from lepton_runtime import Bundle
    from lepton_runtime.cpu import read_cpu

    cpu = read_cpu()
    target = (
        "arm-dotprod"
        if "asimddp" in cpu.features
        else "arm-v8"
        if cpu.machine == "aarch64"
        else "x86-avx2"
        if cpu.saturates
        else "x86-vnni"
    )
    settings: dict[str, str | int] = {"calib": str(folder / "samples.npy"), "calib_samples": _CALIBRATION}
    if (folder / "labelled.json").exists():
        settings = {**json.loads((folder / "labelled.json").read_text()), "max_drop": _BUDGET}
    export(folder / "model.keras", folder / "ours.bundle", target=target, force=True, keep_failed=True, **settings)
    bundle = Bundle.open(folder / "ours.bundle")
    record = bundle.artifact("model.fp32.onnx")
    model = onnx.load_from_string(bundle.read(record))
    graph = OnnxFloatGraph(model, inputs=record.inputs, outputs=record.outputs, route=record.route)
    products = sum(operator.products for block in graph.blocks for operator in block.operators)
    is_known = _RECURRENT.isdisjoint(node.op_type for node in model.graph.node)
    (folder / "products.json").write_text(json.dumps(products if is_known else None))


STEPS = {"keras": keras_files, "quantize_static": quantize_static, "nncf": nncf, "ncnn": ncnn, "mnn": mnn, "ours": ours}
ENVIRONMENT_OF = {"nncf": "nncf", "ncnn": "ncnn", "mnn": "mnn"}

if __name__ == "__main__":
    os.environ.update(KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
    STEPS[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
