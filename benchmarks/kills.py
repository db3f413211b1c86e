"""Whether a command that is killed leaves what was there, or what it was to make, and nothing beside it.

``python benchmarks/kills.py [KILLS] MODEL.keras``: ``export``, ``install`` and ``benchmark --json`` are ended by turns with SIGTERM and
SIGKILL, at random moments of the time that they take; half of the times something is there already. Then what is there must be what was
there before, to the byte, or whole and new; after SIGTERM nothing may lie beside it, and after SIGKILL nothing once the command was
given again. At last each writes to a disk of 2 MB, if this user may mount one. Faults end it with 1.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lepton_edge.digits import shipped_bundle
from lepton_edge.report.document import load_report
from lepton_runtime import Bundle, LeptonError

_COMMAND = [sys.executable, "-m", "lepton_edge"]
_BUNDLE = shipped_bundle()


@dataclass(frozen=True)
class Killed:
    """A command, its output, and how that is looked at."""

    name: str
    arguments: list[str]
    output: str
    check: Callable[[Path], object]


def content(path: Path) -> dict[str, bytes]:
    """All files under a path, links by where they lead."""
    if path.is_file():
        return {"": path.read_bytes()}
    found = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_symlink() or file.is_file()}
    return {name: os.readlink(file).encode() if file.is_symlink() else file.read_bytes() for name, file in found.items()}


def check_slot(path: Path) -> None:
    """The slot in use is whole; before the first install there may be none."""
    if os.path.lexists(path / "current"):
        Bundle.open(path / "current").check()


def left_behind(work: Path, temporary: Path) -> list[str]:
    """What is there besides outputs."""
    beside = [path for path in (*work.glob(".*"), *work.glob("slot/slots/.*"), *work.glob("slot/.*")) if path.name != ".keep"]
    return sorted(str(path) for path in (*beside, *temporary.iterdir()))


def run(arguments: list[str], work: Path, temporary: Path, after: float | None = None, number: int = 0) -> int:
    """The exit code of a command, in ``work``, killed after some seconds or not."""
    environment = {**os.environ, "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(work.parent / "cache")}
    with subprocess.Popen(
        [*_COMMAND, *arguments], cwd=work, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        if after is not None:
            try:
                process.wait(after)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
        return process.wait(300)


def judge(command: Killed, folder: Path, kills: int) -> Counter[str]:
    """What kills at random moments come to."""
    chance, found = random.Random(7), Counter[str]()
    work, temporary = folder / "work", folder / "temporary"
    durations = {}
    for has_old in (False, True):
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)
        work.mkdir()
        temporary.mkdir()
        if has_old:
            assert run(command.arguments, work, temporary) == 0
        begun = time.monotonic()
        assert run(command.arguments, work, temporary) == 0, command.name
        durations[has_old] = time.monotonic() - begun
    for count in range(kills):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        has_old, number = bool(count // 2 % 2), (signal.SIGTERM, signal.SIGKILL)[count % 2]
        if has_old:
            assert run(command.arguments, work, temporary) == 0
        found.update(_kill(command, work, temporary, chance.uniform(0, 1.1 * durations[has_old]), number))
    return found


def _kill(command: Killed, work: Path, temporary: Path, after: float, number: int) -> list[str]:
    """What one kill comes to, in words."""
    output = work / command.output
    before = content(output) if output.exists() else None
    code = run(command.arguments, work, temporary, after, number)
    now = content(output) if output.exists() else None
    words = ["done before" if code >= 0 and code != 130 else "ended by itself" if code == 130 else "killed"]
    try:
        if now is not None and now != before:
            command.check(output)
            words.append("new")
        else:
            words.append("FAULT: lost" if now is None and before is not None else "as before")
    except LeptonError as error:
        words.append(f"FAULT: half, {error}")
    if number == signal.SIGKILL and run(command.arguments, work, temporary) != 0:
        words.append("FAULT: not repeatable")
    if left := left_behind(work, temporary):
        words.append(f"FAULT: left after {signal.Signals(number).name}: {', '.join(left)}")
        shutil.rmtree(temporary)
        temporary.mkdir()
    return words


def full_disk(command: Killed, folder: Path) -> str:
    """What a disk of 2 MB comes to."""
    disk, temporary = folder / "disk", folder / "temporary"
    disk.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False).returncode:
        return "not tried: this user may not mount a disk"
    try:
        (disk / "work").mkdir()
        with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while shutil.disk_usage(disk).free > 8192:
                filler.write(bytes(4096))
        code = run(command.arguments, disk / "work", temporary)
        left = [name for name in left_behind(disk / "work", temporary) if not name.endswith("slot/slots")]
        output = disk / "work" / command.output
        files = [path for path in output.rglob("*") if path.is_file() and path.name != "lock"] if output.is_dir() else [output]
        there = "FAULT: something" if any(path.exists() for path in files) else "nothing"
        return f"exit {code}, {there} is there, {'FAULT: ' + ', '.join(left) if left else 'nothing'} beside it"
    finally:
        subprocess.run(["umount", disk], check=False)


def main() -> None:
    """Print what each command came to."""
    kills, model = (int(sys.argv[1]), sys.argv[2]) if len(sys.argv) > 2 else (200, sys.argv[1])
    model = str(Path(model).absolute())
    commands = [
        Killed(
            "export",
            ["export", model, "-o", "b.bundle", "--precision", "fp32", "--force"],
            "b.bundle",
            lambda path: Bundle.open(path).check(),
        ),
        Killed("install", ["install", str(_BUNDLE), "--slot", "slot"], "slot", check_slot),
        Killed(
            "benchmark",
            ["benchmark", str(_BUNDLE), "--runs", "20", "--seconds", "0", "--processes", "1", "--json", "r.json", "--force"],
            "r.json",
            load_report,
        ),
    ]
    is_wrong = False
    with tempfile.TemporaryDirectory() as place:
        for command in commands:
            found = judge(command, Path(place), kills // len(commands))
            small = full_disk(command, Path(place))
            print(
                f"{command.name:<10} {', '.join(f'{what} {count}' for what, count in sorted(found.items()))}; full disk: {small}",
                flush=True,
            )
            is_wrong |= any(what.startswith("FAULT") for what in found) or "FAULT" in small
    sys.exit(is_wrong)


if __name__ == "__main__":
    main()
