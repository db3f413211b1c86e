"""What this machine is, and how it is doing at a moment: board, clocks, temperature, throttling, load, memory, power."""

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lepton_runtime.cpu import read_features, usable_cores

# What decides how fast, and how exactly, 8-bit sums are computed.
_FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "fphp", "asimdhp", "i8mm", "sve")
# Source: Arm's part numbers in MIDR_EL1.
_ARM_PARTS = {"0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76"}
# Bits of "now"; the same sixteen bits higher are "since boot". Source: raspberrypi.com, documentation of vcgencmd get_throttled.
_THROTTLED_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_VCGENCMD = ("usr/bin/vcgencmd", "opt/vc/bin/vcgencmd")
_VCGENCMD_SECONDS = 1.0
_CPU_ZONE = re.compile(r"cpu|soc|pkg|core")
PACKAGES = ("lepton-edge", "onnxruntime", "numpy", "ai-edge-litert", "openvino", "pillow", "tensorflow", "keras", "tf2onnx")


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
        names = ", ".join(filter(None, (self.board, self.cpu))) or "unknown CPU"
        return f"{names}, {self.machine}, {self.cores} core{'s' if self.cores != 1 else ''}{memory}"


@dataclass(frozen=True)
class DeviceState:
    """What changes while the machine is on, at one moment. What the machine does not tell is ``None``, never zero.

    Attributes:
        clocks_mhz: One clock a core, in the kernel's order.
        governor: What chooses the clocks, such as ``ondemand``.
        temperature_c: Of the processor.
        throttled_now: What holds a Raspberry Pi back at this moment: ``under-voltage``, ``frequency capped``,
            ``throttled``, ``soft temperature limit``. Empty is: nothing does.
        throttled_since_boot: What has held it back since it was switched on.
        load_1m: Programs that want to run, averaged over a minute.
        memory_available_bytes: What programs could still get.
        power_w: Of all rails that the power chip of a Raspberry Pi 5 measures; losses and USB are not in it.
        busy_ns: Time that all cores together have worked since boot.
        stolen_ns: Time that the hypervisor kept from all cores together since boot.
    """

    clocks_mhz: tuple[float | None, ...] | None
    governor: str | None
    temperature_c: float | None
    throttled_now: tuple[str, ...] | None
    throttled_since_boot: tuple[str, ...] | None
    load_1m: float | None
    memory_available_bytes: int | None
    power_w: float | None
    busy_ns: int | None
    stolen_ns: int | None

    @property
    def fastest_mhz(self) -> float | None:
        """The clock of the fastest core: idle ones may sleep."""
        return max(filter(None, self.clocks_mhz or ()), default=None)


def read_device(root: Path = Path("/")) -> Device:
    """This machine.

    Args:
        root: Where ``/proc`` is read from.
    """
    cpuinfo = _text(root / "proc/cpuinfo") or ""
    flags = read_features(root / "proc/cpuinfo")
    part = _field(cpuinfo, "CPU part")
    memory = re.search(r"MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo") or "")
    return Device(
        board=_text(root / "proc/device-tree/model"),
        cpu=_field(cpuinfo, "model name") or (_ARM_PARTS.get(part, part) if part else None),
        machine=platform.machine(),
        cores=usable_cores(),
        features=tuple(name for name in _FEATURES if name in flags),
        memory_bytes=int(memory[1]) * 1024 if memory else None,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


class DeviceReader:
    """Reads the state of a machine again and again; a command that failed once is not asked again.

    Attributes:
        notes: What could not be read, and why, in words.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        """Read from this machine, or from a recorded tree of another.

        Args:
            root: The folder that ``/proc``, ``/sys`` and ``vcgencmd`` are found in.
        """
        self.root = root
        self.notes: list[str] = []
        self._vcgencmd = next((root / name for name in _VCGENCMD if (root / name).exists()), None)
        self._has_power = True

    def device(self) -> Device:
        """What the machine is."""
        return read_device(self.root)

    def state(self) -> DeviceState:
        """How the machine is doing now; on a Raspberry Pi this takes about 20 ms, for its firmware is asked."""
        cores = sorted((self.root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"), key=_core_number)
        clocks = tuple(_number(core / "scaling_cur_freq", 1e-3) for core in cores)
        governors = sorted({text for core in cores if (text := _text(core / "scaling_governor"))})
        now, since_boot = self._throttled()
        load = re.match(r"\d+\.\d+", _text(self.root / "proc/loadavg") or "")
        available = re.search(r"MemAvailable:\s+(\d+) kB", _text(self.root / "proc/meminfo") or "")
        busy, stolen = self.cpu_times()
        return DeviceState(
            clocks_mhz=clocks if any(clocks) else None,
            governor=", ".join(governors) or None,
            temperature_c=self._temperature(),
            throttled_now=now,
            throttled_since_boot=since_boot,
            load_1m=float(load[0]) if load else None,
            memory_available_bytes=int(available[1]) * 1024 if available else None,
            power_w=self._power(),
            busy_ns=busy,
            stolen_ns=stolen,
        )

    def cpu_times(self) -> tuple[int | None, int | None]:
        """Busy and stolen time of all cores together since boot, in nanoseconds; ``None`` where it is not told.

        Source: proc(5), the line ``cpu`` of ``/proc/stat``: user nice system idle iowait irq softirq steal.
        """
        found = re.match(r"cpu +((?:\d+ ?)+)", _text(self.root / "proc/stat") or "")
        if not found:
            return None, None
        tick_ns = 10**9 // os.sysconf("SC_CLK_TCK")
        ticks = [int(number) for number in found[1].split()] + [0] * 8
        return (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) * tick_ns, ticks[7] * tick_ns

    def _temperature(self) -> float | None:
        """The hottest zone that is the processor's, in degrees Celsius."""
        zones = (self.root / "sys/class/thermal").glob("thermal_zone*")
        found = [_number(zone / "temp", 1e-3) for zone in zones if _CPU_ZONE.search(_text(zone / "type") or "")]
        return max((value for value in found if value is not None), default=None)

    def _throttled(self) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
        kernel = next(filter(None, map(_text, (self.root / "sys/devices/platform").glob("soc*/*:firmware/get_throttled"))), "")
        found = re.fullmatch(r"(?:throttled=)?0x([0-9a-fA-F]+)", self._ask("get_throttled") or f"0x{kernel.removeprefix('0x')}")
        if not found:
            return None, None
        bits = int(found[1], 16)
        return tuple(name for bit, name in _THROTTLED_BITS.items() if bits >> bit & 1), tuple(
            name for bit, name in _THROTTLED_BITS.items() if bits >> (bit + 16) & 1
        )

    def _power(self) -> float | None:
        """Watts of the rails that have both a voltage and a current; only the power chip of a Raspberry Pi 5 tells."""
        text = (self._ask("pmic_read_adc") if self._has_power else None) or ""
        volts, amperes = (dict(re.findall(rf"(\S+)_{unit} \w+\(\d+\)=(\d+\.?\d*){unit}\b", text)) for unit in "VA")
        rails = volts.keys() & amperes.keys()
        self._has_power = bool(rails)
        return sum(float(volts[rail]) * float(amperes[rail]) for rail in rails) if rails else None

    def _ask(self, command: str) -> str | None:
        """What ``vcgencmd`` answers; ``None`` where it is missing, slow or fails, and from then on."""
        if self._vcgencmd is None:
            return None
        try:
            done = subprocess.run(
                [self._vcgencmd, command],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                timeout=_VCGENCMD_SECONDS,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            self._give_up(f"did not answer within {_VCGENCMD_SECONDS:g} s")
            return None
        except OSError as error:
            self._give_up(f"could not be run ({error.strerror})")
            return None
        answer = done.stdout.strip()
        if "error=" in answer:  # a board whose firmware does not know this command
            return None
        if done.returncode != 0 or not answer:
            reason = (done.stderr.strip() or answer or f"exit code {done.returncode}").splitlines()[0]
            self._give_up(f"failed ({reason}); is the user in the group 'video'?")
            return None
        return answer

    def _give_up(self, reason: str) -> None:
        self._vcgencmd = None
        self.notes.append(f"power, and throttling unless the kernel tells, are not known: vcgencmd {reason}")


def _core_number(folder: Path) -> int:
    return int(folder.parent.name.removeprefix("cpu"))


def _number(path: Path, unit: float) -> float | None:
    text = _text(path)
    return round(int(text) * unit, 3) if text and re.fullmatch(r"-?\d+", text) else None


def _text(path: Path) -> str | None:
    """A file's text without the NUL that device-tree files end with; ``None`` if it cannot be read or is empty."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _field(cpuinfo: str, name: str) -> str | None:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else None
