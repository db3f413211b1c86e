"""Memory that is given back to the system: a network's weights are copied a dozen times in a conversion."""

import ctypes
import gc
import re
import sys
from pathlib import Path

_WORTHWHILE = 2**25  # bytes; the collector takes a third of a second, and a conversion asks for it forty times


def available_bytes() -> int | None:
    """How much could be taken without swapping, as Linux estimates it; ``None`` where nothing says.

    Source: proc_meminfo(5), ``MemAvailable``.
    """
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    return int(found[1]) * 1024 if found else None


def release_memory(weights_bytes: int) -> None:
    """Let go of what nothing refers to, and hand it to the system, where a network's weights make that worth the time.

    Graphs refer to themselves, so that only the collector finds them, and glibc keeps what is freed in small parts:
    after a freeze that was seven times the weights.
    """
    if weights_bytes < _WORTHWHILE:
        return
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:  # other libraries than glibc have none
        trim(0)
