"""What months of running bring: processes that end, sessions sent to others, memory that is short."""

import copy
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lepton_edge.digits import shipped_bundle
from lepton_runtime import BundleError, LeptonError, Session, ThreadBudget, memory
from lepton_runtime.errors import InputError

DIGIT = np.random.default_rng(0).uniform(0, 255, (1, 28, 28, 1)).astype(np.float32)


_HEAD = """
import sys, threading, time
import numpy as np
from lepton_runtime import Session, ThreadBudget
digit = np.ones((1, 28, 28, 1), np.float32)
"""


def ended(code: str, bundle: Path) -> "subprocess.CompletedProcess[str]":
    """What a process that runs some code comes to."""
    return subprocess.run([sys.executable, "-c", _HEAD + code, bundle], capture_output=True, text=True, timeout=60, check=False)


CALLS = {
    "run": "session = Session.open(sys.argv[1])\ndef call(): session.run(digit)",
    "threads": "session = Session.open(sys.argv[1], threads=2)\ndef call(): session.run(digit)",
    "out": "session = Session.open(sys.argv[1])\nout = np.empty((1, 10), np.float32)\ndef call(): session.run(digit, out=out)",
    "budget": "session = Session.open(sys.argv[1], budget=ThreadBudget(1))\ndef call(): session.run(digit)",
    "predict": "session = Session.open(sys.argv[1])\ndef call(): session.predict(digit[0])",
    "deadline": "session = Session.open(sys.argv[1], timeout_s=1)\ndef call(): session.run(digit)",
}


ON_BOARDS = ("run", "out")  # a process of its own takes ten seconds where it is emulated


@pytest.mark.parametrize("call", [name if name in ON_BOARDS else pytest.param(name, marks=pytest.mark.simulation) for name in CALLS])
def test_a_process_ends_while_its_daemon_threads_compute(call: str) -> None:
    """Without a guard Python ends it with SIGABRT, each time."""
    code = """
def again_and_again():
    while True:
        call()
for _ in range(3):
    threading.Thread(target=again_and_again, daemon=True).start()
time.sleep(0.2)
"""
    done = ended(CALLS[call] + code, shipped_bundle())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.simulation
def test_the_thread_that_ends_a_process_may_still_compute() -> None:
    code = """
import atexit
atexit.register(lambda: print(session.run(digit).shape))  # before the session is opened: it is called after the guard
session = Session.open(sys.argv[1])
"""
    done = ended("import lepton_runtime.session\n" + code, shipped_bundle())
    assert (done.returncode, done.stdout, done.stderr) == (0, "(1, 10)\n", "")


@pytest.mark.parametrize("again", [lambda session: pickle.loads(pickle.dumps(session)), copy.copy, copy.deepcopy])
def test_a_session_that_is_copied_or_sent_is_opened_again(again) -> None:
    with Session.open(shipped_bundle(), precision="fp32", threads=2, timeout_s=5) as session, again(session) as other:
        assert other is not session
        assert (other.artifact, other.engine, other.threads, other.timeout_s) == (session.artifact, "onnxruntime", 2, 5)
        np.testing.assert_array_equal(other.run(DIGIT), session.run(DIGIT))


def test_a_pickled_session_opens_no_other_bundle(digits_bundle: Path, rewrite_manifest) -> None:
    with Session.open(digits_bundle) as session:
        data = pickle.dumps(session)
    rewrite_manifest(digits_bundle, lambda values: values.update(license="other"))
    with pytest.raises(BundleError, match=r"must be the bundle that the session was opened on, it was changed since; open it again"):
        pickle.loads(data)


def test_a_session_of_this_process_alone_is_not_sent() -> None:
    with Session.open(shipped_bundle(), budget=ThreadBudget(1)) as session, pytest.raises(LeptonError, match="has a budget"):
        pickle.dumps(session)
    with pytest.raises(LeptonError, match="was closed"):
        pickle.dumps(session)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "1"])
def test_a_deadline_is_a_number_of_seconds(seconds) -> None:
    with pytest.raises(InputError, match="timeout_s must be a number of seconds above 0"):
        Session.open(shipped_bundle(), timeout_s=seconds)


def test_a_deadline_changes_no_answer() -> None:
    with Session.open(shipped_bundle(), timeout_s=5) as limited, Session.open(shipped_bundle()) as session:
        for _ in range(200):
            np.testing.assert_array_equal(limited.run(DIGIT), session.run(DIGIT))


# Memory


def test_a_model_that_surely_does_not_fit_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 100 * 2**20)
    memory.check_memory("onnxruntime", "model.onnx", 40 * 2**20)
    message = r"model.onnx takes at least 105 MB of memory on onnxruntime, 100 MB are free; end other programs, or take a smaller precision"
    with pytest.raises(LeptonError, match=message):
        memory.check_memory("onnxruntime", "model.onnx", 42 * 2**20)
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    memory.check_memory("onnxruntime", "model.onnx", 2**40)


def test_what_a_session_opens_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 0)
    monkeypatch.setattr(memory, "_SMALL_BYTES", 0)
    with pytest.raises(LeptonError, match=r"model.fp32.onnx takes at least \d+ MB of memory on onnxruntime, 0 MB are free"):
        Session.open(shipped_bundle(), precision="fp32")


@pytest.mark.skipif(sys.platform != "linux", reason="others do not say what is free")
def test_free_memory_is_that_of_the_machine() -> None:
    found = memory.free_bytes()
    assert found is not None
    assert found > 2**20


@pytest.mark.simulation  # an emulated process has no limit of its own
@pytest.mark.skipif(sys.platform != "linux", reason="others do not say what is free")
def test_free_memory_is_that_of_the_process_too() -> None:
    code = """
import resource
from lepton_runtime.memory import free_bytes
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
print(free_bytes() < 2**32)
"""
    assert ended(code, shipped_bundle()).stdout == "True\n"


def test_a_control_group_and_those_around_it_limit_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read from disks does not count as taken."""
    own = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), None)
    if own is None:
        own = "/app"
        read = Path.read_text
        fake = lambda path, **how: "0::/app\n" if str(path) == "/proc/self/cgroup" else read(path, **how)  # noqa: E731
        monkeypatch.setattr(Path, "read_text", fake)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    group = tmp_path / own.lstrip("/")
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text("1000\n")
    (group / "memory.current").write_text("990\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 300\nactive_file 50\nslab_reclaimable 5\n")
    assert memory.free_bytes() == 365
    (group / "memory.max").write_text("max\n")
    found = memory.free_bytes()
    assert found is not None
    assert found > 2**20


@pytest.mark.simulation
def test_who_ends_a_process_may_stop_a_thread_that_computes() -> None:
    """Also after the guard has run, which was registered later."""
    code = """
import atexit
stop = []
def again_and_again():
    while not stop:
        session.run(digit)
def join():
    stop.append(1)
    thread.join()
    print("joined")
atexit.register(join)
thread = threading.Thread(target=again_and_again, daemon=True)
session = Session.open(sys.argv[1], timeout_s=100)
thread.start()
"""
    head, rest = code.split("thread = ")[0], "thread = " + code.split("thread = ", 1)[1]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, threading\n{head}\n{_HEAD}{rest}", shipped_bundle()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "joined\n", "")


def test_the_thread_that_watches_over_deadlines_is_no_call() -> None:
    from lepton_runtime.engines import deadline, ending

    with Session.open(shipped_bundle(), timeout_s=100) as session:
        session.run(DIGIT)
    watching = deadline._watch._thread
    assert watching is not None
    assert not ending._computes(sys._current_frames()[watching.ident])


def test_a_deadline_far_away_does_not_end_the_others() -> None:
    from lepton_runtime.engines import deadline

    stopped = threading.Event()
    with deadline.deadline(1e12, lambda: None), deadline.deadline(0.01, stopped.set):
        assert stopped.wait(20)
    assert deadline._watch._thread is not None
    assert deadline._watch._thread.is_alive()
