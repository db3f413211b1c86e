"""A bundle on disk, a folder or the same folder zipped: opened, checked, its files handed out."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_runtime.errors import BundleError, InputError
from lepton_runtime.manifest import MAX_MANIFEST_BYTES, ArtifactRecord, EncoderRecord, FileRecord, Manifest

if TYPE_CHECKING:
    from zipfile import ZipFile

    from lepton_runtime.encoders import Encoder

MANIFEST_FILE = "manifest.json"
DIGEST_FILE = "manifest.sha256"
SIGNATURE_FILE = "manifest.sig"
MAX_SIGNATURE_BYTES = 64 * 2**10


def digest_line(manifest: bytes) -> bytes:
    """The content of ``manifest.sha256``, in the form that ``sha256sum --check`` reads."""
    return f"{_sha256(manifest)}  {MANIFEST_FILE}\n".encode()


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: The folder or ``.zip`` file.
        manifest: What it says about itself, already checked against ``manifest.sha256``.
        digest: The SHA-256 of the manifest, which holds those of all files.
    """

    path: Path
    manifest: Manifest
    digest: str

    @classmethod
    def open(cls, path: str | Path) -> "Bundle":
        """The bundle at ``path``; of its files it reads the manifest only, of the others it knows that they are there.

        Raises:
            BundleError: There is none, its manifest is damaged or too new, or it holds other files than the manifest lists.
        """
        path = _existing(Path(path))
        data = _read(path, MANIFEST_FILE, MAX_MANIFEST_BYTES)
        if _read(path, DIGEST_FILE, MAX_MANIFEST_BYTES) != digest_line(data):
            raise BundleError(
                f"{str(path / MANIFEST_FILE)!r} must match {DIGEST_FILE}, its checksum does not; "
                "it is damaged or was changed: copy the bundle again"
            )
        manifest = Manifest.from_json(data)
        _check_names(path, {MANIFEST_FILE, DIGEST_FILE, *(record.file for record in manifest.files)}, optional={SIGNATURE_FILE})
        return cls(path, manifest, _sha256(data))

    def read(self, record: FileRecord) -> bytes:
        """The bytes of one file, checked against the manifest before anyone parses them.

        Raises:
            BundleError: The file is missing or its size or digest differs.
        """
        data = _read(self.path, record.file, record.size_bytes)
        if len(data) != record.size_bytes or _sha256(data) != record.sha256:
            raise BundleError(
                f"{str(self.path / record.file)!r} must be {record.size_bytes} bytes with the manifest's checksum, "
                f"found {'another size' if len(data) != record.size_bytes else 'another checksum'}; "
                "it is damaged or was changed: copy the bundle again"
            )
        return data

    def read_manifest(self) -> bytes:
        """The very bytes that the manifest was read from.

        Raises:
            BundleError: They are not there any more.
        """
        data = _read(self.path, MANIFEST_FILE, MAX_MANIFEST_BYTES)
        if _sha256(data) != self.digest:
            raise BundleError(f"{str(self.path)!r} must stay as it is while it is open, its manifest was changed; open it again")
        return data

    def read_signatures(self) -> bytes | None:
        """The content of ``manifest.sig``; ``None`` for a bundle without."""
        names = os.listdir(self.path) if self.path.is_dir() else _zipped_names(self.path)
        return _read(self.path, SIGNATURE_FILE, MAX_SIGNATURE_BYTES) if SIGNATURE_FILE in names else None

    def check(self) -> None:
        """Read every file against its digest.

        Raises:
            BundleError: One is missing or damaged.
        """
        for record in self.manifest.files:
            self.read(record)

    def load_encoders(self) -> "tuple[Encoder, ...]":
        """What runs before the models, with its vocabularies, in the order in which it runs.

        Raises:
            BundleError: A vocabulary is missing or damaged, or a step is not one that this version knows.
        """
        try:
            return tuple(map(self._load_encoder, self.manifest.encoders))
        except (KeyError, TypeError, ValueError, RecursionError, InputError) as error:
            raise BundleError(
                f"{str(self.path)!r} must describe its encoders in full, found a fault at {error}; "
                "update with: pip install --upgrade lepton-edge, or export the bundle again"
            ) from error

    def _load_encoder(self, record: EncoderRecord) -> "Encoder":
        from lepton_runtime.encoders import Encoder, read_step  # for texts and tables only: it would cost every start
        from lepton_runtime.lookups import Vocabulary

        vocabulary = Vocabulary.from_json(self.read(record.vocabulary)) if record.vocabulary else None
        return Encoder(record.inputs, record.output, read_step(record.kind, record.settings, vocabulary))

    def artifact(self, file: str) -> ArtifactRecord:
        """The artifact with that file name.

        Raises:
            BundleError: There is none; the text lists those there are.
        """
        for record in self.manifest.artifacts:
            if record.file == file:
                return record
        names = ", ".join(record.file for record in self.manifest.artifacts)
        raise BundleError(f"{str(self.path)!r} has {names}, found no {file!r}")


def _sha256(data: bytes) -> str:
    import hashlib  # with zipfile below, half of what `import lepton_runtime` would cost

    return hashlib.sha256(data).hexdigest()


def _existing(path: Path) -> Path:
    """The path, or where a link leads: `current` of an install may lead elsewhere tomorrow, a bundle that is open stays."""
    try:
        found = path.resolve() if path.is_symlink() else path
        if found.is_dir() or found.is_file():
            return found
        what = "is no folder and no file" if found.exists() else "does not exist"
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, links that lead to each other, a NUL
        raise BundleError(f"a bundle folder or .zip is needed, {str(path)!r} is no place for one: {error}") from error
    raise BundleError(f"a bundle folder or .zip is needed, {str(path)!r} {what}")


def _check_names(path: Path, wanted: set[str], *, optional: set[str]) -> None:
    """Refuse files that the manifest does not list, those that it lists and that are missing, and what is no plain file."""
    if path.is_dir():
        with os.scandir(path) as entries:
            found = [entry.name if entry.is_file(follow_symlinks=False) else f"{entry.name} (no plain file)" for entry in entries]
    else:
        found = _zipped_names(path)
    counts, known = Counter(found), wanted | optional
    surplus = sorted(name for name, count in counts.items() if name not in known or count > 1)
    missing = sorted(wanted - set(counts))
    if surplus or missing:
        what = f"{surplus[0]!r} is not one of them, or there twice" if surplus else f"{missing[0]!r} is missing"
        raise BundleError(f"{str(path)!r} must hold the files that its manifest lists, {what}; copy the bundle again")


def _zipped_names(path: Path) -> list[str]:
    with _opened_zip(path, "list of files") as archive:
        return archive.namelist()


def _read(path: Path, file: str, limit_bytes: int) -> bytes:
    """At most one byte more than the limit, so that a swollen file is noticed and not swallowed."""
    if not path.is_dir():
        return _read_zipped(path, file, limit_bytes)
    try:
        # O_NOFOLLOW: a link could lead out of the bundle. O_NONBLOCK: a pipe would be waited for.
        descriptor = os.open(path / file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise _unreadable(path, file, "it is no plain file")
            return stream.read(min(limit_bytes, found.st_size) + 1)
    except OSError as error:
        raise _unreadable(path, file, error.strerror) from error


def _read_zipped(path: Path, file: str, limit_bytes: int) -> bytes:
    import zipfile

    with _opened_zip(path, file) as archive:
        member = archive.getinfo(file)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _unreadable(path, file, "it is compressed in a way that no bundle is")
        with archive.open(member) as stream:
            return stream.read(min(limit_bytes, member.file_size) + 1)


@contextmanager
def _opened_zip(path: Path, file: str) -> "Iterator[ZipFile]":
    import zipfile
    import zlib

    damaged = (
        OSError,
        KeyError,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        zlib.error,
    )
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except damaged as error:
        if path.suffix == ".keras":
            raise BundleError(f"{str(path)!r} must be a bundle, it is a Keras model; export it first") from error
        raise _unreadable(path, file, str(error).strip("'\"")) from error


def _unreadable(path: Path, file: str, reason: str | None) -> BundleError:
    return BundleError(f"{str(path)!r} must be a bundle with a readable {file}: {reason}; export or copy it again")
