"""Statistics that were measured before, kept by what they were measured on; also those of a calibration that was cut short."""

import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from lepton_converters.tensor_statistics import TensorStatistics
from lepton_runtime.versions import installed_versions

_VERSION = 2  # of what is kept; a change of the statistics must not meet files of before
_ENGINES = ("onnxruntime", "ai-edge-litert", "tensorflow", "numpy")  # with others, activations differ in their last bits
_SUFFIX = ".statistics"
_LIMIT_BYTES = 256 * 2**20
_SAVE_EVERY_S = 20.0


def calibration_key(
    model: bytes,
    *,
    samples: Iterable[bytes],
    tensors: Mapping[str, int | None],
    settings: Mapping[str, str | int | float | bool | None],
) -> str:
    """A digest of all that statistics depend on.

    Args:
        model: The float graph's file.
        samples: A digest of each sample, in order.
        tensors: Those that are measured, each with the axis of its channels.
        settings: Whatever else changes a number, such as the batch.
    """
    asked = {"settings": dict(settings), "tensors": dict(tensors), "engines": installed_versions(_ENGINES)}
    digest = hashlib.sha256(f"lepton-edge calibration {_VERSION}\n{json.dumps(asked, sort_keys=True)}\n".encode())
    digest.update(hashlib.sha256(model).digest())
    for sample in samples:
        # Digests of digests have one length: no two lists of samples read alike.
        digest.update(hashlib.sha256(sample).digest())
    return digest.hexdigest()


class CalibrationCache:
    """A folder of statistics, the least recently used of which go when it gets too large.

    A calibration works without it, only slower: what cannot be read or written is a note, never an error. A file holds a digest
    of its content, which is compared before anything is parsed.

    Attributes:
        notes: What the person who calibrates should be told, each once.
    """

    def __init__(self, folder: Path | None = None, *, limit_bytes: int = _LIMIT_BYTES, save_every_s: float = _SAVE_EVERY_S) -> None:
        self.folder = folder or _default_folder()
        self.notes: list[str] = []
        self._limit_bytes = limit_bytes
        self._save_every_s = save_every_s
        self._saved_s = time.monotonic()

    def load(self, key: str) -> tuple[dict[str, TensorStatistics], int] | None:
        """Statistics by tensor name and how many samples they were measured on, to be gone on from; ``None`` if there are none."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._note(f"the calibration cache {str(self.folder)!r} must be readable: {error.strerror}; the calibration is measured anew")
            return None
        digest, packed = content[: hashlib.sha256().digest_size], content[hashlib.sha256().digest_size :]
        if hashlib.sha256(packed).digest() != digest:
            self._note(f"a file of the calibration cache was damaged and is removed: {str(path)!r}; the calibration is measured anew")
            self._remove(path)
            return None
        self._touch(path)
        return _unpack(packed)

    def save(self, key: str, statistics: Mapping[str, TensorStatistics], samples_done: int) -> None:
        """Keep statistics, whole or not at all, in the place of what is kept for the key."""
        packed = _pack(statistics, samples_done)
        path = self._path(key)
        temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Not flushed to the disk: after a power cut the digest tells.
            temporary.write_bytes(hashlib.sha256(packed).digest() + packed)
            os.replace(temporary, path)
        except OSError as error:
            self._note(f"the calibration cache {str(self.folder)!r} must be writable: {error.strerror}; nothing is kept for the next time")
            if os.path.exists(temporary):  # Path.exists fails where a folder may not be entered
                self._remove(temporary)
        else:
            self._remove_oldest(path)
        self._saved_s = time.monotonic()

    def save_now_and_then(self, key: str, statistics: Mapping[str, TensorStatistics], samples_done: int) -> None:
        """Keep statistics of an unfinished calibration, if the last were kept long enough ago; to be called after each batch."""
        if time.monotonic() - self._saved_s >= self._save_every_s:
            self.save(key, statistics, samples_done)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _touch(self, path: Path) -> None:
        try:
            os.utime(path)
        except OSError as error:
            self._note(f"the calibration cache {str(self.folder)!r} must be writable: {error.strerror}; nothing is kept for the next time")

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._note(f"{str(path)!r} must be removable: {error.strerror}; remove it by hand")

    def _remove_oldest(self, newest: Path) -> None:
        """Remove the least recently used files beyond the limit, and what killed processes left, but never what was just kept."""
        try:
            found = [(path, path.stat()) for path in self.folder.glob(f"*{_SUFFIX}*")]
        except FileNotFoundError:
            return  # another process has removed one, and cleans up itself
        total = sum(status.st_size for _, status in found)
        for path, status in sorted(found, key=lambda entry: entry[1].st_mtime_ns):
            if total <= self._limit_bytes:
                return
            if path != newest:
                self._remove(path)
                total -= status.st_size


def _default_folder() -> Path:
    """Source: the XDG Base Directory Specification: a relative path is to be ignored."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "lepton-edge" / "calibration"


def _pack(statistics: Mapping[str, TensorStatistics], samples_done: int) -> bytes:
    # Tensors go by number: their names may be anything, and a member of an archive may not.
    arrays = {f"{number}.{name}": array for number, one in enumerate(statistics.values()) for name, array in one.to_arrays().items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, samples_done=np.array(samples_done), keys=np.array(list(statistics), np.str_), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpack(packed: bytes) -> tuple[dict[str, TensorStatistics], int]:
    with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
        arrays = dict(archive)
    found: dict[str, TensorStatistics] = {}
    for number, name in enumerate(arrays["keys"].tolist()):
        prefix = f"{number}."
        found[name] = TensorStatistics.from_arrays(
            {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
        )
    return found, int(arrays["samples_done"])
