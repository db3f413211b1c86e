"""A file from an HTTPS address, which goes on where it was cut off."""

import contextlib
import hashlib
import http
import http.client
import json
import os
import re
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from lepton_runtime.errors import InputError, OutputError

_STALLED_S = 30.0  # without a byte
_CHUNK_BYTES = 2**20
_SPARE_BYTES = 2**20
_PREFIX = ".download-"


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
    part = _part(address, folder)
    try:
        if not _fetch(address, part, on_step):
            forget(part)
            _fetch(address, part, on_step)
    except urllib.error.HTTPError as error:
        raise InputError(f"{shown(address)} must be there, the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise InputError(f"{shown(address)} must be reachable: {reason}; {_advice(reason, part)}") from error
    except KeyboardInterrupt:
        on_step("stopped; the same command goes on with what is here, if the server knows parts")
        raise
    return part


def _advice(reason: object, part: Path) -> str:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return "its certificate must be one that this machine trusts: check the clock, or name the authority's file with SSL_CERT_FILE"
    return "the same command goes on where it stopped" if _notes(part).exists() else "check the address and the network"


def _part(address: str, folder: Path) -> Path:
    """Where a file lies meanwhile, named by its address without what changes from time to time; those of other addresses are forgotten.

    Raises:
        InputError: It is no address.
    """
    try:
        url = urlsplit(address)
        is_right = url.scheme == "https" and bool(url.hostname) and url.port != 0 and re.fullmatch(r"[!-~]+", address)
        (url.hostname or "").encode("idna")
    except ValueError:  # of a port or a host
        url, is_right = urlsplit(""), None
    if not is_right:
        raise InputError(
            f"a bundle is a path or an https:// address, in letters of ASCII and without spaces, found {shown(address)}; "
            "over http anybody between could change it"
        )
    name = hashlib.sha256(f"{url.netloc}{url.path}".encode()).hexdigest()[:16]
    for other in folder.glob(f"{_PREFIX}*"):
        if not other.name.startswith(f"{_PREFIX}{name}"):
            other.unlink(missing_ok=True)
    return folder / f"{_PREFIX}{name}"


def forget(part: Path) -> None:
    """Remove a download and what is known of it."""
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _fetch(address: str, part: Path, on_step: Callable[[str], None]) -> bool:
    """Get the file, or the rest of it; ``False`` if the server has another one by now, or does not know its parts."""
    notes = _read_notes(part)
    have = part.stat().st_size if notes and part.is_file() else 0
    if notes and have >= notes["size"]:
        have = notes["size"] - 1  # one byte is asked for again, to hear whether the file is still the same
        os.truncate(part, have)
    headers = {"Accept-Encoding": "identity", "User-Agent": "lepton-edge"}
    if have and notes:
        headers |= {"Range": f"bytes={have}-", "If-Range": notes["version"]}
    opener = urllib.request.build_opener(_OnlyHttps)
    try:
        answer = opener.open(urllib.request.Request(address, headers=headers), timeout=_STALLED_S)  # noqa: S310  # https, as checked
    except urllib.error.HTTPError as error:
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return False
        raise
    with answer:
        is_rest = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if is_rest and notes and not _is_rest_of(answer.headers, have, notes):
            return False
        size = int(notes["size"]) if is_rest and notes else _size(answer, address)
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
    return True


def _is_rest_of(headers: Message, have: int, notes: dict[str, Any]) -> bool:
    """Whether an answer is the part that was asked for, of the same file: some servers know parts, and nothing of versions."""
    wanted = f"bytes {have}-{notes['size'] - 1}/{notes['size']}"
    return headers.get("Content-Range") == wanted and _version(headers) in (None, notes["version"])


def _receive(answer: Any, stream: IO[bytes], left: int) -> None:  # Any: what urllib opens
    while left:
        try:
            chunk = answer.read(min(_CHUNK_BYTES, left))
        except OSError as error:  # of the network, not of the disk
            raise urllib.error.URLError(error) from error
        if not chunk:
            break
        stream.write(chunk)
        left -= len(chunk)


def _size(answer: Any, address: str) -> int:
    """How large the whole file is, as the server says.

    Raises:
        InputError: It does not.
    """
    length = answer.headers.get("Content-Length", "")
    if answer.status != http.HTTPStatus.OK or not re.fullmatch("[1-9][0-9]{0,14}", length):
        raise InputError(f"{shown(address)} must come with its size, the server answers {answer.status} without; use another server")
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


def shown(address: str) -> str:
    """An address in quotes, without what may be secret in it."""
    place, _, _ = address.partition("?")
    head, slashes, rest = place.partition("://")
    host, slash, path = rest.partition("/")
    return ascii(f"{head}{slashes}{host.rpartition('@')[2]}{slash}{path}")


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follows no redirection that leaves HTTPS."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError(f"it leads to {shown(newurl)}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
