"""Models that never end, in bundles whose checksums are right: a call ends by its deadline, and the next one works."""

import hashlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import lepton_edge.install
from lepton_edge.install import install
from lepton_runtime import CallTimeoutError, LeptonError, Session, TensorSpec, UnsupportedError
from lepton_runtime.engines import open_engine

DIGIT = np.ones((1, 28, 28, 1), np.float32)


def endless(times: int = 2**62) -> bytes:
    """A network of the digits' shapes that goes round so many times unless its picture is black."""
    helper, types = onnx.helper, onnx.TensorProto
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Abs", ["state"], ["next"])],
        "body",
        [value("i", types.INT64, []), value("go", types.BOOL, []), value("state", types.FLOAT, [1, 10])],
        [value("go_on", types.BOOL, []), value("next", types.FLOAT, [1, 10])],
    )
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["pixels"]),
        helper.make_node("Slice", ["pixels", "zero", "ten", "one"], ["first"]),
        helper.make_node("ReduceMax", ["image"], ["brightest"], keepdims=0),
        helper.make_node("Cast", ["brightest"], ["has_begun"], to=types.BOOL),
        helper.make_node("Loop", ["times", "has_begun", "first"], ["scores"], body=body),
    ]
    arrays = {"flat": [1, 784], "zero": [0], "ten": [10], "one": [1], "times": times}
    initializers = [onnx.numpy_helper.from_array(np.array(array, np.int64), name) for name, array in arrays.items()]
    doors = [value("image", types.FLOAT, [1, 28, 28, 1])], [value("scores", types.FLOAT, [1, 10])]
    graph = helper.make_graph(nodes, "endless", *doors, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


@pytest.fixture
def endless_bundle(digits_bundle: Path, rewrite_manifest) -> Path:
    content = endless()
    (digits_bundle / "model.fp32.onnx").write_bytes(content)
    entry = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite_manifest(digits_bundle, lambda values: values["artifacts"][0].update(entry))
    return digits_bundle


def test_a_call_without_end_ends_by_its_deadline_and_the_next_one_works(endless_bundle: Path) -> None:
    with Session.open(endless_bundle, precision="fp32", timeout_s=0.2) as session:
        for _ in range(2):
            with pytest.raises(CallTimeoutError, match=r"a call may take 0.2 s, this one took longer and was stopped; allow more with"):
                session.run(DIGIT)
        np.testing.assert_array_equal(session.run(0 * DIGIT), np.zeros((1, 10), np.float32))


def test_a_call_into_a_given_array_has_the_deadline_too(endless_bundle: Path) -> None:
    with Session.open(endless_bundle, precision="fp32", timeout_s=0.2) as session:
        image, out = 0 * DIGIT, np.ones((1, 10), np.float32)
        for _ in range(2):
            session.run(image, out=out)
        np.testing.assert_array_equal(out, np.zeros((1, 10)))
        image[:] = 1
        with pytest.raises(CallTimeoutError):
            session.run(image, out=out)


def test_each_of_many_threads_has_its_own_deadline(endless_bundle: Path) -> None:
    """Those that end, end as ever; those that do not are stopped."""
    with Session.open(endless_bundle, precision="fp32", timeout_s=5) as session:
        ended: list[bool] = []

        def call(pixel: float) -> None:
            try:
                session.run(np.float32(pixel) * DIGIT)
                ended.append(True)
            except CallTimeoutError:
                ended.append(False)

        threads = [threading.Thread(target=call, args=(number % 2,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(ended) == [False] * 4 + [True] * 4


@pytest.mark.parametrize("engine", ["litert", "openvino"])
def test_an_engine_that_cannot_be_stopped_takes_no_deadline(engine: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"timeout_s needs an engine that can be stopped in a call, onnxruntime, found {engine}"):
        open_engine(engine, endless(), inputs=[], outputs=[], threads=1, timeout_s=1)


def test_a_device_does_not_take_an_endless_model_for_right(endless_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update with it is refused: its golden inputs do not end."""
    monkeypatch.setattr(lepton_edge.install, "_LONGEST_CALL_S", 0.5)
    with pytest.raises(CallTimeoutError, match=r"a call may take 0.5 s, this one took longer and was stopped"):
        install(endless_bundle, tmp_path / "slot")
    assert not (tmp_path / "slot" / "current").exists()


CALL = """
import sys, threading, time
import numpy as np
from lepton_runtime import Session
session = Session.open(sys.argv[1], precision="fp32")
digit = np.ones((1, 28, 28, 1), np.float32)
"""


def ended_by(code: str, bundle: Path, number: int) -> int:
    """The exit code of a process in an endless call that gets a signal."""
    with subprocess.Popen([sys.executable, "-c", CALL + code, bundle], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "calling\n"
        time.sleep(0.3)
        process.send_signal(number)
        try:
            return process.wait(20)
        finally:
            process.kill()


def test_sigterm_ends_a_process_in_a_call(endless_bundle: Path) -> None:
    assert ended_by("print('calling', flush=True); session.run(digit)", endless_bundle, signal.SIGTERM) == -signal.SIGTERM


def test_ctrl_c_ends_a_call_by_its_deadline(endless_bundle: Path) -> None:
    """Python hears of the signal when the engine returns: that it does is what a deadline is for."""
    code = """
limited = Session.open(sys.argv[1], precision="fp32", timeout_s=2)
print("calling", flush=True)
try:
    limited.run(digit)
except KeyboardInterrupt:
    sys.exit(130)
"""
    assert ended_by(code, endless_bundle, signal.SIGINT) == 130


def test_a_session_can_be_closed_while_it_computes(endless_bundle: Path) -> None:
    session = Session.open(endless_bundle, precision="fp32", timeout_s=0.5)
    found: list[BaseException] = []

    def call() -> None:
        try:
            session.run(DIGIT)
        except CallTimeoutError as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.1)
    session.close()
    thread.join(20)
    assert [type(error) for error in found] == [CallTimeoutError]


def test_a_call_that_gets_no_memory_says_so_and_the_next_one_works() -> None:
    """Four terabytes for a picture that is not black."""
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["x"], ["length"], to=types.INT64),
        helper.make_node("Expand", ["x", "length"], ["many"]),
        helper.make_node("ReduceMax", ["many"], ["y"], keepdims=1),
    ]
    doors = [helper.make_tensor_value_info(name, types.FLOAT, [1]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "hungry", doors[:1], doors[1:]), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    specs = [TensorSpec("x", (1,), "float32")], [TensorSpec("y", (1,), "float32")]
    engine = open_engine("onnxruntime", model.SerializeToString(), inputs=specs[0], outputs=specs[1], threads=1)
    with pytest.raises(
        LeptonError, match=r"a call needs more memory than there is \(.*\), \d+ MB are free; give it fewer samples at a time"
    ):
        engine.run([np.float32([2**40])])
    np.testing.assert_array_equal(engine.run([np.float32([7])])[0], np.float32([7]))
