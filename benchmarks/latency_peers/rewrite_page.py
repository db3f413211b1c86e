"""docs/performance.md, from the results of ``benchmarks/rewrites.py``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from latency_peers.kept import days
from lepton_converters.onnx_optimize import EIGHT_BIT_REWRITES, FLOAT_REWRITES, REWRITES, WIDE_REWRITES

_HEAD = """\
# What makes the ONNX files fast

tf2onnx gives a graph that is right; engines run another one of the same meaning faster. `lepton_converters/onnx_optimize.py` holds the
rewrites, each by its name, each with a test of its numbers in `tests/converters/test_onnx_*.py`, of `reversal` in `test_recurrent.py`.
They make one portable file of standard operators: nothing in it belongs to one engine. A rewrite that takes the CPUs of a `--target` more
work than it saves is left out for that target; [arm-work.md](arm-work.md) has what they spare on ARM, in networks that they change.

| rewrite | what it does | of | left out for |
|---|---|---|---|
"""
_GAINS = """
## What each is worth

Made by `python benchmarks/rewrites.py WORK` on {date}, {device}, for `--target x86-vnni`.
{versions}.
onnxruntime, batch 1, one thread, the files in turns (A B B A) in one process; medians of {blocks} blocks. **Alone** is the time with
only this rewrite over the time with none, **in the whole** the time with all over the time with all but this one; below 1 is faster.
Within 2 % is noise. **Difference** is the largest of the answers with and without it, over the largest answer: 0 is to the bit.
Networks that a rewrite does not change are left out of its rows. Their weights are random, so that a range measured anew, or rounding
at another place, changes their 8-bit answers much.

| rewrite | network | precision | alone | in the whole | difference |
|---|---|---|---:|---:|---:|
"""


def write_rewrites(results: dict[str, Any], path: Path) -> None:
    """Write the page."""
    groups = (
        ("every file", (*REWRITES, *WIDE_REWRITES)),
        ("float files", FLOAT_REWRITES),
        ("8-bit files", EIGHT_BIT_REWRITES),
    )
    rewrites = {rewrite.name: rewrite for _, group in groups for rewrite in group}
    lines = []
    for name, rewrite in rewrites.items():
        text = (inspect.getdoc(rewrite.apply) or "").splitlines()[0]
        of = " and ".join(title for title, group in groups if rewrite in group)
        lines.append(f"| `{name}` | {text} | {of} | {', '.join(f'`{target}`' for target in rewrite.spares) or '–'} |")
    gains = []
    for name in rewrites:
        for network, entries in results["networks"].items():
            for entry in entries:
                if entry["rewrite"] == name:
                    difference = entry["difference"] / (entry["largest"] or 1)
                    cells = [f"`{name}`", network, entry["precision"], f"{entry['alone']:.2f}", f"{entry['whole']:.2f}"]
                    gains.append(f"| {' | '.join(cells)} | {f'{difference:.0e}' if difference else '0'} |")
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    found = {"date": days([*results["dates"].values()]), "device": results["device"], "blocks": results["blocks"]}
    gains_head = _GAINS.format(**found, versions=versions)
    path.write_text(_HEAD + "\n".join(lines) + "\n" + gains_head + "\n".join(gains) + "\n", encoding="utf-8")
