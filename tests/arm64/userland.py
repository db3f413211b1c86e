"""An ARM64 Debian userland with Python, run by qemu-aarch64: the stand-in for a 64-bit Raspberry Pi OS.

An x86 of 2013, without VNNI, is emulated beside it: this machine's own Python, by qemu-x86_64.

Everything lies in one folder and nothing outside it is touched: a private apt resolves and fetches the packages,
which are unpacked and not installed; no chroot, no mount, no binfmt. Needs an amd64 Debian with apt.

QEMU is Debian trixie's: version 7.2 shows the guest an x86 ``/proc/cpuinfo``, on which onnxruntime crashes.
"""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

CPUS = {"pi4": "cortex-a72", "pi5": "cortex-a76"}
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}  # of Debian's releases, as of Raspberry Pi OS
_VERSION = "4"
_HASWELL_FLAGS = "sse sse2 ssse3 fma sse4_1 sse4_2 movbe popcnt f16c avx avx2 bmi1 bmi2"
# The guest's own name, by -0, is this script's: sys.executable is what its children are started with.
_PYTHON_SCRIPT = """#!/bin/sh
export PYTHONHOME="{folder}/root/usr" PYTHONPATH="{folder}/site-packages:{folder}/test-packages" PYTHONDONTWRITEBYTECODE=1
exec "{folder}/qemu/usr/bin/qemu-aarch64" -cpu {cpu} -L "{folder}/root" -0 "$0" "{folder}/root/usr/bin/python{version}" "$@"
"""
_WHEEL_TAGS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


def why_not() -> str:
    """Why the userland cannot be set up on this machine, or an empty text."""
    missing = [name for name in ("apt-get", "dpkg-deb", "tar") if shutil.which(name) is None]
    if missing:
        return f"needs Debian's {', '.join(missing)}"
    if os.uname().machine != "x86_64":
        return f"is for x86-64 machines, this one is {os.uname().machine}: run the tests as they are"
    return "" if _KEYRING.exists() else f"needs {_KEYRING}"


def set_up(folder: Path, release: str = "bookworm") -> None:
    """Make the userland of that Debian, or keep the one that is there."""
    mark, version = folder / "made", PYTHONS[release]
    if mark.exists() and mark.read_text() == f"{_VERSION} {version} {folder}":
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        mirror = _mirror()
        for package in _fetch(Path(work) / "qemu", mirror, "amd64", "trixie", ["qemu-user"], only="qemu-user_"):
            _unpack(package, folder / "qemu", "./usr/bin/qemu-aarch64", "./usr/bin/qemu-x86_64")
        root = folder / "root"
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
        for package in _fetch(Path(work) / "root", mirror, "arm64", release, [f"python{version}", "libstdc++6"]):
            _unpack(package, root, "--exclude=./usr/share/doc/*", "--exclude=./usr/share/locale/*")
    # QEMU shows an x86 guest the host's, unless there is one under the guest's root.
    cpuinfo = folder / "haswell/proc/cpuinfo"
    cpuinfo.parent.mkdir(parents=True)
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {_HASWELL_FLAGS}\n")
    qemu = folder / "qemu/usr/bin/qemu-aarch64"
    qemu.chmod(qemu.stat().st_mode | stat.S_IXUSR)
    for cpu, model in CPUS.items():
        python(folder, cpu).parent.mkdir(exist_ok=True)
        python(folder, cpu).write_text(_PYTHON_SCRIPT.format(folder=folder, cpu=model, version=version))
        python(folder, cpu).chmod(0o755)
    mark.write_text(f"{_VERSION} {version} {folder}")


def python(folder: Path, cpu: str) -> Path:
    """The ARM64 Python as that board's processor. To itself and its children it looks like an ordinary one."""
    return folder / f"python/{cpu}"


def install(folder: Path, constraints: Path, *requirements: str, to: str = "site-packages") -> None:
    """Put wheels and what they need beside the ARM64 Python, by the pip of this machine; what is there is kept if it is the same."""
    target, mark = folder / to, folder / f"{to}.txt"
    paths = {Path(name).name: Path(name.partition("[")[0]) for name in (*requirements, str(constraints))}  # files are without extras
    wanted = "\n".join(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ''}" for name, path in paths.items())
    if mark.exists() and mark.read_text() == wanted:
        return
    mark.unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    tags = [word for tag in _WHEEL_TAGS for word in ("--platform", tag)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    command += ["--target", str(target), "--implementation", "cp", "--python-version", (folder / "made").read_text().split()[1], *tags]
    command += ["-c", str(constraints), *requirements]
    subprocess.run(command, check=True, capture_output=True, text=True)
    mark.write_text(wanted)


def run(folder: Path, cpu: str, *arguments: str, cwd: Path | None = None, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
    """Run the ARM64 Python as that board's processor."""
    command = [str(python(folder, cpu)), *arguments]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout)


def run_x86(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run this machine's Python as an Intel Haswell."""
    command = [str(folder / "qemu/usr/bin/qemu-x86_64"), "-cpu", "Haswell-noTSX", "-L", str(folder / "haswell"), "-0", sys.executable]
    return subprocess.run([*command, sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=300)


def _mirror() -> str:
    """The Debian mirror that this machine's own apt uses."""
    for attempt in (1, 2):
        listing = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"],
            capture_output=True,
            text=True,
            check=True,
        )
        for line in listing.stdout.splitlines():
            release, _, address = line.partition(" ")
            if release in ("bookworm", "trixie", "stable", "oldstable", "testing", "forky", "sid"):
                return address
        if attempt == 1:
            subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True)
    raise RuntimeError("apt must have a Debian mirror, `apt-get indextargets` lists none")


def _fetch(work: Path, mirror: str, architecture: str, suite: str, names: list[str], *, only: str = "") -> list[Path]:
    """The packages and all that they depend on, downloaded by an apt that knows no installed package."""
    for name in ("state/lists/partial", "cache/archives/partial", "parts"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror} {suite} main\n")
    (work / "apt.conf").write_text(
        f'Dir::State "{work}/state"; Dir::State::status "{work}/status"; Dir::Cache "{work}/cache";\n'
        f'Dir::Etc::sourcelist "{work}/sources.list"; Dir::Etc::sourceparts "{work}/parts";\n'
        f'APT::Architecture "{architecture}"; APT::Architectures {{ "{architecture}"; }};\n'
        'APT::Install-Recommends "false"; Acquire::Languages "none"; Acquire::Retries "3"; APT::Sandbox::User "";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(work / "apt.conf")}
    subprocess.run(["apt-get", "update", "-qq"], env=environment, check=True, capture_output=True)
    if only:
        subprocess.run(
            ["apt-get", "download", "-qq", *names], env=environment, check=True, capture_output=True, cwd=work / "cache/archives"
        )
    else:
        subprocess.run(["apt-get", "install", "-y", "-qq", "--download-only", *names], env=environment, check=True, capture_output=True)
    return sorted((work / "cache/archives").glob(f"{only}*.deb"))


def _unpack(package: Path, target: Path, *options: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True)
    command = ["tar", "-x", "-C", str(target), "--keep-directory-symlink", "--no-same-owner", *options]
    subprocess.run(command, input=unpacked.stdout, check=True, capture_output=True)
