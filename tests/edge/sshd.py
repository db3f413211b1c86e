"""A real ``sshd`` on the loopback, for this user, with a home of its own for what is kept there."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@dataclass(frozen=True)
class Device:
    """The machine at the other end.

    Attributes:
        folder: Keys, configuration, and under ``home`` what lepton-edge keeps there.
        port: Where it listens.
    """

    folder: Path
    port: int

    @property
    def cache(self) -> Path:
        return self.folder / "home/cache/lepton-edge/remote"

    def ssh(
        self,
        *,
        key: str = "user",
        known: str = "known",
        port: int = 0,
        path: Path | None = None,
        shared: Path | None = None,
        options: str = "",
    ) -> str:
        """The command that reaches it.

        Args:
            key: Which of the keys to show.
            known: The file of hosts that are known.
            port: Of something in between.
            path: The only folder in which commands are found there.
            shared: The socket of a connection that all of a user's windows share.
            options: More of ssh's.
        """
        settings = {
            "HostName": "127.0.0.1",
            "Port": port or self.port,
            "IdentityFile": self.folder / key,
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "UserKnownHostsFile": self.folder / known,
            "HostKeyAlias": "device",
        }
        if path is not None:
            settings |= {"SetEnv": f"DEVICE_PATH={path}", "IdentityFile": self.folder / "placed"}
        configuration = self.folder / "client"
        configuration.write_text(f"ControlMaster auto\nControlPath {shared}\nControlPersist 5\n" if shared else "")
        return (
            shlex.join(["ssh", "-F", str(configuration), *(word for item in settings.items() for word in ("-o", "=".join(map(str, item))))])
            + f" {options}"
        )

    def running(self) -> list[int]:
        """The commands of lepton-edge that run there."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if f"{self.cache}/venv/bin/python\0-P\0-m\0lepton_edge\0" in entry.read_text(errors="replace"):
                    found.append(int(entry.parent.name))
            except OSError:
                continue
        return found

    def wait(self, *, runs: bool, seconds: float = 60.0) -> None:
        """Until a command runs there, or none does and none has left anything."""
        end = time.monotonic() + seconds
        while bool(self.running()) != runs:
            assert time.monotonic() < end, f"{self.running()} after {seconds} s"
            time.sleep(0.05)
        while not runs and list((self.cache / "runs").iterdir()):
            assert time.monotonic() < end, f"{list((self.cache / 'runs').iterdir())} after {seconds} s"
            time.sleep(0.05)


def start(folder: Path) -> tuple[Device, "subprocess.Popen[bytes]"]:
    """Start it; the process is to be ended by whoever started it."""
    assert SSHD is not None
    for name in ("host", "user", "noisy", "placed", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    public = {name: (folder / f"{name}.pub").read_text().strip() for name in ("host", "user", "noisy", "placed")}
    (folder / "known").write_text(f"device {public['host']}\n")
    (folder / "nobody").touch()
    forced = {"noisy": "echo Welcome", "placed": "export PATH=$DEVICE_PATH"}
    lines = [f'command="{first}; eval \\"$SSH_ORIGINAL_COMMAND\\"" {public[name]}' for name, first in forced.items()]
    (folder / "authorized").write_text("\n".join([public["user"], *lines, ""]))
    environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    environment |= {"HOME": f"{folder}/home", "XDG_CACHE_HOME": f"{folder}/home/cache", "XDG_DATA_HOME": f"{folder}/home/data"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\nAcceptEnv DEVICE_PATH\nPrintMotd no\n"
        "SetEnv " + " ".join(f'"{name}={value}"' for name, value in environment.items()) + "\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # its own demand
    log = folder / "log"
    process = subprocess.Popen([SSHD, "-D", "-f", str(folder / "config"), "-E", str(log)], env={**os.environ, "PATH": path})
    end = time.monotonic() + 20
    while not (log.exists() and "Server listening" in log.read_text()):
        assert time.monotonic() < end and process.poll() is None, log.read_text() if log.exists() else "no log"  # noqa: PT018
        time.sleep(0.05)
    return Device(folder, port), process


class Cable:
    """What connects a client to the device until it is pulled: from then on nothing passes, and nobody is told."""

    def __init__(self, device: Device) -> None:
        self._device, self.is_pulled = device, threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._connect, daemon=True).start()

    def _connect(self) -> None:
        client, _ = self._server.accept()
        device = socket.create_connection(("127.0.0.1", self._device.port))
        self._ends = [client, device]
        for ends in ((client, device), (device, client)):
            threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(2**16):
            if self.is_pulled.is_set():
                return
            target.sendall(data)

    def close(self) -> None:
        for end in (*self._ends, self._server):
            end.close()
