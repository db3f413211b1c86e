"""The device's side of a run over SSH: sent there as text, it uses nothing but Python itself.

It gets the files that it lacks, makes a virtual environment or keeps the one that is there, runs one command of lepton-edge in it
and passes on what that prints. Whoever asked for it must stay: once stdin ends, or is silent for too long, the command is ended, too.

Both sides write JSON objects, one a line; behind a ``files`` answer follow the bytes of the files that were named, in their order.
"""

import codecs
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

_KEPT_DAYS = 30  # files that no run has used for so long are deleted
_ENVIRONMENT_BYTES = 700 * 2**20  # with what pip unpacks on its way
_SPARE_BYTES = 20 * 2**20
_CHUNK_BYTES = 2**16
_END_SECONDS = 10.0  # a command that was told to end is killed after that
_TAIL = 2000
_ENDINGS = (signal.SIGALRM, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)  # the last is the user's Ctrl-C
_writing = threading.Lock()
MARK = "lepton-edge.json"
"""In the environment, once it is whole: what was installed."""


class _GoneError(BaseException):
    """Nobody waits for the answer any more."""


class _RefusedError(Exception):
    """Why this device cannot do it, in words."""


def say(**values: Any) -> None:
    """Write one line to whoever asked."""
    data = memoryview(json.dumps(values).encode() + b"\n")
    with _writing:
        while data:
            data = data[os.write(1, data) :]


class Commands:
    """Runs one command after another, and ends the one that runs when nobody waits for it any more."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        self._may_finish = self._is_starting = self._is_pending = False
        for number in _ENDINGS[:-1]:
            signal.signal(number, self._go)
        signal.signal(signal.SIGUSR1, self._stop)

    def _go(self, number: int, frame: object) -> None:
        if not self._is_starting:
            raise _GoneError
        self._is_pending = True  # or a process would be there that nobody knows of

    def _stop(self, number: int, frame: object) -> None:
        """The user's Ctrl-C: a measurement then tells what it has, or has told it; everything else ends."""
        if self._is_starting or not self._may_finish:
            self._go(number, frame)
        elif self._running is not None:
            self._running.terminate()

    def run(
        self, command: list[str], *, shown: bool, cwd: Path | None = None, environment: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Run it to its end: its exit code, and the end of what it said.

        Args:
            command: What to run.
            shown: Whether to pass on what it prints, and to let it finish what it has when the user interrupts.
            cwd: Where.
            environment: In addition to this process's own.
        """
        self._may_finish, self._is_starting = shown, True
        self._running = process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        tails = {"out": "", "err": ""}
        readers = [threading.Thread(target=_pass_on, args=(process.stdout, "out", tails, shown), daemon=True)]
        readers.append(threading.Thread(target=_pass_on, args=(process.stderr, "err", tails, shown), daemon=True))
        try:
            self._is_starting = False
            if self._is_pending:
                raise _GoneError
            for reader in readers:
                reader.start()
            code = process.wait()
            for reader in readers:
                reader.join()
        except BaseException:
            _end(process)
            raise
        finally:
            self._running = None
        return code, tails["err"] or tails["out"]


def _ignore_endings() -> None:
    """It ends already: another signal changes nothing, and would leave behind what runs or lies here."""
    for number in _ENDINGS:
        signal.signal(number, signal.SIG_IGN)


def _end(process: "subprocess.Popen[bytes]") -> None:
    _ignore_endings()
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what is left of its group
    process.wait()


def _pass_on(stream: BinaryIO, name: str, tails: dict[str, str], shown: bool) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := os.read(stream.fileno(), _CHUNK_BYTES):
        text = decoder.decode(data)
        tails[name] = (tails[name] + text)[-_TAIL:]
        if shown:
            say(**{name: text})


def _listen(requests: Any, silence_seconds: int) -> None:
    """Each line is a sign of life; the end is the end."""
    main = threading.main_thread().ident
    assert main is not None
    for line in requests:
        signal.alarm(silence_seconds)
        if json.loads(line).get("stop"):
            signal.pthread_kill(main, signal.SIGUSR1)
    signal.pthread_kill(main, signal.SIGHUP)


def _beat(seconds: float) -> None:
    """Give a sign of life now and then."""
    with suppress(OSError):
        while True:
            say()
            time.sleep(seconds)


def _receive(requests: Any, files: list[dict[str, Any]], blobs: Path, silence_seconds: int) -> None:
    """Ask for the files that are not here, and keep them by their digests."""
    missing = {entry["sha256"]: entry for entry in files if not _is_kept(blobs / entry["sha256"])}
    wanted = sum(entry["size"] for entry in missing.values())
    _need_space(blobs, wanted)
    say(need=list(missing))
    for sha256, entry in missing.items():
        digest, left = hashlib.sha256(), entry["size"]
        with tempfile.NamedTemporaryFile(dir=blobs, prefix=".part-") as part:
            while left:
                data = requests.read1(min(left, _CHUNK_BYTES))
                if not data:
                    raise _GoneError
                signal.alarm(silence_seconds)
                digest.update(data)
                part.write(data)
                left -= len(data)
            signal.alarm(0)  # a card may take minutes, and nobody listens here meanwhile
            part.flush()
            os.fsync(part.fileno())
            signal.alarm(silence_seconds)
            if digest.hexdigest() != sha256:
                raise _RefusedError(f"{entry['path']} must arrive as it was sent, it did not; try again")
            whole = Path(f"{part.name}-whole")
            os.link(part.name, whole)
            whole.replace(blobs / sha256)  # another run may be writing or reading it


def _is_kept(path: Path) -> bool:
    """Whether a file is here and whole; it is then as good as new."""
    try:
        os.utime(path)
        return hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    except FileNotFoundError:
        return False


def _need_space(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted + _SPARE_BYTES:
        raise _RefusedError(
            f"{str(folder)!r} must have {(wanted + _SPARE_BYTES) / 1e6:.0f} MB of free space, found {free / 1e6:.0f} MB; "
            "delete what is not needed there"
        )


@contextmanager
def _environment(commands: Commands, cache: Path, wheel: Path, extras: str, wheel_sha256: str) -> Iterator[Path]:
    """A Python with this wheel installed, which nobody changes meanwhile."""
    folder = cache / "venv"
    mark, python, wanted = folder / MARK, folder / "bin/python", [sys.version, wheel_sha256, *extras.split(",")]
    with open(cache / "lock", "w") as lock:
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            found = _marked(mark)
            if found[:2] == wanted[:2] and set(wanted) <= set(found):
                break
            say(state="waiting for other runs there to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _marked(mark) != found:  # another run has made it meanwhile
                continue
            mark.unlink(missing_ok=True)
            if found[:1] != wanted[:1]:
                found = []
                shutil.rmtree(folder, ignore_errors=True)
                _need_space(cache, _ENVIRONMENT_BYTES)
                say(state="making a virtual environment")
                code, said = commands.run([sys.executable, "-m", "venv", str(folder)], shown=False)
                if code:
                    raise _RefusedError(_venv_fault(said))
            say(state="installing lepton-edge and what it needs")
            together = sorted({*wanted[2:], *found[2:]})
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            for arguments in ([f"{wheel}[{','.join(together)}]"], ["--no-deps", "--force-reinstall", str(wheel)]):
                code, said = commands.run([*pip, *arguments], shown=False)
                if code:
                    errors = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines() or ["no message"]
                    raise _RefusedError(f"pip must install lepton-edge there, it ended with {code}: {errors[0].removeprefix('ERROR: ')}")
            mark.write_text(json.dumps([*wanted[:2], *together]))
        yield python


def _marked(mark: Path) -> list[str]:
    """What is installed: the version of Python, the wheel's digest, the extras."""
    try:
        found: list[str] = json.loads(mark.read_text())
    except (FileNotFoundError, ValueError):
        return []
    return found


def _venv_fault(said: str) -> str:
    if "ensurepip" in said:
        return "Python must be able to make virtual environments there, it is not; run there: sudo apt install python3-venv"
    return f"Python must make a virtual environment there, it did not: {(said.strip().splitlines() or ['no message'])[-1]}"


def _forget(cache: Path) -> None:
    """Delete files that no run has used for a long time, and what a run left that was killed."""
    oldest = time.time() - _KEPT_DAYS * 86400
    for path in [*(cache / "blobs").iterdir(), *(cache / "runs").iterdir()]:
        with suppress(FileNotFoundError):  # another run does the same
            if path.lstat().st_mtime < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def serve(commands: Commands, request: dict[str, Any], requests: Any) -> None:
    """Do what was asked for, in a folder of its own that is deleted afterwards."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lepton-edge/remote"
    blobs, runs, silence_seconds = cache / "blobs", cache / "runs", request["silence_seconds"]
    for folder in (blobs, runs):
        folder.mkdir(parents=True, exist_ok=True)
    threading.Thread(target=_beat, args=(silence_seconds / 3,), daemon=True).start()
    _receive(requests, request["files"], blobs, silence_seconds)
    threading.Thread(target=_listen, args=(requests, silence_seconds), daemon=True).start()
    run = Path(tempfile.mkdtemp(dir=runs))
    try:
        for entry in request["files"]:
            place = run / entry["path"]
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(blobs / entry["sha256"], place)
        wheel = request["files"][0]
        with _environment(commands, cache, run / wheel["path"], request["extras"], wheel["sha256"]) as python:
            command = [str(python), "-P", "-m", "lepton_edge", *request["command"]]
            say(state="")
            code, _ = commands.run(command, shown=True, cwd=run, environment=request["environment"])
        result = run / request["result"]
        say(exit=code, result=result.read_text(encoding="utf-8") if request["result"] and result.exists() else None)
        _forget(cache)
    finally:
        _ignore_endings()
        shutil.rmtree(run)


def main() -> NoReturn:
    """Serve whoever is at the other end of stdin and stdout, once."""
    requests, commands, code = sys.stdin.buffer, Commands(), 1
    try:
        request = json.loads(requests.readline())
        signal.alarm(request["silence_seconds"])
        serve(commands, request, requests)
        code = 0
    except (_GoneError, BrokenPipeError):
        pass
    except _RefusedError as error:
        say(refused=str(error))
    except OSError as error:
        what = f"{str(error.filename)!r}" if error.filename else "a file"
        say(refused=f"{what} must be one that can be written, it is not: {error.strerror}; check the disk's free space and its permissions")
    os._exit(code)  # a thread may still be waiting for a line


if __name__ == "__main__":
    main()
