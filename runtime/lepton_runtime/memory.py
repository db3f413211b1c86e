"""How much memory there is, before the kernel ends a process that takes more."""

import sys
from contextlib import suppress
from pathlib import Path

from lepton_runtime.errors import LeptonError

_SMALL_BYTES = 4 * 2**20  # files up to this size are loaded without looking
_NEEDED_TIMES = {"onnxruntime": 3.5, "openvino": 4.0, "litert": 1.4}
"""By engine, the memory that loading a file and running it once has taken at the least, in sizes of the file (benchmarks/opening.py)."""


def free_bytes() -> int | None:
    """What this process may still take: of the machine's memory and swap, of its control group's, of its own limit.

    ``None`` where nobody says, which is anywhere but on Linux.
    """
    if sys.platform != "linux":
        return None
    import resource  # there is none on Windows

    limits = []
    with suppress(OSError, ValueError, KeyError, IndexError):
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        limits.append(1024 * sum(int(rows[name].split()[0]) for name in ("MemAvailable", "SwapFree")))
    with suppress(OSError, ValueError, IndexError):  # version 2 has a line of its own, "0::/the/group"
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        group = Path("/sys/fs/cgroup" + next(line[3:] for line in lines if line.startswith("0::")))
        limits.append(int((group / "memory.max").read_text(encoding="ascii")) - int((group / "memory.current").read_text(encoding="ascii")))
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    if allowed != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError, IndexError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            limits.append(allowed - pages * resource.getpagesize())
    return max(0, min(limits)) if limits else None


def check_memory(engine: str, file: str, size: int) -> None:
    """Refuse to load a file that surely does not fit.

    Args:
        engine: What will run it.
        file: Its name.
        size: In bytes.

    Raises:
        LeptonError: Less is free than such a file has ever taken.
    """
    if size <= _SMALL_BYTES:
        return
    needed, free = int(size * _NEEDED_TIMES[engine]), free_bytes()
    if free is not None and free < needed:
        raise LeptonError(
            f"{file} takes at least {needed >> 20} MB of memory on {engine}, {free >> 20} MB are free; "
            "end other programs, or take a smaller precision or model"
        )


def out_of_memory(reason: str) -> LeptonError:
    """What to raise for a call that got no memory; the next one works again."""
    free = free_bytes()
    left = "" if free is None else f", {free >> 20} MB are free"
    return LeptonError(f"a call needs more memory than there is ({reason}){left}; give it fewer samples at a time, or take a smaller model")
