"""``lepton-edge serve``: the Open Inference Protocol v2, by a public client and by requests that nobody should send."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge.digits import Digits, shipped_bundle
from lepton_runtime import Session
from tests.made_bundles import write_table_bundle, write_text_bundle

pytest.importorskip("uvicorn", reason="serving needs the [serve] extra")

LIMIT = 1_000_000


class Server:
    """A server in a process of its own."""

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "lepton_edge", "serve", *map(str, arguments), "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
        self.line = self.process.stderr.readline()
        found = re.search(r"on http://127\.0\.0\.1:(\d+);", self.line)
        assert found, self.line + self.process.stderr.read()
        self.port = int(found[1])

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any, http.client.HTTPResponse]:
        """The status, the document and the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        content = body if isinstance(body, bytes) or body is None else json.dumps(body)
        connection.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return response.status, json.loads(text) if is_json and text else text, response

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(30)
        self.process.stderr.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_text_bundle(folder / "text.bundle")
    write_table_bundle(folder / "table.bundle")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    server = Server(shipped_bundle(), folder / "text.bundle", folder / "table.bundle", "--max-body", LIMIT / 1e6)
    yield server
    server.end()


def tensor(digits: Digits, **changes: object) -> dict[str, Any]:
    image = digits.test_images[0].astype(np.float32)
    return {"name": "image", "shape": [1, 28, 28, 1], "datatype": "FP32", "data": image.ravel().tolist(), **changes}


def test_the_public_client_makes_its_round_trip(server: Server, digits: Digits) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="needs tritonclient")
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("digits")
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [1, 28, 28, 1]}]
    assert metadata["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [1, 10]}]
    with Session.open(shipped_bundle()) as session:
        for number in range(5):
            image = digits.test_images[number].astype(np.float32)[None, :, :, None]
            expected = session.run(image)
            for is_binary in (True, False):
                given = triton.InferInput("image", [1, 28, 28, 1], "FP32")
                given.set_data_from_numpy(image, binary_data=is_binary)
                outputs = [triton.InferRequestedOutput("scores", binary_data=is_binary)]
                answer = client.infer("digits", [given], outputs=outputs, request_id=str(number))
                np.testing.assert_array_equal(answer.as_numpy("scores"), expected)
                assert answer.get_response()["id"] == str(number)
    with Session.open(server_bundle(server, "text")) as session:
        text = np.array([["very good"]], object)
        given = triton.InferInput("review", [1, 1], "BYTES")
        for is_binary in (True, False):
            given.set_data_from_numpy(text, binary_data=is_binary)
            answer = client.infer("text", [given])
            expected = session.run(session.encode({"review": ["very good"]}))
            for name, values in expected.items():
                np.testing.assert_array_equal(answer.as_numpy(name), values)
    client.close()


def server_bundle(server: Server, name: str) -> str:
    return next(part for part in server.process.args if part.endswith(f"{name}.bundle"))


def test_a_table_is_asked_for_by_its_columns(server: Server) -> None:
    status, metadata, _ = server.ask("GET", "/v2/models/table")
    assert status == 200
    values = {"BYTES": ["red"], "FP32": [1.5], "INT64": [2], "FP64": [1.5]}
    inputs = [
        {**{key: entry[key] for key in ("name", "datatype")}, "shape": [1, 1], "data": values[entry["datatype"]]}
        for entry in metadata["inputs"]
    ]
    status, answer, _ = server.ask("POST", "/v2/models/table/infer", {"inputs": inputs})
    assert status == 200, answer
    with Session.open(server_bundle(server, "table")) as session:
        expected = session.run(session.encode({entry["name"]: entry["data"] for entry in inputs}))
    for output in answer["outputs"]:
        np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), expected[output["name"]], rtol=1e-6)


def test_a_raw_picture_is_preprocessed_where_it_is_asked_for(server: Server, digits: Digits) -> None:
    image = digits.test_images[0]
    given = {"name": "image", "shape": [28, 28], "datatype": "UINT8", "data": image.tolist()}
    status, answer, _ = server.ask("POST", "/v2/models/digits/infer", {"inputs": [given], "parameters": {"preprocess": True}})
    assert status == 200, answer
    assert int(np.argmax(answer["outputs"][0]["data"])) == digits.test_labels[0]


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"shape": [1, 28, 28]}, "must hold 588 values|must have shape"),
        ({"shape": [1, 28, 28, 2]}, "input 'image' must hold 1568 values, as its shape .* says, found 784"),
        ({"shape": [1, -28, -28, 1]}, "lengths of at least 1"),
        ({"shape": [10**18, 10**12]}, "must hold 1000000000000000000000000000000 values"),
        ({"shape": "1"}, "must be a list of at most 32 lengths"),
        ({"shape": [True, 28, 28, 1]}, "must be a list of at most 32 lengths"),
        ({"shape": [1] * 65}, "must be a list of at most 32 lengths"),
        ({"shape": [10**3000, 10**3000]}, "must be a list of at most 32 lengths"),
        ({"datatype": "FP99"}, "the datatype of input 'image' is one of BOOL, .* found 'FP99'"),
        ({"datatype": "UINT8"}, "must hold values of UINT8 only"),
        ({"datatype": "FP64"}, "input 'image' must be float32, found float64"),
        ({"datatype": "BYTES"}, "must be a list of texts"),
        ({"data": ["a"] * 784}, "must be a list of numbers"),
        ({"data": [None] * 784}, "must hold values of FP32 only"),
        ({"data": [True] * 784}, "must hold values of FP32 only"),
        ({"data": {}}, "must be a list of numbers"),
        ({"data": []}, "must be a list of numbers"),
        ({"data": [[1.0], 2.0]}, "must be a list of numbers"),
        ({"datatype": "INT8", "data": [300] * 784}, "must fit INT8"),
        ({"name": "picture"}, r"the model's inputs are \['image'\], found \['picture'\]"),
        ({"name": 3}, "must have a name of its own, found 3"),
        ({"parameters": {"binary_data_size": 10}}, "must be within the 0 bytes that are left, found 10"),
        ({"parameters": {"binary_data_size": -1}}, "must be within the 0 bytes"),
        ({"parameters": []}, "'parameters' must be an object, found list"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(server: Server, digits: Digits, change: dict[str, object], because: str) -> None:
    status, answer, _ = server.ask("POST", "/v2/models/digits/infer", {"inputs": [tensor(digits, **change)]})
    assert status == 400
    assert re.search(because, answer["error"]), answer


@pytest.mark.parametrize(
    ("body", "headers", "status", "because"),
    [
        (b"", {}, 400, "must be JSON"),
        (b"{", {}, 400, "must be JSON"),
        (b"[" * 100_000, {}, 400, "must be JSON"),
        (b'{"inputs": NaN}', {}, 400, "NaN is no JSON"),
        (b"\xff\xfe", {}, 400, "must be JSON"),
        (b"[]", {}, 400, "must be a JSON object, found list"),
        (b"{}", {}, 400, "'inputs' must be a list of tensors, found NoneType"),
        (b'{"inputs": [1]}', {}, 400, "'inputs' must be a list of tensors"),
        (b'{"inputs": []}', {}, 400, r"inputs are \['image'\], found \[\]"),
        (b"{}", {"Inference_Header_Content_Length": "9"}, 400, "must be within the body of 2 bytes, found 9"),
        (b"{}", {"Inference_Header_Content_Length": "-1"}, 400, "must be a number of bytes, found '-1'"),
        (b"{}", {"Inference_Header_Content_Length": "\xb2"}, 400, "must be a number of bytes"),
        (b"{}", {"Inference_Header_Content_Length": "1" * 5000}, 400, "must be a number of bytes"),
        (b"{}", {"Origin": "https://evil.example"}, 403, "must be of 127.0.0.1 or localhost, found 'https://evil.example'"),
        (b"{}", {"Origin": "null"}, 403, "found 'null'"),
        (b"{}", {"Origin": "http://localhost:3000"}, 400, "'inputs' must be"),
        (b"{}", {"Content_Encoding": "gzip"}, 415, "must not be compressed, found 'gzip'"),
        (b" " * (LIMIT + 1), {}, 413, f"at most {LIMIT} bytes, found {LIMIT + 1} bytes"),
    ],
)
def test_a_body_that_does_not_fit_is_refused(server: Server, body: bytes, headers: dict[str, str], status: int, because: str) -> None:
    found, answer, _ = server.ask("POST", "/v2/models/digits/infer", body, **headers)
    assert found == status
    assert re.search(because, answer["error"]), answer


def test_a_body_without_an_announced_length_is_cut_off(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(
        "POST", "/v2/models/digits/infer", iter([b" " * LIMIT, b" "]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["error"]) == (413, f"a body must be of at most {LIMIT} bytes, found more")
    connection.close()


def test_texts_that_would_take_much_memory_are_refused(server: Server) -> None:
    given = {"name": "review", "shape": [2000, 1], "datatype": "BYTES", "data": ["a"] * 1999 + ["b" * 100_000]}
    status, answer, _ = server.ask("POST", "/v2/models/text/infer", {"inputs": [given]})
    assert (status, "the texts of input 'review' must fit 67108864 bytes" in answer["error"]) == (400, True)


def test_a_picture_is_not_for_a_table(server: Server) -> None:
    status, answer, _ = server.ask("POST", "/v2/models/digits/infer", {"inputs": [], "parameters": {"preprocess": True}})
    assert (status, "the model's inputs are ['image'], found []" in answer["error"]) == (400, True)


def test_a_client_that_goes_away_is_counted_and_forgotten(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as gone:
        gone.sendall(b"POST /v2/models/table/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        await_metric(server, "lepton_edge_requests_in_flight 1.0")
    await_metric(server, "lepton_edge_requests_in_flight 0.0")
    await_metric(server, 'lepton_edge_requests_total{model="table",status="400"}')


def await_metric(server: Server, line: str) -> None:
    """Wait until it is among the metrics."""
    text = ""
    for _ in range(600):
        text = server.ask("GET", "/metrics")[1].decode()
        if line in text:
            return
        time.sleep(0.05)
    raise AssertionError(text)


def test_an_output_that_is_not_there_is_refused(server: Server, digits: Digits) -> None:
    for outputs in ([{"name": "other"}], ["scores"], {}):
        status, answer, _ = server.ask("POST", "/v2/models/digits/infer", {"inputs": [tensor(digits)], "outputs": outputs})
        assert (status, "'outputs' must be a list of some of the model's outputs" in answer["error"]) == (400, True)


def test_bytes_that_belong_to_nothing_are_refused(server: Server, digits: Digits) -> None:
    head = json.dumps({"inputs": [tensor(digits)]}).encode()
    status, answer, _ = server.ask("POST", "/v2/models/digits/infer", head + b"more", Inference_Header_Content_Length=str(len(head)))
    assert (status, answer["error"]) == (400, "every byte after the JSON must belong to an input's binary_data_size, 4 are left over")


@pytest.mark.parametrize("content", [b"\x05\0\0\0abc", b"\x01\0", b"\x01\0\0\0\xff", b"\xff\xff\xff\xffa"])
def test_texts_in_binary_that_are_cut_are_refused(server: Server, content: bytes) -> None:
    given = {"name": "review", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [given]}).encode()
    status, answer, _ = server.ask("POST", "/v2/models/text/infer", head + content, Inference_Header_Content_Length=str(len(head)))
    assert (status, "each text of input 'review' must" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/cats", 404),
        ("POST", "/v2/models/cats/infer", 404),
        ("GET", "/v2/models/digits/versions/2/ready", 404),
        ("GET", "/v2/models/digits/infer", 405),
        ("GET", "/", 404),
        ("POST", "/v2", 405),
    ],
)
def test_what_is_not_there_is_said(server: Server, method: str, path: str, status: int) -> None:
    found, answer, _ = server.ask(method, path)
    assert found == status
    assert answer["error"]


def test_a_browsers_page_cannot_reach_it_under_another_name(server: Server) -> None:
    assert server.ask("GET", "/v2", Host="evil.example")[0] == 400
    assert server.ask("GET", "/v2", Host=f"localhost:{server.port}")[0] == 200


def test_what_was_answered_and_refused_is_counted(server: Server, digits: Digits) -> None:
    server.ask("POST", "/v2/models/digits/infer", {"inputs": [tensor(digits)]})
    server.ask("POST", "/v2/models/digits/infer", b"{")
    status, text, _ = server.ask("GET", "/metrics")
    assert status == 200
    for status in ("200", "400"):
        assert re.search(rf'lepton_edge_requests_total{{model="digits",status="{status}"}} [1-9]', text.decode())
    assert 'lepton_edge_compute_seconds_count{model="digits"}' in text.decode()


@pytest.fixture
def slow_model(tmp_path: Path) -> dict[str, str]:
    """An environment in which an answer takes until there is a file called "go"."""
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, time\nfrom lepton_runtime.session import Session\nrun = Session.run\n"
        "def wait(*given, **named):\n"
        f"    while not pathlib.Path({str(tmp_path / 'go')!r}).exists():\n        time.sleep(0.01)\n"
        "    return run(*given, **named)\n"
        "Session.run = wait\n"
    )
    return {"PYTHONPATH": str(tmp_path)}


class Asking:
    """Requests that are under way, each in a thread."""

    def __init__(self, server: Server, digits: Digits, count: int) -> None:
        self.statuses: list[int] = []

        def ask() -> None:
            self.statuses.append(server.ask("POST", "/v2/models/digits/infer", {"inputs": [tensor(digits)]})[0])

        self._threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def end(self) -> list[int]:
        for thread in self._threads:
            thread.join(60)
        return sorted(self.statuses)


def test_more_than_can_wait_are_told_to_come_again(digits: Digits, slow_model: dict[str, str], tmp_path: Path) -> None:
    server = Server(shipped_bundle(), "--queue", 2, "--timeout", 60, environment=slow_model)
    try:
        asking = Asking(server, digits, 8)
        await_metric(server, 'lepton_edge_requests_total{model="digits",status="429"} 5.0')
        (tmp_path / "go").touch()
        assert asking.end() == [200] * 3 + [429] * 5
        assert Asking(server, digits, 1).end() == [200]
    finally:
        server.end()


def test_who_waits_too_long_is_told_so_and_the_server_stays_alive(digits: Digits, slow_model: dict[str, str], tmp_path: Path) -> None:
    server = Server(shipped_bundle(), "--queue", 8, "--timeout", 2, environment=slow_model)
    try:
        asking = Asking(server, digits, 5)
        await_metric(server, 'lepton_edge_requests_total{model="digits",status="503"} 4.0')
        assert server.ask("GET", "/v2/health/live")[0] == 200
        (tmp_path / "go").touch()
        assert asking.end() == [200] + [503] * 4
    finally:
        server.end()


def test_a_client_that_sends_nothing_more_holds_up_nobody(digits: Digits) -> None:
    server = Server(shipped_bundle(), "--timeout", 0.5, "--queue", 1)
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as silent:
            silent.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
            assert server.ask("POST", "/v2/models/digits/infer", {"inputs": [tensor(digits)]})[0] == 200
            assert silent.recv(1000).startswith(b"HTTP/1.1 408 ")
    finally:
        server.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_those_that_were_taken_end(digits: Digits, slow_model: dict[str, str], tmp_path: Path, number: int) -> None:
    server = Server(shipped_bundle(), environment=slow_model)
    asking = Asking(server, digits, 1)
    await_metric(server, "lepton_edge_requests_in_flight 1.0")
    server.process.send_signal(number)
    (tmp_path / "go").touch()
    assert asking.end() == [200]
    assert server.process.wait(30) == 0
    assert server.process.stderr.read() == "stopped: what had been taken was answered\n"
    server.process.stderr.close()


def test_a_port_that_is_taken_is_an_error(lepton_edge) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = lepton_edge("serve", shipped_bundle(), "--port", taken.getsockname()[1])
    outcome.refused(1, because="--host and --port must be free to listen on, 127.0.0.1:.* is not")


def test_two_bundles_of_one_name_are_refused(lepton_edge, digits_bundle: Path) -> None:
    lepton_edge("serve", shipped_bundle(), digits_bundle).refused(
        1, because="each bundle must have a name of its own, found digits, digits"
    )


def test_the_extra_that_is_missing_is_named(lepton_edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    lepton_edge("serve", shipped_bundle()).refused(1, because=r'pip install "lepton-edge\[serve\]"')


def test_answers_do_not_wait_for_an_acknowledgement(lepton_edge, monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[int] = []

    class Server:
        def __init__(self, config: object) -> None: ...

        def run(self, sockets: list[socket.socket]) -> None:
            with socket.create_connection(sockets[0].getsockname()), sockets[0].accept()[0] as accepted:
                delays.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr("uvicorn.Config", lambda app, **settings: None)  # it sets up logging for the whole process
    monkeypatch.setattr("uvicorn.Server", Server)
    assert lepton_edge("serve", shipped_bundle(), "--port", 0).code == 0
    assert delays == [1]
