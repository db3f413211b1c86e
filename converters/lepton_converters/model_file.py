"""What a model file holds, read without TensorFlow: its configuration, its size, and whether it is whole."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_runtime.bundle import MANIFEST_FILE
from lepton_runtime.errors import InputError, MissingExtraError, OutputError, UnsupportedError

SAVED_MODEL = "SavedModel"
PROGRAMS = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
_WAITED = 6  # times the seconds of computing that are allowed: for a slow disk, a busy machine


@dataclass(frozen=True)
class ModelFile:
    """What a model file says about itself.

    Attributes:
        name: The file's name.
        kind: ``.keras``, ``.h5`` or ``SavedModel``.
        keras_version: Which Keras wrote it; ``None`` if that is not recorded.
        size_bytes: How large it is, a folder with all that is in it.
        parameters: How many weights it has; ``None`` if that takes more than reading shapes.
        config: The configuration, as Keras wrote it; ``None`` for a SavedModel, which is a program.
        is_compiled: Whether it also says with which loss, metrics and optimizer the model was trained.
    """

    name: str
    kind: str
    keras_version: str | None
    size_bytes: int
    parameters: int | None
    config: Any  # Any: JSON
    is_compiled: bool = False

    @property
    def is_legacy(self) -> bool:
        """Whether Keras 1 or 2 wrote it; Keras 1 does not say so."""
        return (self.keras_version or ("1" if self.kind == ".h5" else "3")).startswith(("1", "2"))


def read_model_file(path: Path, *, is_verified: bool = False, copy: Path | None = None) -> ModelFile:
    """What a model file says about itself, read by a process with limits on computing time and memory.

    Args:
        path: A ``.keras`` or ``.h5`` file, or a SavedModel folder.
        is_verified: Also compare the checksums of a ``.keras`` file, which reads all of it (about 0.5 s a gigabyte).
        copy: Where all that Keras reads of the file is written anew, weights included.

    Raises:
        InputError: It is missing, damaged or no Keras model, or reading it takes more than it should.
        OutputError: There is no room for the copy.
    """
    if (path / MANIFEST_FILE).is_file():
        raise InputError(f"a model is a .keras or .h5 file, {str(path)!r} is a bundle already; give the model that it was made of")
    if path.is_dir():
        return _read_folder(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"a .keras or .h5 file is needed, {str(path)!r} cannot be read: {error.strerror}") from error
    if not path.is_file():
        raise InputError(f"a .keras or .h5 file is needed, {str(path)!r} is no plain file")
    answer = _answer_of_reader(path, size, is_verified=is_verified, copy=copy)
    if "file" in answer:
        return ModelFile(**answer["file"])
    kinds = {kind.__name__: kind for kind in (InputError, MissingExtraError, OutputError)}
    raise kinds[answer["error"]](answer["text"])


def limit_seconds(size: int) -> int:
    """How long a file of ``size`` bytes may take to read, in seconds of computing: 100 times what it does take."""
    return 10 + size // 20_000_000


def _answer_of_reader(path: Path, size: int, *, is_verified: bool, copy: Path | None) -> dict[str, Any]:
    seconds = limit_seconds(size)
    request = {"path": str(path), "size": size, "is_verified": is_verified, "copy": str(copy) if copy else None}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "lepton_converters.model_reader", json.dumps(request)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path))),
            },  # as this process finds modules
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_WAITED * seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{str(path)!r} must be readable within {_WAITED * seconds} s, it was not; is its disk well?") from error
    if done.returncode == -signal.SIGXCPU:
        raise InputError(
            f"{str(path)!r} must be readable within {seconds} s of computing, it was not: a damaged file can lead its reader in circles; "
            "copy it again"
        )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or [f"ended by signal {-done.returncode}"]
        raise InputError(f"{str(path)!r} must be readable, its reader failed ({reason[-1]}): it is damaged; copy it again")
    return dict(json.loads(done.stdout.splitlines()[-1]))  # before it, whatever starts with Python may have printed


def check_file(path: Path, *, trust_code: bool = False, copy: Path | None = None) -> ModelFile:
    """Look into a model file without TensorFlow, before anything heavy starts; the checksums of a ``.keras`` file are compared.

    Args:
        path: The file, or a SavedModel folder.
        trust_code: Let programs pass.
        copy: Where all that Keras reads of the file is written anew, weights included.

    Raises:
        InputError: It is missing, damaged or no Keras model.
        UnsupportedError: It holds a layer that is a program, or is a SavedModel, and its code is not trusted.
    """
    file = read_model_file(path, is_verified=True, copy=copy)
    if trust_code:
        return file
    if file.kind == SAVED_MODEL:
        raise UnsupportedError(
            f"the SavedModel {str(path)!r} is a program, which would run on this machine; if you trust whoever made it, add --trust-code"
        )
    programs = [value for value in serialized_objects(file.config) if is_code(value)]
    if programs:
        kind = programs[0]["class_name"].replace("__lambda__", "Lambda")
        raise UnsupportedError(
            f"{str(path)!r} holds code in the {kind} layer {_name(programs[0])!r}, which would run on this machine; "
            "if you trust whoever made the file, add --trust-code"
        )
    return file


def serialized_objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every object in a nested configuration, in the file's order: what has a ``class_name``; the configuration itself included."""
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if isinstance(value.get("class_name"), str):
                yield value
            pending.extend(reversed(value.values()))
        elif isinstance(value, list):
            pending.extend(reversed(value))


def is_code(value: dict[str, Any]) -> bool:
    """Whether a serialized object is a program, or may be: a Lambda layer, a function without a name, a layer that loads one."""
    return value["class_name"] in PROGRAMS


def _name(value: dict[str, Any]) -> str:
    settings = value.get("config")
    return str(settings.get("name", "Lambda") if isinstance(settings, dict) else "Lambda")


def _read_folder(path: Path) -> ModelFile:
    if not (path / "saved_model.pb").is_file():
        raise InputError(
            f"a model is a .keras or .h5 file, or a SavedModel folder with saved_model.pb, found the folder {str(path)!r}; "
            "save the model with model.save('model.keras')"
        )
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    version = "2" if (path / "keras_metadata.pb").is_file() else None  # only Keras 2 wrote that file
    return ModelFile(path.name, SAVED_MODEL, version, size, None, None)
