"""What the device reader makes of recorded boards, of a ``vcgencmd`` that misbehaves, and of nothing at all."""

import shutil
from dataclasses import astuple
from pathlib import Path

import pytest

from lepton_edge.device import DeviceReader, DeviceState, read_device

TREES = Path(__file__).parent / "trees"
TICK_NS = 10_000_000  # /proc counts hundredths of a second
# Volts times amperes of the twelve rails that have both, in the order of the tree; EXT5V and BATT have no current.
# 3.7×0.092 + 3.3×0.085 + 1.8×0.15 + 1.1×0.004 + 0.6×0 + 1.1×0.2 + 0.8×0.31 + 0.75×0.73782 + 3.3×0.0001 + 3.3×0.0002 + 0.8×0.003 + 5.1×0.02
# = 0.3404 + 0.2805 + 0.27 + 0.0044 + 0 + 0.22 + 0.248 + 0.553365 + 0.00033 + 0.00066 + 0.0024 + 0.102
PI5_WATTS = 2.022055

THROTTLING = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
STATES = {
    "pi4": DeviceState(
        clocks_mhz=(1800, 1800, 1800, 1800),
        governor="ondemand",
        temperature_c=58.914,
        throttled_now=(),
        throttled_since_boot=("under-voltage", "throttled"),
        load_1m=1.27,
        memory_available_bytes=3412096 * 1024,
        power_w=None,
        busy_ns=(41250 + 120 + 13180 + 1410) * TICK_NS,  # user, nice, system, softirq
        stolen_ns=0,
    ),
    "pi5": DeviceState(
        clocks_mhz=(2400, 2400, 2400, 2400),
        governor="ondemand",
        temperature_c=51.05,
        throttled_now=(),
        throttled_since_boot=(),
        load_1m=0.42,
        memory_available_bytes=3650816 * 1024,
        power_w=pytest.approx(PI5_WATTS, abs=1e-6),  # of a sum in any order
        busy_ns=(10000 + 20 + 4720 + 150) * TICK_NS,
        stolen_ns=0,
    ),
}


def reader_of(root: Path, vcgencmd: str) -> DeviceReader:
    """A reader of a tree in which only ``vcgencmd`` is, a shell script."""
    script = root / "usr/bin/vcgencmd"
    script.parent.mkdir(parents=True)
    script.write_text(f"#!/bin/sh\n{vcgencmd}\n")
    script.chmod(0o755)
    return DeviceReader(root)


@pytest.mark.parametrize(
    ("tree", "board", "cpu", "features", "memory_kib"),
    [
        ("pi4", "Raspberry Pi 4 Model B Rev 1.4", "Cortex-A72", ("asimd",), 3883384),
        ("pi5", "Raspberry Pi 5 Model B Rev 1.0", "Cortex-A76", ("asimd", "asimddp", "fphp", "asimdhp"), 4146912),
    ],
)
def test_a_board_is_read_from_its_own_files(tree: str, board: str, cpu: str, features: tuple[str, ...], memory_kib: int) -> None:
    device = read_device(TREES / tree)
    assert (device.board, device.cpu, device.features, device.memory_bytes) == (board, cpu, features, memory_kib * 1024)


@pytest.mark.parametrize("tree", STATES)
def test_the_state_of_a_board_is_exact(tree: str) -> None:
    reader = DeviceReader(TREES / tree)
    assert reader.state() == STATES[tree]
    assert reader.notes == []


def test_what_a_machine_does_not_tell_is_none(tmp_path: Path) -> None:
    reader = DeviceReader(tmp_path)
    device = reader.device()
    assert (device.board, device.cpu, device.features, device.memory_bytes) == (None, None, (), None)
    assert set(astuple(reader.state())) == {None}
    assert reader.notes == []


def test_this_machine_tells_its_load_memory_and_time_and_nothing_absent_is_zero() -> None:
    state = DeviceReader().state()
    assert state.load_1m is not None
    assert state.memory_available_bytes
    assert state.busy_ns
    for value in (state.clocks_mhz, state.governor, state.temperature_c, state.power_w):
        assert value is None or value


def test_the_state_is_read_anew_each_time(tmp_path: Path) -> None:
    reader = DeviceReader(shutil.copytree(TREES / "pi4", tmp_path / "pi4"))
    assert reader.state().temperature_c == 58.914
    (reader.root / "sys/class/thermal/thermal_zone0/temp").write_text("80347\n")
    assert reader.state().temperature_c == 80.347


def test_core_ten_comes_after_core_nine_and_a_core_without_a_clock_is_none(tmp_path: Path) -> None:
    for core in range(11):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text("performance\n" if core == 10 else "ondemand\n")
        if core != 3:
            (folder / "scaling_cur_freq").write_text(f"{core + 1}00000\n")
    state = DeviceReader(tmp_path).state()
    assert state.clocks_mhz == (100, 200, 300, None, 500, 600, 700, 800, 900, 1000, 1100)
    assert state.governor == "ondemand, performance"


def test_waiting_and_stolen_time_are_not_work(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  1 2 4 8 16 32 64 128 256 512\ncpu0 1 2 4 8 16 32 64 128 256 512\n")
    state = DeviceReader(tmp_path).state()
    assert state.busy_ns == (1 + 2 + 4 + 32 + 64) * TICK_NS  # user, nice, system, irq, softirq
    assert state.stolen_ns == 128 * TICK_NS


@pytest.mark.parametrize(("bit", "name"), THROTTLING.items())
def test_each_bit_of_throttling_is_named_now_and_since_boot(tmp_path: Path, bit: int, name: str) -> None:
    now = reader_of(tmp_path / "now", f"echo throttled={1 << bit:#x}").state()
    assert (now.throttled_now, now.throttled_since_boot) == ((name,), ())
    before = reader_of(tmp_path / "before", f"echo throttled={1 << bit + 16:#x}").state()
    assert (before.throttled_now, before.throttled_since_boot) == ((), (name,))


def test_without_vcgencmd_the_kernel_tells_the_throttling(tmp_path: Path) -> None:
    folder = tmp_path / "sys/devices/platform/soc/soc:firmware"
    folder.mkdir(parents=True)
    (folder / "get_throttled").write_text("80005\n")  # hexadecimal, without 0x
    reader = DeviceReader(tmp_path)
    state = reader.state()
    assert state.throttled_now == ("under-voltage", "throttled")
    assert state.throttled_since_boot == ("soft temperature limit",)
    assert reader.notes == []


def test_a_slow_vcgencmd_is_stopped_noted_and_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lepton_edge.device._VCGENCMD_SECONDS", 0.2)
    asked = tmp_path / "asked"
    reader = reader_of(tmp_path, f"echo $1 >> '{asked}'\nexec sleep 30")
    for _ in range(2):
        state = reader.state()
        assert (state.throttled_now, state.throttled_since_boot, state.power_w) == (None, None, None)
    assert asked.read_text() == "get_throttled\n"
    assert reader.notes == ["power, and throttling unless the kernel tells, are not known: vcgencmd did not answer within 0.2 s"]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("echo 'VCHI initialization failed' >&2", "VCHI initialization failed"),
        # The vcgencmd of today, of raspberrypi/utils, complains on stdout.
        ('echo "Can\'t open device file: /dev/vcio"', "Can't open device file: /dev/vcio"),
    ],
)
def test_a_failing_vcgencmd_is_noted_once_with_its_reason_and_the_group(tmp_path: Path, failure: str, reason: str) -> None:
    reader = reader_of(tmp_path, f"{failure}\nexit 255")
    for _ in range(2):
        state = reader.state()
        assert (state.throttled_now, state.throttled_since_boot, state.power_w) == (None, None, None)
    (note,) = reader.notes
    assert reason in note
    assert "group 'video'" in note


@pytest.mark.parametrize(
    "answer",
    [
        "throttled=",
        "throttled=0x",
        "throttled=yes",
        "throttled=0x0 0x5",
        "VDD_CORE_A current(7)=0.7A",
        "dead",
        r"\377",
        r"VDD_CORE_A current(7)=0.7A\nVDD_CORE_V volt(15)=0.7.5V",
    ],
)
def test_an_answer_that_makes_no_sense_is_none(tmp_path: Path, answer: str) -> None:
    state = reader_of(tmp_path, f"printf '{answer}\\n'").state()
    assert (state.throttled_now, state.throttled_since_boot, state.power_w) == (None, None, None)
