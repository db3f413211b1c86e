"""Which artifacts this CPU may answer wrongly by: an x86 without VNNI adds up products of 8-bit numbers in 16 bits, which saturate."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lepton_runtime.formats import Format, Target
from lepton_runtime.manifest import ArtifactRecord

_CPUINFO = Path("/proc/cpuinfo")
_FIRST_BYTES = 2**14  # one core's lines; the kernel writes those of all others only if they are read
# Source: Linux' names of CPUID bits; onnxruntime's 8-bit kernels for x86 ask for these two, and without them use vpmaddubsw.
_VNNI = {"avx512_vnni", "avx_vnni"}


@dataclass(frozen=True)
class Cpu:
    """A processor, as far as the operating system tells.

    Attributes:
        machine: The instruction set, such as ``x86_64``.
        features: What it can do, in Linux' words; empty where it is not told.
        model: Its name, or the numbers that ARM's makers give it; empty where it is not told.
    """

    machine: str
    features: frozenset[str]
    model: str = ""

    @property
    def saturates(self) -> bool | None:
        """Whether sums of two products of 8-bit numbers may saturate; ``None`` if its features are not known."""
        if self.machine != "x86_64":
            return False
        return not self.features & _VNNI if self.features else None


def read_cpu(cpuinfo: Path | None = None) -> Cpu:
    """This machine's processor.

    Args:
        cpuinfo: The kernel's description of it; by default ``/proc/cpuinfo``.
    """
    fields = _first_core(cpuinfo or _CPUINFO)
    numbers = [f"{name} {fields[name]}" for name in ("CPU implementer", "CPU part", "CPU variant") if name in fields]
    return Cpu(platform.machine(), _features(fields), fields.get("model name") or ", ".join(numbers))


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_features(cpuinfo: Path) -> frozenset[str]:
    """The features of the first core that such a file describes; none if it cannot be read."""
    return _features(_first_core(cpuinfo))


def _features(fields: Mapping[str, str]) -> frozenset[str]:
    """Source: Linux, ``flags`` on x86 and ``Features`` on ARM."""
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())


def _first_core(cpuinfo: Path) -> dict[str, str]:
    """What is said of the first core, by its name; nothing if it cannot be read."""
    try:
        with cpuinfo.open(encoding="ascii", errors="replace") as stream:
            lines = stream.read(_FIRST_BYTES).splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def target_of(record: ArtifactRecord) -> Target | None:
    """The CPUs that an artifact was made for; ``None`` for what is the same for all of them, as every TFLite file."""
    return Target(record.quantization.target) if record.quantization and record.format == Format.ONNX else None


def may_saturate(record: ArtifactRecord) -> bool | None:
    """Whether an artifact's answers may be wrong on this CPU; ``None`` if its features are not known."""
    target = target_of(record)
    return False if target is None or target.saturates else read_cpu().saturates


def saturation_text(record: ArtifactRecord) -> str:
    """What is wrong with an artifact that may saturate here, and what to do."""
    return (
        f"{record.file} must run on a CPU that adds up 8-bit products exactly, it is for {target_of(record)} and this x86 has no VNNI: "
        "answers may be wrong; export it with --target any, or take another precision"
    )
