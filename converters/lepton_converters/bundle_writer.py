"""A bundle on disk, whole or not at all."""

import ctypes
import hashlib
import io
import os
import re
import shutil
import zipfile
from collections.abc import Container, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from lepton_converters.output_place import check_folder
from lepton_runtime.bundle import DIGEST_FILE, MANIFEST_FILE, SIGNATURE_FILE, Bundle, digest_line
from lepton_runtime.durable import remove_stale, sync, temporary_place, write_durably
from lepton_runtime.encoders import Encoder
from lepton_runtime.errors import BundleError, OutputError
from lepton_runtime.manifest import EncoderRecord, FileRecord, Manifest
from lepton_runtime.tensors import Array

GOLDEN_FILE = "golden.npz"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>


def file_record(file: str, data: bytes) -> FileRecord:
    """What the manifest says of a file."""
    return FileRecord(file, len(data), hashlib.sha256(data).hexdigest())


def pack_arrays(arrays: Mapping[str, Array]) -> bytes:
    """The content of an ``.npz`` file: the same bytes for the same arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes the names for options
    return buffer.getvalue()


def pack_encoders(encoders: Sequence[Encoder]) -> tuple[tuple[EncoderRecord, ...], dict[str, bytes]]:
    """What the manifest says of the encoders, and their vocabulary files; layers with the same vocabulary share one."""
    records: list[EncoderRecord] = []
    files: dict[str, bytes] = {}
    for encoder in encoders:
        entry = None
        if encoder.vocabulary is not None:
            data = encoder.vocabulary.to_json()
            name = next((name for name, content in files.items() if content == data), _vocabulary_file(encoder.output.name, files))
            files[name] = data
            entry = file_record(name, data)
        records.append(EncoderRecord(encoder.kind, encoder.inputs, encoder.output, encoder.step.to_dict(), entry))
    return tuple(records), files


def _vocabulary_file(layer: str, taken: Container[str]) -> str:
    """A plain file name, whatever a layer is called."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", layer)[:100]
    names = (f"vocabulary.{stem}{number or ''}.json" for number in count())
    return next(name for name in names if name not in taken)


def check_output(path: Path, *, force: bool) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Raises:
        OutputError: Something is there, or its folder cannot be written to.
    """
    if path.exists() or path.is_symlink():
        if not force:
            raise OutputError(f"the output {str(path)!r} exists; add --force to replace it, or choose another with --output")
        if not _is_replaceable(path):
            raise OutputError(
                f"--force replaces whole bundles and nothing else, {str(path)!r} is or holds something else; choose another --output"
            )
    check_folder(path)
    remove_stale(path)


def _is_replaceable(path: Path) -> bool:
    """Whether nothing but a bundle of ours, or an empty folder, is there."""
    if path.is_symlink():
        return False
    if path.is_dir() and not any(path.iterdir()):
        return True
    try:
        Bundle.open(path)  # which holds its own files and no others
    except BundleError:
        return False
    return True


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes], *, force: bool) -> None:
    """Write a bundle: a folder, or one zip file if the name ends in ``.zip``.

    Everything is written beside the output, flushed to the disk and only then renamed to it, so a full disk, an
    interrupt or a power cut leaves either what was there or the whole bundle.

    Args:
        path: The folder or ``.zip`` file.
        manifest: What the bundle says about itself.
        files: Content by file name, as the manifest lists them.
        force: Replace a bundle that is there.

    Raises:
        OutputError: It cannot be written.
    """
    check_output(path, force=force)
    data = manifest.to_json()
    # The manifest comes last, so that a folder that holds one holds everything.
    everything = {**files, DIGEST_FILE: digest_line(data), MANIFEST_FILE: data}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_place(path) as temporary:
            if path.suffix == ".zip":
                write_durably(temporary, _zipped(everything))
                os.replace(temporary, path)
            else:
                temporary.mkdir()
                for name, content in everything.items():
                    write_durably(temporary / name, content)
                sync(temporary)
                _put_folder(temporary, path)
            sync(path.parent)
    except OSError as error:
        raise OutputError(f"the output {str(path)!r} must be writable: {error.strerror}; nothing was left behind") from error


def add_signature(path: Path, content: bytes) -> None:
    """Put ``manifest.sig`` into a bundle, in place of one that is there; the bundle is whole at every moment.

    Raises:
        OutputError: It cannot be written.
        BundleError: The bundle is damaged.
    """
    try:
        path = path.resolve()
        with temporary_place(path) as temporary:
            if path.is_dir():
                write_durably(temporary, content)
                os.replace(temporary, path / SIGNATURE_FILE)
                sync(path)
                return
            bundle = Bundle.open(path)
            data = bundle.read_manifest()
            files = {record.file: bundle.read(record) for record in bundle.manifest.files}
            write_durably(temporary, _zipped({**files, DIGEST_FILE: digest_line(data), MANIFEST_FILE: data, SIGNATURE_FILE: content}))
            shutil.copymode(path, temporary)
            os.replace(temporary, path)
            sync(path.parent)
    except OSError as error:
        raise OutputError(f"the bundle {str(path)!r} must be writable: {error.strerror}; it is as it was") from error


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip file that depends on its content only: stored, and dated 1980."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _put_folder(temporary: Path, path: Path) -> None:
    """Rename a folder to a name that may be taken."""
    if not path.exists():
        os.rename(temporary, path)
        return
    if not _exchange(temporary, path):
        # No system call for it here: for a moment neither is at its place, but both are on the disk.
        aside = temporary.with_name(f"{temporary.name}-old")
        os.rename(path, aside)
        os.rename(temporary, path)
        os.rename(aside, temporary)
    # The temporary name now holds the old bundle, which is removed with it.


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system cannot.

    Source: renameat2(2), RENAME_EXCHANGE.
    """
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
