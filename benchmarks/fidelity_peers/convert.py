"""From a Keras file to each method's own: every quantizer as its documentation says, at batch 1, with float inputs and outputs."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from fidelity_peers.engine import Call, answers, open_file
from fidelity_peers.samples import CALIBRATION, Samples
from lepton_runtime.cpu import read_cpu

_MAX_DROP = 0.005
_TUNED_ON = 8000
_TRANSFORMERS = ("vit",)


def convert(method: str, model: Path, samples: Samples, output: Path) -> str:
    """Write ``output``, and say in words what was chosen on the way.

    Raises:
        Exception: Whatever the quantizer raised.
    """
    maker, _, rest = method.partition("-")
    if method == "keras":
        shutil.copyfile(model, output)
        return ""
    if maker == "ours":
        return _ours(model, samples, output, kind=rest.partition("-")[0])
    makers: dict[str, Callable[[Path, Samples, Path], str]] = {
        "ort-default": _ort_default,
        "ort-best": _ort_best,
        "tflite": _tflite,
        "ai-edge-quantizer": _ai_edge_quantizer,
        "openvino-fp32": _openvino_float,
    }
    return makers[method](model, samples, output) if method in makers else _nncf(model, samples, output, has_budget="budget" in rest)


def _ours(model: Path, samples: Samples, output: Path, *, kind: str) -> str:
    """The export as a user calls it: of ``fp32``, or in 8 bits.

    With a ``budget`` it searches among images to train on; with a ``target`` it is for this machine's CPU alone; or the network is
    ``tuned`` before, on 8,000 images to train on and their classes.
    """
    from lepton_converters import export

    words = []
    if kind == "tuned":
        tuned = output.with_suffix(".keras")
        words.append(_tuned(model, samples, tuned))
        model = tuned
    settings: dict[str, Any] = {"precisions": ["fp32"]}
    if kind != "fp32":
        settings = {"precisions": ["static-int8"], "calib": samples.train_file, "calib_samples": CALIBRATION}
    if kind == "budget":
        settings |= {"evaluate": samples.evaluation_file, "max_drop": f"{100 * _MAX_DROP}pp"}
    if kind == "target":
        settings["target"] = "arm-dotprod" if _is_arm() else "x86-avx2" if read_cpu().saturates else "x86-vnni"
        words.append(settings["target"])
    bundle = output.with_suffix(".bundle")
    result = export(model, bundle, formats=[output.suffix.removeprefix(".")], keep_failed=True, force=True, **settings)
    (artifact,) = result.manifest.artifacts
    shutil.copyfile(bundle / artifact.file, output)
    shutil.rmtree(bundle)
    if made := artifact.quantization:
        words.append(f"{made.ranges} ranges, {made.rounding} weights{', equalized' if made.equalized else ''}")
    if made and kind == "budget":
        words.append(f"{len(made.float_blocks)} of {made.blocks} blocks in float")
    return "; ".join(words)


def _tuned(model: Path, samples: Samples, output: Path) -> str:
    """Fine-tune with the command's own settings, and say what an epoch took."""
    from lepton_converters import finetune

    result = finetune(model, output, data=samples.train_file, samples=_TUNED_ON, force=True)
    seconds = mean(epoch.seconds for epoch in result.epochs)
    return f"epoch {result.best_epoch} of {len(result.epochs)}, {seconds:.0f} s each"


def _load(model: Path) -> Any:
    import keras

    return keras.saving.load_model(model, compile=False)


def _at_batch_1(model: Path) -> Any:
    """The Keras model with inputs of a fixed batch: an LSTM of free batch has no TFLite form."""
    import keras

    source = _load(model)
    (given,) = source.inputs
    fixed = keras.Input(batch_shape=(1, *given.shape[1:]), dtype=given.dtype, name=given.name)
    return keras.Model(fixed, source(fixed))


def _keras_onnx(model: Path, output: Path) -> Path:
    """The ONNX file that Keras itself writes, beside ``output``."""
    import keras

    path, source = output.with_suffix(".float.onnx"), _load(model)
    (given,) = source.inputs
    signature = [keras.InputSpec(shape=(1, *given.shape[1:]), dtype=given.dtype, name=given.name)]
    source.export(path, format="onnx", verbose=False, input_signature=signature)
    return path


def _ort_default(model: Path, samples: Samples, output: Path) -> str:
    from onnxruntime.quantization import quantize_static  # noqa: TID251  # as a peer

    path = _keras_onnx(model, output)
    quantize_static(path, output, _Reader(path, samples))
    return ""


def _ort_best(model: Path, samples: Samples, output: Path) -> str:
    """Per channel, after the pre-processing, with the calibration whose answers are most often float's on the samples to search with.

    Source: onnxruntime, "Quantize ONNX Models" and ``quantize_static``, "Choosing parameters for CPU inference": QDQ; on x86 unsigned
        activations and signed weights, of 7 bits without VNNI; on ARM both signed. It has three calibrations and prefers none.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static  # noqa: TID251
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: TID251

    path = _keras_onnx(model, output)
    prepared = output.with_suffix(".prepared.onnx")
    quant_pre_process(path, prepared)
    inputs, _ = samples.search()
    wanted = answers(open_file(path, "onnxruntime"), inputs).argmax(axis=1)
    found: dict[str, float] = {}
    for method in (CalibrationMethod.MinMax, CalibrationMethod.Entropy, CalibrationMethod.Percentile):
        quantize_static(
            prepared,
            output.with_suffix(f".{method.name}.onnx"),
            _Reader(prepared, samples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=bool(read_cpu().saturates),
            activation_type=QuantType.QInt8 if _is_arm() else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
        )
        given = answers(open_file(output.with_suffix(f".{method.name}.onnx"), "onnxruntime"), inputs).argmax(axis=1)
        found[method.name] = float((given == wanted).mean())
    best = max(found, key=lambda name: found[name])
    shutil.copyfile(output.with_suffix(f".{best}.onnx"), output)
    return f"{best} calibration"


def _is_arm() -> bool:
    return read_cpu().machine == "aarch64"


class _Reader:
    """Calibration samples as the quantizer of onnxruntime asks for them."""

    def __init__(self, path: Path, samples: Samples) -> None:
        import onnx

        name = onnx.load(path).graph.input[0].name
        self._feeds: Iterator[dict[str, np.ndarray]] = ({name: single} for single in samples.calibration())

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _tflite(model: Path, samples: Samples, output: Path) -> str:
    """Source: tensorflow.org, "Post-training integer quantization"."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(_at_batch_1(model))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([single] for single in samples.calibration())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    output.write_bytes(converter.convert())
    return ""


def _ai_edge_quantizer(model: Path, samples: Samples, output: Path) -> str:
    """Its recipe ``static_wi8_ai8`` on the float32 file of TensorFlow's converter, with float inputs and outputs as everybody's."""
    import tensorflow as tf
    from ai_edge_quantizer import qtyping, quantizer, recipe

    content = tf.lite.TFLiteConverter.from_keras_model(_at_batch_1(model)).convert()
    signature, named = next(iter(tf.lite.Interpreter(model_content=content).get_signature_list().items()))
    work = quantizer.Quantizer(bytearray(content), recipe.static_wi8_ai8())
    for door in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        work.update_quantization_recipe(".*", door, algorithm_key="no_quantize")
    ranges = work.calibrate({signature: [{named["inputs"][0]: single} for single in samples.calibration()]})
    work.quantize(ranges).export_model(str(output), overwrite=True)
    return ""


def _openvino_float(model: Path, samples: Samples, output: Path) -> str:
    """What OpenVINO's reader makes of Keras' ONNX file; after ``convert_model``, which rewrites it, NNCF lost more of resnet8."""
    import openvino

    openvino.save_model(openvino.Core().read_model(_keras_onnx(model, output)), output, compress_to_fp16=False)
    return ""


def _nncf(model: Path, samples: Samples, output: Path, *, has_budget: bool) -> str:
    """Both of its quantizers, on Keras' ONNX file or on what OpenVINO makes of it.

    Source: openvino documentation, "Basic Quantization Flow" and "Quantizing with Accuracy Control".
    """
    import nncf
    import onnx
    import openvino

    path = _keras_onnx(model, output)
    is_openvino = output.suffix == ".xml"
    source = openvino.Core().read_model(path) if is_openvino else onnx.load(path)
    name = onnx.load(path).graph.input[0].name
    settings = {
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": CALIBRATION,
        "model_type": nncf.ModelType.TRANSFORMER if model.stem in _TRANSFORMERS else None,
    }
    calibration = nncf.Dataset([single if is_openvino else {name: single} for single in samples.calibration()])
    if not has_budget:
        quantized = nncf.quantize(source, calibration, **settings)
    else:
        inputs, labels = samples.search()

        def validate(candidate: Any, numbers: Any) -> tuple[float, list[float]]:
            """The accuracy, and one value a sample: which ones it ranks layers by."""
            call = _call_of(candidate, is_openvino=is_openvino)
            right = [float(call(inputs[number]).argmax() == labels[number]) for number in numbers]
            return sum(right) / len(right), right

        quantized = nncf.quantize_with_accuracy_control(
            source,
            calibration,
            nncf.Dataset(list(range(len(labels)))),
            validate,
            max_drop=_MAX_DROP,
            drop_type=nncf.DropType.ABSOLUTE,
            **settings,
        )
    if is_openvino:
        openvino.save_model(quantized, output, compress_to_fp16=False)
    else:
        onnx.save(quantized, output)
    return f"model_type {settings['model_type'].value}" if settings["model_type"] else ""


def _call_of(candidate: Any, *, is_openvino: bool) -> Call:
    """One call of what NNCF hands over to be validated: a compiled model of OpenVINO, or an ONNX model."""
    if not is_openvino:
        return open_file(candidate.SerializeToString(), "onnxruntime")
    request = candidate.create_infer_request()
    return lambda single: request.infer([single])[0]
