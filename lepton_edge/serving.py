"""Bundles behind the Open Inference Protocol v2, over HTTP, for apps in other languages.

Source: KServe's "Open Inference Protocol (V2)", HTTP/REST, and its "Binary Tensor Data Extension".
"""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lepton_runtime.encoders import TEXT, raw_inputs
from lepton_runtime.errors import InputError, LeptonError, UnsupportedError
from lepton_runtime.session import Session
from lepton_runtime.tensors import Array, TensorSpec
from lepton_runtime.versions import installed_versions

_DATATYPES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    TEXT: "BYTES",
}
_DTYPES = {datatype: dtype for dtype, datatype in _DATATYPES.items()}
_HEADER_LENGTH = "Inference-Header-Content-Length"
_VERSION = "1"
_MOST_AXES = 32
_MOST_TEXT_BYTES = 2**26  # as numpy holds texts
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Limits:
    """What one service takes on.

    Attributes:
        body_bytes: Of one request.
        queue: How many requests wait, beside those that are computed; more are refused with 429.
        timeout_s: How long a request's body, and then its turn, may take; later it is 408, or 503.
        workers: How many requests are computed at a time.
    """

    body_bytes: int = 16 * 2**20
    queue: int = 32
    timeout_s: float = 10.0
    workers: int = 1


class RefusedError(Exception):
    """A request is not answered; its text says what must hold and what was found."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers


class Model:
    """One session under a name, with tensors as the protocol writes them.

    Attributes:
        name: What requests call it.
        inputs: What a request gives: raw values for texts and tables, else the model's own input.
    """

    def __init__(self, name: str, session: Session) -> None:
        self.name, self._session = name, session
        manifest = session.bundle.manifest
        self.inputs = tuple(raw_inputs(manifest.given_inputs, session.encoders)) if session.encoders else session.inputs

    def metadata(self) -> dict[str, Any]:
        """What the protocol tells of a model."""
        artifact = self._session.artifact
        return {
            "name": self.name,
            "versions": [_VERSION],
            "platform": f"{self._session.engine}_{artifact.format.value}",
            "inputs": [_described(spec) for spec in self.inputs],
            "outputs": [_described(spec) for spec in artifact.outputs],
        }

    def answer(self, body: bytes, header_length: int | None) -> tuple[bytes, int | None]:
        """The answer to a request, and the length of its JSON part where tensors in binary follow that.

        Raises:
            RefusedError: The request is malformed, or does not fit the model.
        """
        request, binary = _parsed(body, header_length)
        arrays, asked = self._arrays(request, binary), self._asked(request)
        try:
            outputs = self._run(arrays, is_raw=bool(_parameters(request).get("preprocess")))
        except (InputError, UnsupportedError) as error:
            raise RefusedError(400, str(error)) from error
        return self._written(request, outputs, asked)

    def _run(self, arrays: Mapping[str, Array], *, is_raw: bool) -> dict[str, Array]:
        session = self._session
        if session.encoders:
            return session.run(session.encode(arrays))
        if is_raw:
            if len(arrays) != 1:
                raise RefusedError(400, f"'preprocess' is for models of one picture, this one takes {list(arrays)}")
            (picture,) = arrays.values()
            return session.run({session.inputs[0].name: session.preprocess(picture)})
        return session.run(arrays)

    def _arrays(self, request: Mapping[str, Any], binary: memoryview) -> dict[str, Array]:
        inputs = request.get("inputs")
        if not isinstance(inputs, list) or not all(isinstance(entry, dict) for entry in inputs):
            raise RefusedError(400, f"'inputs' must be a list of tensors, found {type(inputs).__name__}")
        arrays: dict[str, Array] = {}
        for entry in inputs:
            name = entry.get("name")
            if not isinstance(name, str) or name in arrays:
                raise RefusedError(400, f"each input must have a name of its own, found {name!r}")
            arrays[name], binary = _read_tensor(name, entry, binary)
        wanted = [spec.name for spec in self.inputs]
        if set(arrays) != set(wanted):
            raise RefusedError(400, f"the model's inputs are {wanted}, found {list(arrays)}")
        if len(binary):
            raise RefusedError(400, f"every byte after the JSON must belong to an input's binary_data_size, {len(binary)} are left over")
        return arrays

    def _asked(self, request: Mapping[str, Any]) -> dict[str, bool]:
        """The names of the outputs that are wanted, and whether in binary."""
        by_default = bool(_parameters(request).get("binary_data_output"))
        names = [spec.name for spec in self._session.artifact.outputs]
        outputs = request.get("outputs")
        if outputs is None:
            return dict.fromkeys(names, by_default)
        if not isinstance(outputs, list) or not all(isinstance(entry, dict) and entry.get("name") in names for entry in outputs):
            raise RefusedError(400, f"'outputs' must be a list of some of the model's outputs {names}, found {json.dumps(outputs)[:200]}")
        return {entry["name"]: bool(_parameters(entry).get("binary_data", by_default)) for entry in outputs}

    def _written(self, request: Mapping[str, Any], outputs: Mapping[str, Array], asked: Mapping[str, bool]) -> tuple[bytes, int | None]:
        entries, tail = [], []
        for name, is_binary in asked.items():
            array = np.ascontiguousarray(outputs[name])
            entry: dict[str, Any] = {"name": name, "datatype": _DATATYPES[array.dtype.name], "shape": list(array.shape)}
            if is_binary:
                tail.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
                entry["parameters"] = {"binary_data_size": len(tail[-1])}
            else:
                entry["data"] = array.ravel().tolist()
            entries.append(entry)
        given = {"id": request["id"]} if isinstance(request.get("id"), str) else {}
        document = {"model_name": self.name, "model_version": _VERSION, **given, "outputs": entries}
        try:
            head = json.dumps(document, allow_nan=False).encode()
        except ValueError as error:
            raise RefusedError(422, "the answer holds NaN or infinity, which JSON has no words for; ask for it as binary_data") from error
        return b"".join([head, *tail]), len(head) if tail else None


def _described(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1 if axis is None else axis for axis in spec.shape]
    described: dict[str, Any] = {"name": spec.name, "datatype": _DATATYPES[spec.dtype], "shape": shape}
    if spec.scale is not None:
        described["parameters"] = {"scale": spec.scale, "zero_point": spec.zero_point}
    return described


def _parsed(body: bytes, header_length: int | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON part of a request, and what comes behind it."""
    length = len(body) if header_length is None else header_length
    if not 0 <= length <= len(body):
        raise RefusedError(400, f"{_HEADER_LENGTH} must be within the body of {len(body)} bytes, found {length}")

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    try:
        request = json.loads(body[:length], parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the request must be JSON: {error}") from error
    if not isinstance(request, dict):
        raise RefusedError(400, f"the request must be a JSON object, found {type(request).__name__}")
    return request, memoryview(body)[length:]


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    found = entry.get("parameters", {})
    if not isinstance(found, dict):
        raise RefusedError(400, f"'parameters' must be an object, found {type(found).__name__}")
    return found


def _read_tensor(name: str, entry: Mapping[str, Any], binary: memoryview) -> tuple[Array, memoryview]:
    """An input, and what is left of the bytes behind the JSON."""
    shape, dtype = entry.get("shape"), _DTYPES.get(str(entry.get("datatype")))
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(type(axis) is int and 0 < axis < 2**63 for axis in shape):
        found = json.dumps(shape)[:80]
        raise RefusedError(400, f"the shape of input {name!r} must be a list of at most {_MOST_AXES} lengths of at least 1, found {found}")
    if dtype is None:
        raise RefusedError(400, f"the datatype of input {name!r} is one of {', '.join(_DTYPES)}, found {entry.get('datatype')!r}")
    count, size = math.prod(shape), _parameters(entry).get("binary_data_size")
    if size is None:
        array = _read_data(name, entry.get("data"), dtype)
    else:
        if type(size) is not int or not 0 <= size <= len(binary):
            raise RefusedError(
                400, f"binary_data_size of input {name!r} must be within the {len(binary)} bytes that are left, found {size!r}"
            )
        array, binary = _read_binary(name, binary[:size], dtype), binary[size:]
    if dtype == TEXT and 4 * array.size * max(map(len, array), default=0) > _MOST_TEXT_BYTES:
        raise RefusedError(400, f"the texts of input {name!r} must fit {_MOST_TEXT_BYTES} bytes, each as long as the longest")
    if array.size != count:
        raise RefusedError(400, f"input {name!r} must hold {count} values, as its shape {shape} says, found {array.size}")
    return array.reshape(shape), binary


def _read_data(name: str, data: Any, dtype: str) -> Array:  # Any: whatever JSON holds
    flat = _flattened(data)
    if flat is None or (dtype == TEXT) != all(isinstance(value, str) for value in flat) or not flat:
        raise RefusedError(400, f"'data' of input {name!r} must be a list of {'texts' if dtype == TEXT else 'numbers'}")
    if dtype == TEXT:
        return np.array(flat, object)
    kinds = {"b": (bool,), "f": (int, float)}.get(np.dtype(dtype).kind, (int,))
    if not all(type(value) in kinds for value in flat):
        raise RefusedError(400, f"'data' of input {name!r} must hold values of {_DATATYPES[dtype]} only")
    try:
        return np.array(flat, dtype)
    except OverflowError as error:
        raise RefusedError(400, f"'data' of input {name!r} must fit {_DATATYPES[dtype]}: {error}") from error


def _flattened(data: Any) -> list[Any] | None:
    """The values of lists in lists, row by row."""
    while isinstance(data, list) and data and all(isinstance(part, list) for part in data):
        data = [value for part in data for value in part]
    return data if isinstance(data, list) and not any(isinstance(value, list | dict) for value in data) else None


def _read_binary(name: str, content: memoryview, dtype: str) -> Array:
    if dtype != TEXT:
        little = np.dtype(dtype).newbyteorder("<")
        if len(content) % little.itemsize:
            raise RefusedError(400, f"input {name!r} must be whole values of {little.itemsize} bytes, found {len(content)} bytes")
        return np.frombuffer(content, little).astype(dtype)
    texts = []
    while content:
        length = int.from_bytes(content[:4], "little")
        if len(content) < 4 + length:
            raise RefusedError(400, f"each text of input {name!r} must have its length before it, and as many bytes")
        try:
            texts.append(bytes(content[4 : 4 + length]).decode())
        except UnicodeDecodeError as error:
            raise RefusedError(400, f"each text of input {name!r} must be UTF-8: {error}") from error
        content = content[4 + length :]
    return np.array(texts, object)


class Service:
    """Models, their limits and their metrics."""

    def __init__(self, sessions: Mapping[str, Session], limits: Limits) -> None:
        """Serve sessions under names.

        Args:
            sessions: By what requests call them; they stay the caller's, to close.
            limits: What is taken on.
        """
        self._models = {name: Model(name, session) for name, session in sessions.items()}
        self._limits = limits
        self._hosts: Sequence[str] = LOOPBACK
        self._turns = asyncio.Semaphore(limits.workers)
        self._taken = 0
        self._registry = CollectorRegistry()
        self._answered = Counter("lepton_edge_requests", "Inference requests.", ["model", "status"], registry=self._registry)
        self._waiting = Gauge("lepton_edge_requests_in_flight", "Requests that wait or are computed.", registry=self._registry)
        self._waiting.set_function(lambda: self._taken)
        self._seconds = Histogram(
            "lepton_edge_compute_seconds",
            "From a request's turn to its answer.",
            ["model"],
            registry=self._registry,
            buckets=[base * 10.0**power for power in range(-4, 1) for base in (1, 2.5, 5)],
        )

    def app(self, *, hosts: Sequence[str] | None = None) -> Starlette:
        """The application.

        Args:
            hosts: The names by which it may be asked; by default only those of this machine, so that no page in a browser reaches it
                under another.
        """
        places = [f"/v2/models/{{name}}{version}" for version in ("", "/versions/{version}")]
        routes = [
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._live),
            Route("/v2", self._server),
            *(Route(place, self._metadata) for place in places),
            *(Route(f"{place}/ready", self._ready) for place in places),
            *(Route(f"{place}/infer", self._infer, methods=["POST"]) for place in places),
            Route("/metrics", self._metrics),
        ]
        self._hosts = LOOPBACK if hosts is None else hosts
        return Starlette(
            routes=routes,
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(self._hosts))],
            exception_handlers={RefusedError: _refused, 404: _not_found, 405: _not_found},
        )

    def _model(self, request: Request) -> Model:
        name, version = request.path_params["name"], request.path_params.get("version", _VERSION)
        model = self._models.get(name)
        if model is None or version != _VERSION:
            raise RefusedError(404, f"the models are {list(self._models)}, in version {_VERSION}, found {name!r} in version {version!r}")
        return model

    async def _live(self, request: Request) -> Response:
        return Response()

    async def _server(self, request: Request) -> Response:
        version = installed_versions(("lepton-edge",))["lepton-edge"]
        return JSONResponse({"name": "lepton-edge", "version": version, "extensions": ["binary_tensor_data"]})

    async def _metadata(self, request: Request) -> Response:
        return JSONResponse(self._model(request).metadata())

    async def _ready(self, request: Request) -> Response:
        return JSONResponse({"name": self._model(request).name, "ready": True})

    async def _metrics(self, request: Request) -> Response:
        return Response(generate_latest(self._registry), media_type="text/plain; version=0.0.4")

    async def _infer(self, request: Request) -> Response:
        model = self._model(request)
        try:
            origin = request.headers.get("origin")  # of the page whose script sends it
            if origin and "*" not in self._hosts and urlsplit(origin).hostname not in self._hosts:
                raise RefusedError(403, f"a page that asks must be of {' or '.join(self._hosts)}, found {origin[:80]!r}")
            response = await self._answer(model, request)
        except RefusedError as error:
            self._answered.labels(model.name, str(error.status)).inc()
            raise
        self._answered.labels(model.name, "200").inc()
        return response

    async def _answer(self, model: Model, request: Request) -> Response:
        if self._taken >= self._limits.queue + self._limits.workers:
            raise RefusedError(429, f"{self._taken} requests are waiting, no more are taken; try again", **{"Retry-After": "1"})
        self._taken += 1
        try:
            body, header_length = await self._body(request), _header_length(request)
            try:
                async with asyncio.timeout(self._limits.timeout_s):
                    await self._turns.acquire()
            except TimeoutError:
                raise RefusedError(503, f"no turn within {self._limits.timeout_s:g} s; try again", **{"Retry-After": "1"}) from None
            started = monotonic()
            try:
                content, head = await asyncio.to_thread(model.answer, body, header_length)
            except LeptonError as error:
                raise RefusedError(500, str(error)) from error
            finally:
                self._turns.release()
                self._seconds.labels(model.name).observe(monotonic() - started)
        finally:
            self._taken -= 1
        if head is None:
            return Response(content, media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={_HEADER_LENGTH: str(head)})

    async def _body(self, request: Request) -> bytes:
        """A request's body, if it is not too large and comes in time."""
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RefusedError(415, f"a body must not be compressed, found {request.headers['content-encoding']!r}")
        limit, parts, size = self._limits.body_bytes, [], 0
        announced = request.headers.get("content-length", "")  # HTTP's parser has checked that it is a number
        found = f"{announced} bytes" if announced else "more"
        refusal = RefusedError(413, f"a body must be of at most {limit} bytes, found {found}", Connection="close")
        if announced and int(announced) > 2 * limit:
            raise refusal
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                async for part in request.stream():
                    size += len(part)
                    if size <= limit:
                        parts.append(part)
                    elif size > 2 * limit:  # up to there it is read and forgotten: who is cut off while sending sees no answer
                        break
        except ClientDisconnect:
            raise RefusedError(400, "the client went away before its body was there") from None
        except TimeoutError:
            raise RefusedError(408, f"a body must come within {self._limits.timeout_s:g} s", Connection="close") from None
        if size > limit:
            raise refusal
        return b"".join(parts)


def _header_length(request: Request) -> int | None:
    text = request.headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise RefusedError(400, f"{_HEADER_LENGTH} must be a number of bytes, found {text!r}")
    return int(text)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return JSONResponse({"error": str(error)}, error.status, headers=error.headers)


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return JSONResponse({"error": f"{request.method} {request.url.path} is not part of the Open Inference Protocol v2 here"}, status)
