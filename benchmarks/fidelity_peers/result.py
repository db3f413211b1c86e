"""What is known of each cell, and the files that keep it: one cell a line."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

Key = tuple[str, str]


@dataclass(frozen=True)
class Result:
    """What one method made of one network.

    Attributes:
        network: The network.
        method: The method.
        source: The first digits of the SHA-256 of what it rests on: the network, the samples, and the code of ours. If one of them
            changes, it is measured anew.
        failure: Why there is no file or no answer, in words.
        accuracy: On all images to test on, 0 to 1.
        drop: What float Keras has more, and the ends of its 95 % interval.
        drop_low: See ``drop``.
        drop_high: See ``drop``.
        expected_drop: The drop that float Keras' own probabilities tell, once the labels have calibrated them.
        agreement: Share of samples on which the answer is Keras', 0 to 1.
        seconds: From the ``.keras`` file to the finished one, imports not counted.
        peak_bytes: The largest resident memory of the process that did it.
        import_bytes: What of it the imports alone had taken.
        size_bytes: Of the finished file.
        note: What the method chose, in words.
        versions: Of the packages that made it, and of the engine's.
        date: When, as ``YYYY-MM-DD``.
        machine: Where, in words.
    """

    network: str
    method: str
    source: str
    failure: str = ""
    accuracy: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    expected_drop: float | None = None
    agreement: float | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    import_bytes: int | None = None
    size_bytes: int | None = None
    note: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    date: str = ""
    machine: str = ""

    @property
    def key(self) -> Key:
        """Network and method."""
        return self.network, self.method


@dataclass(frozen=True)
class Latency:
    """How long a call takes against float32 on the same engine, measured in turns.

    Attributes:
        network: The network.
        method: The method.
        source: The first digits of the SHA-256 of both files; those that were made anew have no latencies.
        failure: Why there is no figure, in words.
        base_ms: Medians of float32, one a process.
        new_ms: Medians of the method's file, in the same processes.
        date: When, as ``YYYY-MM-DD``.
        machine: Where, in words.
    """

    network: str
    method: str
    source: str
    failure: str = ""
    base_ms: list[float] = field(default_factory=list)
    new_ms: list[float] = field(default_factory=list)
    date: str = ""
    machine: str = ""

    @property
    def key(self) -> Key:
        """Network and method."""
        return self.network, self.method


Record = TypeVar("Record", Result, Latency)


def read_records(path: Path, kind: type[Record]) -> dict[Key, Record]:
    """What is known; of two records of a cell the later one, and a last line that was cut off not at all."""
    found: dict[Key, Record] = {}
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if line.endswith("\n"):
            record = kind(**json.loads(line))
            found[record.key] = record
    return found


def append_record(path: Path, record: Result | Latency) -> None:
    """Add a line; one that was cut off makes place for it."""
    known = path.read_bytes() if path.exists() else b""
    with path.open("ab") as stream:
        stream.truncate(known.rfind(b"\n") + 1)
        stream.write(f"{json.dumps(asdict(record))}\n".encode())
