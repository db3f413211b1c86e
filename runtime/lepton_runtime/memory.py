"""How much memory there is, before the kernel ends a process that takes more."""

import sys
from contextlib import suppress
from pathlib import Path

from lepton_runtime.errors import LeptonError

_GROUPS = Path("/sys/fs/cgroup")
_SMALL_BYTES = 4 * 2**20  # files up to this size are loaded without looking
_NEEDED_TIMES = {"onnxruntime": 2.5, "openvino": 2.5, "litert": 1.2}
"""By engine, less than loading a file and running it once has ever taken, in sizes of the file: 3.05, 4.1 and 1.46 at the least."""
_GIVEN_BACK = ("inactive_file", "active_file", "slab_reclaimable")  # what a control group's memory holds for a while only


def free_bytes() -> int | None:
    """What this process may still take: of the machine's memory and swap, of its control groups', of its own limit.

    ``None`` where nobody says, which is anywhere but on Linux.
    """
    if sys.platform != "linux":
        return None
    import resource  # there is none on Windows

    limits = []
    with suppress(OSError, ValueError, KeyError, IndexError):
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        limits.append(1024 * sum(int(rows[name].split()[0]) for name in ("MemAvailable", "SwapFree")))
    limits += _group_limits()
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    if allowed != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError, IndexError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            limits.append(allowed - pages * resource.getpagesize())
    return max(0, min(limits)) if limits else None


def _group_limits() -> list[int]:
    """What is free in this process's control group, and in those around it: version 2 has a line of its own, "0::/the/group"."""
    found = []
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        group = _GROUPS / next(line[3:] for line in lines if line.startswith("0::")).lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(_GROUPS):
                break
            with suppress(OSError, ValueError):
                most = int((folder / "memory.max").read_text(encoding="ascii"))  # "max" is no number
                rows = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
                cached = sum(int(rows.get(name, 0)) for name in _GIVEN_BACK)
                found.append(most - int((folder / "memory.current").read_text(encoding="ascii")) + cached)
    return found


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
