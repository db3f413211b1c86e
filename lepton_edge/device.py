"""What this machine is: board, processor, memory and the packages that run models."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

# What decides how fast, and how exactly, 8-bit sums are computed.
_FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "fphp", "asimdhp", "i8mm", "sve")
# Source: Arm's part numbers in MIDR_EL1.
_ARM_PARTS = {"0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76"}
PACKAGES = ("lepton-edge", "onnxruntime", "numpy", "ai-edge-litert", "pillow", "tensorflow", "keras", "tf2onnx")


@dataclass(frozen=True)
class Device:
    """What does not change while the machine is on. Unknown is ``None``, never a guess.

    Attributes:
        board: The board's own name, such as ``Raspberry Pi 4 Model B Rev 1.4``.
        cpu: The processor's name.
        machine: The instruction set, such as ``aarch64``.
        cores: How many this process may use.
        features: Instruction sets that matter for 8-bit and 16-bit arithmetic.
        memory_bytes: Main memory.
        system: Operating system and kernel.
        python: The interpreter's version.
    """

    board: str | None
    cpu: str | None
    machine: str
    cores: int
    features: tuple[str, ...]
    memory_bytes: int | None
    system: str
    python: str

    def __str__(self) -> str:
        memory = f", {self.memory_bytes / 2**30:.1f} GiB" if self.memory_bytes else ""
        return f"{self.board or self.cpu or 'unknown CPU'}, {self.machine}, {self.cores} cores{memory}"


def read_device(root: Path = Path("/")) -> Device:
    """This machine.

    Args:
        root: Where ``/proc`` is read from.
    """
    cpuinfo = _text(root / "proc/cpuinfo") or ""
    flags = set((_field(cpuinfo, "flags") or _field(cpuinfo, "Features") or "").split())
    part = _field(cpuinfo, "CPU part")
    memory = re.search(r"MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo") or "")
    return Device(
        board=_text(root / "proc/device-tree/model"),
        cpu=_field(cpuinfo, "model name") or (_ARM_PARTS.get(part, part) if part else None),
        machine=platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        features=tuple(name for name in _FEATURES if name in flags),
        memory_bytes=int(memory[1]) * 1024 if memory else None,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def _text(path: Path) -> str | None:
    """A file's text without the NUL that device-tree files end with; ``None`` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None


def _field(cpuinfo: str, name: str) -> str | None:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else None
