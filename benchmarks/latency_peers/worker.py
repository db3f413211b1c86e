"""One file on one engine, timed block by block: ``python worker.py REQUEST``, in whichever environment has the engine.

The request is a JSON object; each line on stdin is how many seconds the next block takes, each line on stdout the median of its
calls in nanoseconds. Nothing of the project is imported but for its own rows.
"""

import json
import os
import sys
from time import perf_counter_ns

import numpy as np

_FEWEST_CALLS = 3


def open_file(engine, path, single, threads, settings):
    """A call of one sample without arguments."""
    openers = {"onnxruntime": _onnxruntime, "litert": _litert, "openvino": _openvino, "ncnn": _ncnn, "mnn": _mnn, "keras": _keras}
    if engine.startswith("lepton"):
        return _lepton(path, single, threads, **settings)
    return openers[engine](path, single, threads)


def _onnxruntime(path, single, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    providers = ["CPUExecutionProvider"]
    if "OpenVINOExecutionProvider" in onnxruntime.get_available_providers():
        providers = [("OpenVINOExecutionProvider", {"device_type": "CPU", "precision": "FP32", "num_of_threads": str(threads)}), *providers]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    feed = {session.get_inputs()[0].name: single}
    return lambda: session.run(None, feed)[0]


def _litert(path, single, threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    given, found = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def call():
        interpreter.set_tensor(given, single)
        interpreter.invoke()
        return interpreter.get_tensor(found)

    return call


def _openvino(path, single, threads):
    sys.modules["openvino_telemetry"] = None  # it takes a stub
    import openvino

    # Source: OpenVINO's documentation, "Precision Control": without the hint, float32 is computed in bfloat16 where the CPU has it.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    request.set_input_tensor(0, openvino.Tensor(single, shared_memory=True))

    def call():
        request.infer()
        return request.get_output_tensor(0).data

    return call


def _ncnn(path, single, threads):
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False  # float32 is float32
    if net.load_param(path) or net.load_model(path.replace(".param", ".bin")):
        raise OSError(f"ncnn cannot load {path}")
    given = ncnn.Mat(single[0])

    def call():
        with net.create_extractor() as extractor:
            extractor.input("in0", given)
            return np.array(extractor.extract("out0")[1])

    return call


def _mnn(path, single, threads):
    import MNN

    interpreter = MNN.Interpreter(path)
    session = interpreter.createSession({"numThread": threads, "precision": "high", "backend": "CPU"})
    given = interpreter.getSessionInput(session)
    shape = given.getShape()
    tensor = MNN.Tensor(shape, MNN.Halide_Type_Float, single.reshape(shape), MNN.Tensor_DimensionType_Caffe)

    def call():
        given.copyFrom(tensor)
        interpreter.runSession(session)
        return np.array(interpreter.getSessionOutput(session).getNumpyData())

    return call


def _keras(path, single, threads):
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)  # with one, a loop and what feeds it have been seen to wait for each other
    import keras

    model = keras.saving.load_model(path, compile=False)
    return lambda: model.predict(single, verbose=0)


def _lepton(path, single, threads, *, file, engine=None, spins=True):
    from lepton_runtime import Bundle, Session

    bundle = Bundle.open(path)
    session = Session(bundle, bundle.artifact(file), engine=engine, threads=threads, spins=spins)
    out = np.empty(session.artifact.outputs[0].shape, np.float32)
    return lambda: session.run(single, out=out)


def main():
    """Serve."""
    request = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print
    single = np.ascontiguousarray(np.load(request["samples"])[:1])
    call = open_file(request["engine"], request["path"], single, request["threads"], request["settings"])
    answer = np.asarray(call(), np.float32).reshape(-1)
    answers.write(json.dumps({"answer": [float(value) for value in answer[:1000]]}) + "\n")
    answers.flush()
    for line in sys.stdin:
        end, samples = perf_counter_ns() + int(float(line) * 1e9), []
        while len(samples) < _FEWEST_CALLS or perf_counter_ns() < end:
            started = perf_counter_ns()
            call()
            samples.append(perf_counter_ns() - started)
        answers.write(f"{float(np.median(samples))}\n")
        answers.flush()


if __name__ == "__main__":
    main()
