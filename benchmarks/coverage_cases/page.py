"""The coverage table in words: docs/coverage.md."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from coverage_cases.case import Case
from coverage_cases.result import FORMATS, PRECISIONS, TARGETS, Result, Results
from coverage_cases.table import EXCUSED, GROUPS, group_of

_NAMES = {"onnx": "ONNX", "tflite": "TFLite"}
_INTRODUCTION = """\
# What converts, and how exactly

Made by `python benchmarks/coverage.py WORK`. Every network of `keras.applications` and every layer class of `keras.layers`
that can stand in an inference graph by itself, in its usual variants, and the operations of `keras.ops` that functional models
use, as tiny models with seeded weights whose outputs depend on their inputs. Each was saved as a `.keras` file, looked at by
`lepton-edge check`, exported at batch 1 and verified on samples that it was not calibrated on.

- **A figure** is the largest difference from Keras as a share of the output's largest value: the cell is *verified*. At fp32
  it must be under 1e-4, at fp16 under 2e-2. 8-bit artifacts are measured; a layer's outputs must point where Keras' do (cosine
  similarity of at least {layers}). In a network the rounding of some hundred layers adds up, whose weights nobody trained: there the
  figures are for reading, and only what `export` itself refuses (a cosine below {networks}) is a defect.
- **[n]** is a refusal: `check` says so, with the reason and the fix below, before TensorFlow starts. Each refused cell was
  converted all the same with the check switched off, to see that it is refused rightly.
- **DEFECT** is anything else. There should be none.

{facts}
"""


def write_page(cases: Sequence[Case], results: Results, *, missing: Sequence[Case], smallest_cosine: Mapping[str, float]) -> str:
    """The page's text.

    Args:
        cases: The rows.
        results: A result for every cell of theirs.
        missing: Cases that have not been measured, which the page names.
        smallest_cosine: What 8-bit artifacts of a layer and of a network were held to.
    """
    rows = {group: [case for case in cases if group_of(case.name) == group] for group in GROUPS}
    found = [results[case.name][target] for case in cases for target in TARGETS]
    refusals = {reason: number for number, reason in enumerate(dict.fromkeys(_words(result) for result in found if _is_barred(result)), 1)}
    parts = [_INTRODUCTION.format(**smallest_cosine, facts=_facts(found)), "## In short\n", *_summary(rows, results)]
    if missing:
        parts += ["\n**Not measured yet**: " + ", ".join(case.name for case in missing) + "."]
    parts += ["\n## Networks\n", *_table("network", rows["networks"], results, refusals, has_seconds=True)]
    parts += ["\n## Layers and operations\n", *_table("layer: variant", rows["layers"], results, refusals)]
    parts += ["\n## Refusals\n", *_refusals(found, refusals)]
    defects = [
        f"- {result.case}, {_NAMES[result.format]} {result.precision}: {result.reason}" for result in found if result.outcome == "DEFECT"
    ]
    if defects:
        parts += ["\n## Defects\n", *defects]
    parts += ["\n## Classes without a row\n", *(f"- `{name}`: {reason}" for name, reason in EXCUSED.items())]
    return "\n".join(parts) + "\n"


def _facts(found: Sequence[Result]) -> str:
    """When, with what and on which machine."""
    dates = sorted({result.date for result in found})
    versions: dict[str, set[str]] = {}
    for result in found:
        for name, version in (result.versions or {}).items():
            versions.setdefault(name, set()).add(version)
    named = ", ".join(f"{name} {' and '.join(sorted(values))}" for name, values in versions.items())
    machines = "; ".join(sorted({result.machine for result in found} - {""}))
    return f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))} · {named} · {machines}"


def _summary(rows: dict[str, list[Case]], results: Results) -> Iterable[str]:
    yield "| table | format | precision | cells | verified | refused | defects | share verified | lowest cosine |"
    yield "|---|---|---|--:|--:|--:|--:|--:|--:|"
    for group, cases in rows.items():
        for format_ in FORMATS:
            for precision in PRECISIONS:
                if not cases:
                    continue
                found = [results[case.name][format_, precision] for case in cases]
                counts = Counter(result.outcome for result in found)
                cosines = [result.cosine for result in found if result.outcome == "verified" and result.cosine is not None]
                lowest = f"{min(cosines):.4f}" if cosines else "–"
                share = f"{100 * counts['verified'] / len(cases):.1f} %"
                cells = f"{len(cases)} | {counts['verified']} | {counts['barred']} | {counts['DEFECT']} | {share} | {lowest}"
                yield f"| {group} | {_NAMES[format_]} | {precision} | {cells} |"


def _table(
    title: str, cases: Sequence[Case], results: Results, refusals: dict[tuple[str, str], int], *, has_seconds: bool = False
) -> Iterable[str]:
    heads = [f"{_NAMES[format_]} {precision}" for format_, precision in TARGETS] + ["seconds"] * has_seconds
    yield f"| {title} | {' | '.join(heads)} |"
    yield f"|---|{'--:|' * len(heads)}"
    for case in cases:
        cells = [_cell(results[case.name][target], refusals) for target in TARGETS]
        if has_seconds:
            cells.append(f"{sum(result.seconds for result in results[case.name].values()):,.0f}")
        yield f"| {case.name} | {' | '.join(cells)} |"


def _cell(result: Result, refusals: dict[tuple[str, str], int]) -> str:
    if result.outcome == "verified" and result.relative is not None:
        return f"{result.relative:.0e}" if result.relative else "0"
    return f"[{refusals[_words(result)]}]" if _is_barred(result) else "**DEFECT**"


def _refusals(found: Sequence[Result], refusals: dict[tuple[str, str], int]) -> Iterable[str]:
    yield "| | cells | reason | fix |"
    yield "|---|--:|---|---|"
    counts = Counter(_words(result) for result in found if _is_barred(result))
    for (reason, fix), number in refusals.items():
        yield f"| [{number}] | {counts[reason, fix]} | {_escaped(reason)} | {_escaped(fix)} |"


def _is_barred(result: Result) -> bool:
    return result.outcome == "barred"


def _words(result: Result) -> tuple[str, str]:
    return result.reason, result.fix


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
