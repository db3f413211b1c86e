"""Memory that is given back to the system: a network's weights are copied a dozen times in a conversion."""

import ctypes
import gc
import sys

_WORTHWHILE = 2**25  # bytes; the collector takes a third of a second, and a conversion asks for it forty times


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
