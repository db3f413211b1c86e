"""What becomes of damaged bundles: thousands of variants of each file, in a folder and in a ``.zip``, opened, checked and run.

python benchmarks/damage.py BUNDLE OTHER_BUNDLE [VARIANTS]

Both are folders; files are swapped between them. Each variant is opened in a process that is watched: a ``BundleError`` is right, and so
are answers that are the golden ones to the bit from files that pass their checksums. Anything else is counted as a fault: another
exception, other answers, a crash, or nothing within 20 s. Faults end it with 1.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

from lepton_edge.device import read_device
from lepton_runtime import Bundle, BundleError, Session
from lepton_runtime.golden import Golden
from lepton_runtime.versions import installed_versions

SECONDS = 20


def judge(path: Path) -> str:
    """What opening, checking and running a bundle comes to."""
    try:
        bundle = Bundle.open(path)
        bundle.check()
        with Session(bundle, bundle.manifest.artifacts[0]) as session:
            return "harmless" if Golden.open(bundle).difference(session) == 0 else "FAULT: other answers"
    except BundleError as error:
        return "refused" if len(str(error)) > 20 else f"FAULT: no sentence, {error}"
    except Exception as error:  # noqa: BLE001  # what else there may be is what is looked for
        return f"FAULT: {type(error).__name__}: {error}"


def serve(connection: Connection) -> None:
    """Judge the bundles whose paths arrive."""
    while True:
        connection.send(judge(Path(connection.recv())))


class Watched:
    """A process that judges, begun anew when it dies or hangs."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._begin()

    def _begin(self) -> None:
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def judge(self, path: Path) -> str:
        """What a bundle comes to."""
        self._connection.send(str(path))
        try:
            if self._connection.poll(SECONDS):
                return str(self._connection.recv())
            verdict = "FAULT: it hangs"
        except EOFError:
            verdict = "FAULT: it crashes"
        self.end()
        self._begin()
        return verdict

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join()


def flip(data: bytes, generator: random.Random) -> bytes:
    """One bit is another one."""
    place = generator.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << generator.randrange(8))]) + data[place + 1 :]


def cut(data: bytes, generator: random.Random) -> bytes:
    """The end is missing."""
    return data[: generator.randrange(len(data))]


def zero(data: bytes, generator: random.Random) -> bytes:
    """A sector of 512 bytes is lost, at any place that is not zero already."""
    place = generator.randrange(max(1, len(data) - 511))
    lost = data[:place] + bytes(min(512, len(data) - place)) + data[place + 512 :]
    return lost if lost != data else flip(data, generator)


def grow(data: bytes, generator: random.Random) -> bytes:
    """Something stands behind the end."""
    return data + generator.randbytes(generator.randrange(1, 600))


def noise(data: bytes, generator: random.Random) -> bytes:
    """Another content of the same length."""
    return generator.randbytes(len(data))


CONTENTS: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, cut, zero, grow, noise)


def change_names(folder: Path, other: Path, file: str, kind: str) -> None:
    """Files that are there, missing, elsewhere or no files."""
    path = folder / file
    match kind:
        case "swapped":
            theirs = other / file
            shutil.copyfile(theirs if theirs.exists() else other / "manifest.json", path)
        case "extra":
            shutil.copyfile(path, folder / f"more-{file}")
        case "missing":
            path.unlink()
        case "renamed":
            path.rename(folder / f"{file}.old")
        case "linked":
            elsewhere = path.rename(folder.parent / "elsewhere")
            path.symlink_to(elsewhere)
        case "folder":
            path.unlink()
            path.mkdir()
        case "pipe":
            path.unlink()
            os.mkfifo(path)


NAMES = ("swapped", "extra", "missing", "renamed", "linked", "folder", "pipe")


def pack(folder: Path, archive: Path) -> None:
    """The folder's files as a ``.zip``; what is no file is left out."""
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                packed.write(path, path.name)


def variant(bundle: Path, other: Path, work: Path, generator: random.Random) -> tuple[str, Path]:
    """One damaged bundle, and what was done to it."""
    folder = work / "made.bundle"
    shutil.copytree(bundle, folder)
    file = generator.choice(sorted(path.name for path in bundle.iterdir()))
    is_zipped, damages_archive = generator.random() < 0.5, generator.random() < 0.5
    if is_zipped and damages_archive:
        change = generator.choice(CONTENTS)
        archive = work / "made.zip"
        pack(folder, archive)
        archive.write_bytes(change(archive.read_bytes(), generator))
        return f"archive, {change.__name__}", archive
    if generator.random() < 0.6:
        change = generator.choice(CONTENTS)
        (folder / file).write_bytes(change((folder / file).read_bytes(), generator))
        done = f"content, {change.__name__}"
    else:
        kind = generator.choice(NAMES)
        change_names(folder, other, file, kind)
        done = f"file, {kind}"
    if not is_zipped:
        return f"folder: {done}", folder
    pack(folder, work / "made.zip")
    return f"zip: {done}", work / "made.zip"


def main(bundle: Path, other: Path, count: int) -> int:
    """Print a table."""
    print(f"{datetime.now(UTC):%Y-%m-%d}  {read_device()}  {installed_versions(('lepton-edge', 'onnxruntime', 'numpy'))}")
    generator, watched = random.Random(0), Watched()
    found: dict[str, Counter[str]] = {}
    for number in range(count):
        with tempfile.TemporaryDirectory(prefix="lepton-edge-") as folder:
            what, path = variant(bundle, other, Path(folder), generator)
            verdict = watched.judge(path)
        found.setdefault(what, Counter())[verdict.partition(":")[0]] += 1
        if verdict.startswith("FAULT"):
            print(f"variant {number}, {what}: {verdict}", flush=True)
    watched.end()
    print("| what | variants | refused | harmless | faults |\n| --- | ---: | ---: | ---: | ---: |")
    for what, verdicts in sorted(found.items()):
        print(f"| {what} | {verdicts.total()} | {verdicts['refused']} | {verdicts['harmless']} | {verdicts['FAULT']} |")
    total = sum(found.values(), Counter())
    print(f"{count} variants: {total['refused']} refused, {total['harmless']} harmless, {total['FAULT']} faults")
    return int(total["FAULT"] > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 10_000))
