"""A command of lepton-edge on another machine, over the system's SSH: its configuration, its keys, its checks of the host.

One connection: it sends the program of :mod:`lepton_edge.remote.agent`, this lepton-edge as a wheel and the bundles, of all these
only what is not there yet, and then passes on what the command prints there.
"""

import hashlib
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lepton_edge.remote import agent
from lepton_edge.remote.wheel import DISTRIBUTION, build_wheel
from lepton_runtime.bundle import DIGEST_FILE, MANIFEST_FILE, SIGNATURE_FILE, Bundle
from lepton_runtime.errors import InputError, RemoteError

SSH = "LEPTON_EDGE_SSH"
"""The environment variable that holds the command to use in place of ``ssh``."""
# A connection of its own: one that is shared with other windows ends with Ctrl-C in any of them, and checks nothing by itself.
_OPTIONS = ("-T", "-o", "ControlPath=none", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
_SILENCE_SECONDS = 30  # without a sign of life from here, the command is ended there
_MARK = "lepton-edge agent "
_CLOSE_SECONDS = 15.0
_NOISE_LINES = 200  # of a login script, before ours
# For every Python since 3.3: it says what it is, and hands over to one that fits, where there is one.
_HELLO = """
import json, os, shutil, sys
if not {low} <= sys.version_info[:2] < {high}:
    for minor in range({high}[1] - 1, {low}[1] - 1, -1):
        other = shutil.which("python3.%d" % minor)
        if other:
            os.execv(other, [other, "-c", hello.decode()])
fits = {low} <= sys.version_info[:2] < {high}
print("\\n{mark}" + json.dumps({{"python": "%d.%d.%d" % sys.version_info[:3], "fits": fits}}))
sys.stdout.flush()
if fits:
    exec(compile(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())), "agent", "exec"))
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended there.

    Attributes:
        code: Its exit code.
        result: The JSON document that it wrote into the file that was asked for, if it did.
    """

    code: int
    result: dict[str, Any] | None


def check_address(text: str) -> str:
    """An address such as ``ssh://pi@raspberrypi.local:22``, as SSH takes it.

    Raises:
        InputError: It is none.
    """
    try:
        parts = urlsplit(text)
        is_one = parts.scheme == "ssh" and parts.hostname and (parts.port or 22) and not (parts.password or parts.query or parts.fragment)
        is_one = is_one and parts.path in ("", "/")
    except ValueError:  # its port is no number
        is_one = False
    if not is_one:
        raise InputError(f"a device is ssh://USER@HOST or ssh://USER@HOST:PORT, found {text!r}")
    return text.rstrip("/")


def run_there(
    address: str,
    command: Sequence[str],
    bundles: Mapping[str, Path],
    *,
    extras: str = "litert",
    environment: Mapping[str, str] | None = None,
    result: str = "",
    on_state: Callable[[str], None] = lambda text: None,
    on_output: Callable[[str, str], None] = lambda name, text: None,
) -> Outcome:
    """Run it in a fresh folder there, with the bundles in it.

    Args:
        address: See :func:`check_address`.
        command: The arguments of ``lepton-edge``.
        bundles: By the path that each has in that folder.
        extras: Of lepton-edge, installed there: names with commas between them.
        environment: Variables that the command gets.
        result: The JSON file in that folder to bring back.
        on_state: Told what is going on before the command begins; with an empty text once it does.
        on_output: Told what the command prints: ``"out"`` or ``"err"``, and a piece of text.

    Raises:
        RemoteError: The device cannot be reached, lacks something, or the connection is lost.
        BundleError: One of the bundles is damaged.
        KeyboardInterrupt: The user ended it before there was a result.
    """
    address = check_address(address)
    name, wheel = build_wheel()
    contents = {f"wheel/{name}": wheel}
    for place, path in bundles.items():
        contents |= {f"{place}{inner}": data for inner, data in _bundle_files(path)}
    files = [{"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in contents.items()]
    request = {
        "silence_seconds": _SILENCE_SECONDS,
        "files": files,
        "extras": extras,
        "command": list(command),
        "environment": dict(environment or {}),
        "result": result,
    }
    on_state(f"connecting to {address}")
    with _connected(address) as connection:
        try:
            connection.greet()
            connection.send(request)
            by_digest = dict(zip((entry["sha256"] for entry in files), contents.items(), strict=True))
            for number, sha256 in enumerate(needed := connection.read("need")):
                name, data = by_digest[sha256]
                on_state(f"sending {name}, {number + 1} of {len(needed)}")
                connection.write(data)
            connection.keep_alive()
            return connection.follow(on_state, on_output)
        except (ValueError, KeyError, TypeError) as error:
            raise RemoteError(f"{address} must answer as lepton-edge does, something else does: {error!r}") from error


def _bundle_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a checked bundle, and the device profiles beside it."""
    from lepton_runtime.device_profile import profile_paths

    bundle = Bundle.open(path)
    if path.is_dir():
        for name in (MANIFEST_FILE, DIGEST_FILE):
            yield f"/{name}", (path / name).read_bytes()
        signatures = bundle.read_signatures()
        if signatures is not None:
            yield f"/{SIGNATURE_FILE}", signatures
        for record in bundle.manifest.files:
            yield f"/{record.file}", bundle.read(record)
    else:
        bundle.check()
        yield "", path.read_bytes()
    profiles = profile_paths(bundle)[0]
    if profiles.is_file():
        yield ".tuned.json", profiles.read_bytes()


@contextmanager
def _connected(address: str) -> Iterator["_Connection"]:
    command = [*shlex.split(os.environ.get(SSH, "ssh")), *_OPTIONS, "--", address]
    if shutil.which(command[0]) is None:
        raise RemoteError(f"--device needs the program {command[0]!r}, it is not installed; on Debian: sudo apt install openssh-client")
    hello = _hello()
    program = f"import sys; hello=sys.stdin.buffer.read({len(hello)}); exec(hello)"
    # Ctrl-C is for this process, which tells the other side; SSH keeps the terminal, to ask for passwords.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(
            [*command, f'python3 -c "{program}"'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    finally:
        signal.signal(signal.SIGINT, previous)
    connection = _Connection(address, process)
    try:
        connection.write(hello)
        yield connection
    finally:
        connection.close()


def _hello() -> bytes:
    low, high = _pythons()
    return _HELLO.format(low=low, high=high, mark=_MARK).encode()


def _pythons() -> list[tuple[int, ...]]:
    """The first version of Python that fits, and the first after it that does not."""
    return sorted(tuple(map(int, version)) for version in re.findall(r"(\d+)\.(\d+)", metadata(DISTRIBUTION)["Requires-Python"]))


class _Connection:
    """A process of ``ssh``, and the agent behind it."""

    def __init__(self, address: str, process: "subprocess.Popen[bytes]") -> None:
        self._address, self._process = address, process
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._said: list[bytes] = []
        self._writing = threading.Lock()
        self._closed = threading.Event()
        # Lines come by way of a queue: waiting for it can be interrupted without losing a part of one.
        self._readers = [threading.Thread(target=self._read_lines, daemon=True), threading.Thread(target=self._read_errors, daemon=True)]
        for reader in self._readers:
            reader.start()

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._said.extend(self._process.stderr)

    def write(self, data: bytes) -> None:
        """Send bytes; if nobody takes them, the next read says why."""
        assert self._process.stdin is not None
        with self._writing:
            try:
                self._process.stdin.write(data)
                self._process.stdin.flush()
            except BrokenPipeError:
                return

    def send(self, values: Mapping[str, Any]) -> None:
        """Send a line."""
        self.write(json.dumps(values).encode() + b"\n")

    def greet(self) -> None:
        """Start the agent, on a Python that is neither too old nor too new."""
        for _ in range(_NOISE_LINES):
            line = self._lines.get()
            if not line:
                self._fail_to_connect()
            if line.startswith(_MARK.encode()):
                found = json.loads(line.removeprefix(_MARK.encode()))
                break
        else:
            raise RemoteError(f"{self._address} must run commands without saying much, its login script printed {_NOISE_LINES} lines")
        if not found["fits"]:
            (major, first), (_, end) = _pythons()
            raise RemoteError(
                f"{self._address} must have a Python from {major}.{first} to {major}.{end - 1}, found {found['python']} and none of these "
                "on its PATH; Raspberry Pi OS has one from Bookworm on"
            )
        source = Path(agent.__file__).read_bytes()
        self.write(f"{len(source)}\n".encode() + source)

    def read(self, key: str) -> Any:  # whatever JSON holds
        """The value of the next line, which has that key."""
        return self._read()[key]

    def _read(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not values:  # a sign of life
            try:
                line = self._lines.get(timeout=_SILENCE_SECONDS)
            except queue.Empty:
                raise RemoteError(
                    f"{self._address} must give signs of life, found none in {_SILENCE_SECONDS} s; what ran there ends"
                ) from None
            if not line.endswith(b"\n"):
                raise RemoteError(f"the connection to {self._address} must last, it was lost: {self._reason()}; what ran there is ended")
            values = json.loads(line)
        if "refused" in values:
            raise RemoteError(f"{self._address}: {values['refused']}")
        return values

    def keep_alive(self) -> None:
        """Give a sign of life now and then, from now on."""

        def beat() -> None:
            while not self._closed.wait(_SILENCE_SECONDS / 3):
                self.send({})

        threading.Thread(target=beat, daemon=True).start()

    def follow(self, on_state: Callable[[str], None], on_output: Callable[[str, str], None]) -> Outcome:
        """Pass on what is said until the command has ended."""
        is_interrupted = False
        while True:
            try:
                values = self._read()
                if "state" in values:
                    on_state(values["state"])
                elif "exit" in values:
                    if values["exit"] < 0 and not is_interrupted:
                        raise RemoteError(f"{self._address}: the command must run to its end, signal {-values['exit']} ended it")
                    return Outcome(values["exit"], json.loads(values["result"] or "null"))
                else:
                    for name, text in values.items():
                        on_output(name, text)
            except KeyboardInterrupt:
                if is_interrupted:  # the second one does not wait for what was measured
                    raise
                is_interrupted = True
                self.send({"stop": True})
            except RemoteError:
                if is_interrupted:
                    raise KeyboardInterrupt from None
                raise

    def _reason(self) -> str:
        """The last line that SSH said; what came before it is passed on."""
        code = self._process.wait()
        self._readers[1].join()
        lines = [line for line in (data.decode(errors="replace").strip() for data in self._said) if line] or [f"ssh ended with {code}"]
        self._said.clear()
        for line in lines[:-1]:
            sys.stderr.write(f"{line}\n")
        return lines[-1]

    def _fail_to_connect(self) -> None:
        reason = self._reason()
        if self._process.returncode == 255:  # ssh's own
            raise RemoteError(f"{self._address} must be one that ssh can log in to, it cannot: {reason}; try: ssh {self._address} true")
        raise RemoteError(f"{self._address} must run python3, it does not: {reason}; on Debian: sudo apt install python3 python3-venv")

    def close(self) -> None:
        """End the agent, and what it runs, by leaving it alone."""
        self._closed.set()
        assert self._process.stdin is not None
        previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            try:
                self._process.wait(_CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        for reader, stream in zip(self._readers, (self._process.stdout, self._process.stderr), strict=True):
            assert stream is not None
            reader.join()
            stream.close()
