"""Which Keras networks and layers convert, and how exactly: the sweep behind docs/coverage.md.

python benchmarks/coverage.py WORK [--only networks|layers] [--filter TEXT] [--redo NAME …] [--jobs N]

Results are kept in ``WORK/results.jsonl``, one cell a line: a sweep that was stopped goes on where it was. The page has
the cases that have an outcome in every cell, and names the others.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from coverage_cases.case import Case
from coverage_cases.page import write_page
from coverage_cases.pool import Job, run
from coverage_cases.result import FORMATS, PRECISIONS, TARGETS, Result, Results, Target, append_results, read_results
from coverage_cases.table import all_cases, group_of
from coverage_cases.worker import SMALLEST_COSINE, dated

_LIMIT_SECONDS = {"layers": 180.0, "networks": 5400.0}


def parse_arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="the folder for results and for the files in hand")
    parser.add_argument("--only", choices=["networks", "layers"], help="one of the two tables")
    parser.add_argument("--filter", default="", help="cases whose name holds this text")
    parser.add_argument("--format", choices=FORMATS, action="append", help="only these formats")
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="only these precisions")
    parser.add_argument("--redo", nargs="+", default=[], metavar="NAME", help="cases to convert again; DEFECT names all that have one")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes work at a time (default 1)")
    parser.add_argument("--memory", type=float, metavar="GIB", help="what one process may take (default 3/4 of this machine's, shared)")
    parser.add_argument("--page", type=Path, default=Path(__file__).parents[1] / "docs" / "coverage.md", help="where the page is written")
    return parser.parse_args()


def plan(cases: Sequence[Case], targets: Sequence[Target], results: Results, redo: Sequence[str], work: Path) -> deque[Job]:
    """One job a case (of networks, a format: they need the memory), with the cells that have no outcome yet or are to be done again."""
    jobs: deque[Job] = deque()
    for case in cases:
        known = results.get(case.name, {})
        is_redone = case.name in redo or ("DEFECT" in redo and any(result.outcome == "DEFECT" for result in known.values()))
        wanted = tuple(target for target in targets if is_redone or target not in known)
        group, folder = group_of(case.name), work / "files" / re.sub(r"\W+", "-", case.name)
        for part in _by_format(wanted) if group == "networks" else [wanted]:
            if part:
                jobs.append(Job(case.name, part, folder, _LIMIT_SECONDS[group]))
    return jobs


def _by_format(targets: Sequence[Target]) -> list[tuple[Target, ...]]:
    formats = dict.fromkeys(format_ for format_, _ in targets)
    return [tuple(target for target in targets if target[0] == each) for each in formats]


def settle(job: Job, answer: list[Result] | str, jobs: deque[Job], results: Results) -> list[Result]:
    """The results that are final; what is to be done before others are is put in front of the other jobs."""
    if isinstance(answer, str) and len(job.targets) > 1:
        parts = _by_format(job.targets)
        if len(parts) == 1:
            parts = [(target,) for target in job.targets]
        print(f"{job.case} is tried in {len(parts)} parts: {answer}", file=sys.stderr)
        jobs.extendleft(replace(job, targets=part) for part in reversed(parts))
        return []
    if job.is_doubted:  # it is barred: that it fails without the check as well is as it should be
        if isinstance(answer, str) or answer[0].outcome != "verified":
            return []
        reason = f"the check bars what converts: {results[job.case][job.targets[0]].reason}"
        return [replace(answer[0], outcome="DEFECT", reason=reason)]
    if isinstance(answer, str):
        return [dated(Result(job.case, *job.targets[0], "DEFECT", answer))]
    barred = [result for result in answer if result.outcome == "barred"]
    jobs.extendleft(replace(job, targets=(result.target,), is_doubted=True) for result in barred)
    return answer


def main(arguments: argparse.Namespace) -> None:
    """Convert what has no outcome yet, and write the page."""
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    cases = all_cases()
    chosen = [case for case in cases.values() if arguments.filter in case.name and arguments.only in (None, group_of(case.name))]
    targets = [
        target for target in TARGETS if target[0] in (arguments.format or FORMATS) and target[1] in (arguments.precision or PRECISIONS)
    ]
    results = read_results(work / "results.jsonl")
    jobs = plan(chosen, targets, results, arguments.redo, work)
    total, start = sum(len(job.targets) for job in jobs), time.monotonic()
    print(f"{len(jobs)} cases, {total} cells to convert, {sum(map(len, results.values()))} known", file=sys.stderr)
    done = 0
    memory_bytes = int(2**30 * arguments.memory) if arguments.memory else _memory_bytes() * 3 // 4 // arguments.jobs
    under_way = Counter(job.case for job in jobs)
    for job, answer in run(jobs, count=arguments.jobs, log=work / "workers.log", memory_bytes=memory_bytes):
        before = len(jobs)
        found = settle(job, answer, jobs, results)
        under_way[job.case] += len(jobs) - before - 1
        append_results(work / "results.jsonl", found)
        for result in found:
            results.setdefault(result.case, {})[result.target] = result
        if not under_way[job.case]:
            shutil.rmtree(job.folder, ignore_errors=True)
        if found and not job.is_doubted:
            done += len(found)
            left = (time.monotonic() - start) / done * (total - done) / 60
            counts = ", ".join(f"{count} {outcome}" for outcome, count in Counter(result.outcome for result in found).items())
            print(f"[{done}/{total}, {left:.0f} min left] {job.case}: {counts}", file=sys.stderr, flush=True)
    missing = [case for case in cases.values() if set(TARGETS) - set(results.get(case.name, {}))]
    whole = [case for case in cases.values() if case not in missing]
    if not whole:
        print("the page is not written: no case has an outcome in every cell", file=sys.stderr)
        return
    arguments.page.write_text(write_page(whole, results, missing=missing, smallest_cosine=SMALLEST_COSINE))
    print(arguments.page)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and end the workers on the way out
    main(parse_arguments())
