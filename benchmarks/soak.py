"""Whether long runs stay what they are: a camera's stream, a million calls of four sessions that share two threads, a service under load.

python benchmarks/soak.py stream [MINUTES]
python benchmarks/soak.py runs [CALLS]
python benchmarks/soak.py threads [CALLS] [THREADS] [BUNDLE]
python benchmarks/soak.py serve BUNDLE [MINUTES]

The camera gives 30 frames a second, the model can do 20: what was answered, how late each answer was, and the memory. The sessions run the
shipped bundle's files in threads of their own: the memory's slope over the second half, how many threads computed at a time at the
most, and the share of the cores that the process used. In ``threads`` sixteen share one session, for as many calls as a day has frames
at 30 a second, for each file of a bundle. The service gets twice the requests a second that it can answer: how many were answered, and
rightly, how many were turned away with 429 or 503, and its memory.
"""

from __future__ import annotations

import http.client
import itertools
import math
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime

import numpy as np
import tritonclient.http as triton

from lepton_edge.device import PACKAGES, read_device
from lepton_edge.digits import load_digits, shipped_bundle
from lepton_runtime import Bundle, Session, Stream, ThreadBudget
from lepton_runtime.versions import installed_versions

FPS = 30
MODEL_FPS = 20
SAMPLE_S = 1.0


def memory_bytes(process: int | str = "self") -> int:
    """Of a process, resident."""
    with open(f"/proc/{process}/statm") as file:
        return 4096 * int(file.read().split()[1])


def slope(memory: Sequence[tuple[float, int]] | np.ndarray) -> float:
    """Bytes a unit of the first number, over the second half."""
    half = np.array(memory[len(memory) // 2 :], np.float64)
    return float(np.polyfit(half[:, 0], half[:, 1], 1)[0])


class Camera:
    """Frames on a clock."""

    is_live = True

    def __init__(self, seconds: float) -> None:
        self._seconds, self._images = seconds, load_digits().test_images

    def __iter__(self) -> Iterator[np.ndarray]:
        started = time.monotonic()
        for number in range(int(FPS * self._seconds)):
            time.sleep(max(0.0, started + number / FPS - time.monotonic()))
            yield self._images[number % len(self._images)]


def soak_stream(minutes: float) -> None:
    """Print what became of the frames."""
    # Filled beforehand: what this program notes down is not to grow with what it watches.
    latencies, memory = np.full(int(FPS * 60 * minutes) + 1, np.nan), np.full((int(60 * minutes / SAMPLE_S) + 2, 2), np.nan)
    sampled, samples = 0.0, 0
    with Session.open(shipped_bundle()) as session:

        def answer(image: np.ndarray) -> np.ndarray:
            until = time.monotonic() + 1 / MODEL_FPS
            scores = session.run(session.preprocess(image))
            time.sleep(max(0.0, until - time.monotonic()))
            return scores

        with Stream(Camera(60 * minutes), answer) as stream:
            for number, found in enumerate(stream):
                latencies[number] = found.latency_s
                if time.monotonic() - sampled > SAMPLE_S:
                    sampled = time.monotonic()
                    memory[samples] = sampled / 60, memory_bytes()
                    samples += 1
    frame_times, memory = latencies[: stream.answered] * FPS, memory[:samples]
    late = int((frame_times > 2).sum())
    print(f"{stream.frames} frames in {minutes:g} minutes, {stream.answered} answered, {stream.dropped} dropped")
    print(
        f"latency in frame times: median {np.median(frame_times):.2f}, 99 % {np.percentile(frame_times, 99):.2f}, "
        f"worst {frame_times.max():.2f}; above 2: {late} of {len(frame_times)}"
    )
    print(f"memory {memory[0][1] / 1e6:.1f} → {memory[-1][1] / 1e6:.1f} MB, slope {slope(memory):+.0f} bytes a minute in the second half")


def soak_runs(calls: int) -> None:
    """Print what four sessions cost."""
    bundle, budget = Bundle.open(shipped_bundle()), ThreadBudget(2)
    records = [record for record in bundle.manifest.artifacts for _ in range(2)][:4]
    threads = (1, 2, 1, 2)
    sessions = [Session(bundle, record, threads=count, budget=budget) for record, count in zip(records, threads, strict=True)]
    done, memory, used = [0] * len(sessions), [], 0

    def work(number: int) -> None:
        session = sessions[number]
        spec = session.artifact.inputs[0]
        given = np.zeros([axis or 1 for axis in spec.shape], spec.dtype)
        expected = session.run(given)
        for _ in range(calls // len(sessions)):
            answer = session.run(given)
            done[number] += 1
        assert np.array_equal(answer, expected)

    started, cpu = time.monotonic(), time.process_time()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(len(sessions))]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        time.sleep(0.05)
        used = max(used, budget.threads - budget._free)
        memory.append((sum(done), memory_bytes()))
    seconds = time.monotonic() - started
    print(f"{sum(done):,} calls of {len(sessions)} sessions ({', '.join(map(str, threads))} threads) in {seconds:.0f} s")
    print(f"a budget of {budget.threads} threads, at the most {used} in use; {(time.process_time() - cpu) / seconds:.2f} cores used")
    print(f"memory {memory[0][1] / 1e6:.1f} → {memory[-1][1] / 1e6:.1f} MB, slope {slope(memory):+.3f} bytes a call in the second half")


def soak_threads(calls: int, threads: int, path: str | None) -> None:
    """Print what a session comes to that many threads share, of each file of a bundle: every answer is compared with the first."""
    bundle = Bundle.open(path or shipped_bundle())
    for record in bundle.manifest.artifacts:
        with Session(bundle, record) as session:
            print(f"{record.file}: {_shared(session, calls, threads)}", flush=True)


def _shared(session: Session, calls: int, threads: int) -> str:
    pixels, specs = load_digits().test_images, session.artifact.inputs
    shapes = {spec.name: [axis or 1 for axis in spec.shape] for spec in specs}
    given = [{spec.name: np.resize(pixels[number], shapes[spec.name]).astype(spec.dtype) for spec in specs} for number in range(16)]
    expected = [{name: array.tobytes() for name, array in session.run(one).items()} for one in given]
    done, wrong, memory = [0] * threads, [0] * threads, []

    def work(number: int) -> None:
        for call in range(calls // threads):
            picked = (call + number) % len(given)
            answers = session.run(given[picked])
            wrong[number] += {name: array.tobytes() for name, array in answers.items()} != expected[picked]
            done[number] += 1

    started = time.monotonic()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        time.sleep(0.05)
        memory.append((sum(done), memory_bytes()))
    return (
        f"{sum(done):,} calls by {threads} threads in {time.monotonic() - started:.0f} s, {sum(wrong)} answers other than the first to the "
        f"bit; memory {memory[0][1] / 1e6:.1f} → {memory[-1][1] / 1e6:.1f} MB, slope {slope(memory):+.3f} bytes a call in the second half"
    )


class Client:
    """Asks a service for the same again and again, and counts what comes back."""

    def __init__(self, address: str, session: Session) -> None:
        self._address = address.removeprefix("http://")
        tensors = []
        given = {spec.name: np.random.default_rng(0).random([axis or 1 for axis in spec.shape], np.float32) for spec in session.inputs}
        for name, array in given.items():
            tensors.append(triton.InferInput(name, array.shape, "FP32"))
            tensors[-1].set_data_from_numpy(array)
        self._body, header = triton.InferenceServerClient.generate_request_body(tensors)
        self._headers = {"Inference-Header-Content-Length": str(header), "Content-Type": "application/octet-stream"}
        self._path = f"/v2/models/{session.bundle.path.name.removesuffix('.bundle')}/infer"
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []
        self._expected: dict[str, np.ndarray] = {}

    def ask(self, connection: http.client.HTTPConnection) -> None:
        """Ask once; an answer must be the same as the first."""
        started = time.monotonic()
        connection.request("POST", self._path, self._body, self._headers)
        response = connection.getresponse()
        body = response.read()
        self.statuses[response.status] += 1
        if response.status == 200:
            self.seconds.append(time.monotonic() - started)
            length = response.getheader("Inference-Header-Content-Length")
            found = triton.InferenceServerClient.parse_response_body(body, header_length=int(length) if length else None)
            for output in found.get_response()["outputs"]:
                values = found.as_numpy(output["name"])
                assert np.array_equal(values, self._expected.setdefault(output["name"], values)), "the same input, the same answer"

    def ask_at(self, rate: float, seconds: float, clients: int, *, on_second: Callable[[float], None] = lambda elapsed: None) -> None:
        """Ask so many times a second, whether answered or not, or as fast as answers come if the rate is infinite."""
        clock, started = itertools.count(), time.monotonic()

        def work() -> None:
            with closing(http.client.HTTPConnection(self._address, timeout=60)) as connection:
                connection.connect()
                connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while (due := started + next(clock) / rate) < started + seconds and time.monotonic() < started + seconds:
                    time.sleep(max(0.0, due - time.monotonic()))
                    self.ask(connection)

        with ThreadPoolExecutor(clients) as pool:
            workers = [pool.submit(work) for _ in range(clients)]
            while not all(worker.done() for worker in workers):
                time.sleep(SAMPLE_S)
                on_second(time.monotonic() - started)
        for worker in workers:
            worker.result()


def soak_service(path: str, minutes: float) -> None:
    """Print what a service answers at twice its capacity."""
    command = [sys.executable, "-m", "lepton_edge", "serve", path, "--port", "0", "--queue", "8", "--timeout", "1"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    memory: list[tuple[float, int]] = []
    try:
        while not (found := re.search(r"http://\S+(?=;)", server.stderr.readline())):
            continue
        with Session.open(path) as session:
            first, client = Client(found[0], session), Client(found[0], session)
        first.ask_at(math.inf, 10.0, 2)
        capacity = first.statuses[200] / 10.0
        client.ask_at(2 * capacity, 60 * minutes, 64, on_second=lambda elapsed: memory.append((elapsed / 60, memory_bytes(server.pid))))
    finally:
        server.send_signal(signal.SIGTERM)
        ended = server.wait()
    total, statuses = sum(client.statuses.values()), dict(sorted(client.statuses.items()))
    latencies = 1e3 * np.array(client.seconds)
    print(f"{capacity:.0f} answers a second with two clients; then {total / 60 / minutes:.0f} requests a second for {minutes:g} minutes")
    print(
        f"by status: {statuses}; {client.statuses[200] / 60 / minutes:.0f} answers a second, all the same; the service ended with {ended}"
    )
    print(
        f"answered within: median {np.median(latencies):.0f} ms, 99 % {np.percentile(latencies, 99):.0f} ms, worst {latencies.max():.0f} ms"
    )
    print(f"memory {memory[0][1] / 1e6:.1f} → {memory[-1][1] / 1e6:.1f} MB, slope {slope(memory):+.0f} bytes a minute in the second half")


def main() -> None:
    """Soak what was asked for."""
    print(f"{datetime.now(UTC):%Y-%m-%d}  {read_device()}  {installed_versions(PACKAGES)}")
    what, size = sys.argv[1], sys.argv[2:]
    if what == "stream":
        soak_stream(float(size[0]) if size else 10.0)
    elif what == "threads":
        soak_threads(int(size[0]) if size else 30 * 24 * 3600, int(size[1]) if size[1:] else 16, size[2] if size[2:] else None)
    elif what == "serve":
        soak_service(size[0], float(size[1]) if size[1:] else 10.0)
    else:
        soak_runs(int(size[0]) if size else 1_000_000)


if __name__ == "__main__":
    main()
