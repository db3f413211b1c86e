"""Look for bytes that our readers cannot bear, guided by what code they reach: ``python tests/fuzz/fuzz.py [SECONDS] [READER ...]``.

The seconds (120 by default) are divided among the readers of ``readers.py``, or those that are named. A fault ends it with
the bytes that lead to it, which belong into ``corpus/READER`` once it is mended: ``test_corpus.py`` reads all that is there.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
_LONGEST_BYTES = 100_000


def _fuzz(name: str, arguments: list[str]) -> None:
    """Let the fuzzer call one reader, in this process, which it ends."""
    import atheris

    with atheris.instrument_imports(include=["lepton_runtime", "lepton_edge.report"]):
        from readers import READERS  # beside this file
    atheris.Setup([sys.argv[0], *arguments], READERS[name])
    atheris.Fuzz()


def main() -> None:
    """Fuzz each reader in a process of its own."""
    if len(sys.argv) > 2 and sys.argv[1] == "--one":
        _fuzz(sys.argv[2], sys.argv[3:])
        return
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 120
    names = sys.argv[2:] or sorted(path.name for path in CORPUS.iterdir())
    for name in names:
        with tempfile.TemporaryDirectory() as found:
            options = [
                f"-max_total_time={max(1, seconds // len(names))}",
                f"-max_len={_LONGEST_BYTES}",
                "-timeout=10",
                "-rss_limit_mb=2048",
            ]
            command = [sys.executable, __file__, "--one", name, *options, f"-artifact_prefix={found}/", found, CORPUS / name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            runs = [line for line in done.stderr.splitlines() if line.startswith(("Done ", "#"))]
            sys.stdout.write(f"{name:<14} {runs[-1] if runs else 'no run'}\n")
            sys.stdout.flush()
            if done.returncode:
                faults = sorted(path for path in Path(found).iterdir() if path.name.startswith(("crash-", "timeout-", "oom-")))
                kept = [Path(path.name).absolute() for path in faults]
                for path, place in zip(faults, kept, strict=True):
                    place.write_bytes(path.read_bytes())
                sys.exit(f"{done.stderr[-4000:]}\n{name} failed; the bytes are in {', '.join(map(str, kept)) or 'none'}")


if __name__ == "__main__":
    main()
