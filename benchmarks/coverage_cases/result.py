"""What the sweep found out about one cell of the table, and the file that keeps it."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Target = tuple[str, str]
FORMATS = ("onnx", "tflite")
PRECISIONS = ("fp32", "fp16", "dynamic-int8", "static-int8")
TARGETS: tuple[Target, ...] = tuple((format_, precision) for format_ in FORMATS for precision in PRECISIONS)
Outcome = Literal["verified", "barred", "DEFECT"]


@dataclass(frozen=True)
class Result:
    """One cell of the table.

    Attributes:
        case: The name of the case.
        format: The file format.
        precision: The numeric precision.
        outcome: ``verified`` against Keras, ``barred`` by the check with a reason and a fix, or else a ``DEFECT``.
        reason: Why it is not verified.
        fix: What a user can do about it.
        relative: The largest difference from Keras as a share of the output's largest value.
        cosine: How alike the outputs are, 0 to 1.
        seconds: How long it took: its share of the run that made it.
        date: When, as ``YYYY-MM-DD``.
        machine: Where, in words.
        versions: Of the packages at work.
    """

    case: str
    format: str
    precision: str
    outcome: Outcome
    reason: str = ""
    fix: str = ""
    relative: float | None = None
    cosine: float | None = None
    seconds: float = 0.0
    date: str = ""
    machine: str = ""
    versions: dict[str, str] | None = None

    @property
    def target(self) -> Target:
        """Format and precision."""
        return self.format, self.precision


Results = dict[str, dict[Target, Result]]


def read_results(path: Path) -> Results:
    """What an earlier sweep found; of two results of a cell the later one, and a last line that was cut off not at all."""
    found: Results = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines):
        try:
            result = Result(**json.loads(line))
        except ValueError:
            if number + 1 < len(lines):
                raise
            break
        found.setdefault(result.case, {})[result.target] = result
    return found


def append_results(path: Path, results: Iterable[Result]) -> None:
    """Add lines to the file, whole ones; a last line that was cut off is ended first."""
    text = "".join(f"{json.dumps(asdict(result))}\n" for result in results)
    with path.open("a+b") as stream:
        if stream.tell():
            stream.seek(-1, 2)
            if stream.read(1) != b"\n":
                stream.truncate(path.read_bytes().rfind(b"\n") + 1)
        stream.write(text.encode())
