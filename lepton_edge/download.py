"""A file from an HTTPS address, which goes on where it was cut off."""

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from lepton_runtime.errors import InputError, OutputError

_STALLED_S = 30.0  # without a byte
_CHUNK_BYTES = 2**20
_SPARE_BYTES = 2**20


def is_address(source: object) -> bool:
    """Whether it is an address, not a path."""
    return isinstance(source, str) and "://" in source


def download(address: str, folder: Path, *, on_step: Callable[[str], None]) -> Path:
    """The file at an address, whole. What was there of it already is kept, if the server still has the same.

    Args:
        address: Begins with ``https://``; where it leads on to, too.
        folder: Where the file and what is known of it lie, under names that begin with ``.download-``.
        on_step: Told what is happening.

    Raises:
        InputError: The address is none, the server does not have the file, does not say how large it is, or stops.
        OutputError: There is no room for it.
    """
    url = urlsplit(address)
    if url.scheme != "https" or not url.hostname:
        raise InputError(f"a bundle is a path or an https:// address, found {_shown(address)}; over http anybody between could change it")
    part = folder / f".download-{hashlib.sha256(address.encode()).hexdigest()[:16]}"
    try:
        _fetch(address, part, on_step)
    except urllib.error.HTTPError as error:
        raise InputError(f"{_shown(address)} must be there, the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"{_shown(address)} must be reachable: {reason}; the same command goes on where it stopped") from error
    return part


def forget(part: Path) -> None:
    """Remove a download and what is known of it."""
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _fetch(address: str, part: Path, on_step: Callable[[str], None]) -> None:
    notes = _read_notes(part)
    have = part.stat().st_size if notes and part.is_file() else 0
    if notes and have == notes["size"]:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "lepton-edge"}
    if have and notes:
        headers |= {"Range": f"bytes={have}-", "If-Range": notes["version"]}
    opener = urllib.request.build_opener(_OnlyHttps)
    with opener.open(urllib.request.Request(address, headers=headers), timeout=_STALLED_S) as answer:  # noqa: S310  # https, as checked
        size = _size(answer, have, notes, address)
        is_rest = answer.status == 206
        free = shutil.disk_usage(part.parent).free
        left = size - have if is_rest else size
        if free < left + _SPARE_BYTES:
            raise OutputError(f"{str(part.parent)!r} must have {left / 1e6:.1f} MB of free space, found {free / 1e6:.1f}; delete something")
        if not is_rest:
            have = 0
            forget(part)
            version = _version(answer.headers)
            if version:
                _notes(part).write_text(json.dumps({"size": size, "version": version}), encoding="utf-8")
        on_step(f"download {left / 1e6:.1f} MB" + (f", {have / 1e6:.1f} are here" if have else ""))
        with part.open("ab") as stream:
            _receive(answer, stream, size - have)
            os.fsync(stream.fileno())
    if part.stat().st_size != size:
        raise http.client.IncompleteRead(b"", size - part.stat().st_size)


def _receive(answer: Any, stream: IO[bytes], left: int) -> None:  # Any: what urllib opens
    while left and (chunk := answer.read(min(_CHUNK_BYTES, left))):
        stream.write(chunk)
        left -= len(chunk)


def _size(answer: Any, have: int, notes: Mapping[str, Any] | None, address: str) -> int:
    """How large the whole file is, as the server says.

    Raises:
        InputError: It does not, or answers with another part than was asked for.
    """
    if answer.status == 206 and notes:
        wanted = f"bytes {have}-{notes['size'] - 1}/{notes['size']}"
        if answer.headers.get("Content-Range") == wanted:
            return int(notes["size"])
        raise InputError(f"{_shown(address)} must go on with {wanted}, the server has {answer.headers.get('Content-Range')}; try again")
    length = answer.headers.get("Content-Length", "")
    if answer.status != 200 or not length.isdecimal() or int(length) == 0:
        raise InputError(f"{_shown(address)} must come with its size, the server answers {answer.status} without; use another server")
    return int(length)


def _version(headers: Message) -> str | None:
    """What tells this content from another at the same address; of a weak tag no part may be asked for."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_notes(part: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        notes = json.loads(_notes(part).read_text(encoding="utf-8"))
        if isinstance(notes, dict) and isinstance(notes.get("size"), int) and isinstance(notes.get("version"), str):
            return notes
    forget(part)
    return None


def _shown(address: str) -> str:
    """The address without what may be secret in it."""
    url = urlsplit(address)
    return f"'{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}{url.path}'"


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follows no redirection that leaves HTTPS."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError(f"it leads to {_shown(newurl)}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
