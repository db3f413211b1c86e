"""Updates from an HTTPS address, which may be cut off anywhere."""

import datetime
import http.server
import ssl
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_edge import download as download_module
from lepton_edge.digits import shipped_bundle
from lepton_edge.download import download
from lepton_edge.install import install
from lepton_runtime import BundleError, InputError, OutputError, Session

pytest.importorskip("cryptography", reason="makes the server's certificate")
pytestmark = pytest.mark.simulation


class Server(http.server.ThreadingHTTPServer):
    """A server of one file, with faults on request.

    Attributes:
        content: The file.
        tag: Its version; ``None`` for a server that knows none.
        cut: After how many bytes of an answer the connection ends; ``None`` for never.
        asked: The ``Range`` of each request.
        faults: ``no size``, ``no parts``, ``wrong part``, ``out of range`` or ``any version``.
    """

    content = b""
    tag: str | None = '"1"'
    cut: int | None = None
    redirection: str | None = None

    def __init__(self, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.asked: list[str | None] = []
        self.faults: set[str] = set()

    @property
    def address(self) -> str:
        return f"https://localhost:{self.server_address[1]}/releases/digits.zip?token=secret"

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is no fault of ours."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if "missing" in self.path:
            self.send_error(404)
            return
        if server.redirection and "there" not in self.path:
            self.send_response(302)
            self.send_header("Location", server.redirection)
            self.end_headers()
            return
        start, body = 0, server.content
        if asked and "out of range" in server.faults:
            self.send_error(416)
            return
        if "any version" in server.faults:
            server.tag = '"2"'
        is_same = self.headers.get("If-Range") == server.tag or "any version" in server.faults
        if asked and server.tag and is_same and "no parts" not in server.faults:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            body = body[start:]
            self.send_response(206)
            first = start + 1 if "wrong part" in server.faults else start
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        if "no size" not in server.faults:
            self.send_header("Content-Length", str(len(body)))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(body[: server.cut])

    def log_message(self, *values: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of ``localhost`` that it has signed itself, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("server") / "localhost.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def server(certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(certificate) as server:
        with zipfile.ZipFile(tmp_path / "digits.zip", "w") as archive:
            for file in shipped_bundle().iterdir():
                archive.write(file, file.name)
        server.content = (tmp_path / "digits.zip").read_bytes()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "device").mkdir()
    return tmp_path / "device"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_bundle_is_installed_from_an_address(server: Server, folder: Path) -> None:
    steps: list[str] = []
    found = install(server.address, folder, on_step=steps.append)
    with Session.open(found.path) as session:
        assert session.artifact.file == found.file
    assert steps == [f"download {len(server.content) / 1e6:.1f} MB", "copy to slot a", "try it here"]
    assert names(folder) == ["current", "lock", "slots"]


def test_a_download_that_was_cut_off_goes_on(server: Server, folder: Path) -> None:
    server.cut = 100_000
    for part in range(1, 4):
        with pytest.raises(InputError, match=r"'https://localhost:\d+/releases/digits.zip' must be reachable.*; the same command goes on"):
            install(server.address, folder)
        assert next(path for path in folder.glob(".download-*") if path.suffix != ".json").stat().st_size == part * 100_000
    server.cut = None
    install(server.address, folder)
    assert server.asked == [None, "bytes=100000-", "bytes=200000-", "bytes=300000-"]
    assert names(folder) == ["current", "lock", "slots"]


@pytest.mark.parametrize("change", ["another file", "no tag", "weak tag", "no parts"])
def test_it_begins_again_where_parts_would_not_fit_together(server: Server, folder: Path, change: str) -> None:
    if change in ("no tag", "weak tag"):
        server.tag = None if change == "no tag" else 'W/"1"'
    server.cut = 100_000
    with pytest.raises(InputError, match="must be reachable"):
        download(server.address, folder, on_step=lambda step: None)
    server.cut = None
    if change == "another file":
        server.tag, server.content = '"2"', server.content[::-1]
    elif change == "no parts":
        server.faults.add("no parts")
    assert download(server.address, folder, on_step=lambda step: None).read_bytes() == server.content


@pytest.mark.parametrize("fault", ["wrong part", "out of range", "any version"])
def test_a_server_that_ignores_what_was_asked_is_asked_for_all(server: Server, folder: Path, fault: str) -> None:
    server.cut = 100_000
    with pytest.raises(InputError, match="goes on where it stopped"):
        download(server.address, folder, on_step=lambda step: None)
    server.cut, server.faults = None, {fault}
    assert download(server.address, folder, on_step=lambda step: None).read_bytes() == server.content
    assert server.asked == [None, "bytes=100000-", None]


@pytest.mark.parametrize("address", ["https://[x/", "https://a..b/there", "https://localhost:99999/there"])
def test_a_redirection_to_nowhere_is_a_sentence(server: Server, folder: Path, address: str) -> None:
    server.redirection = address
    with pytest.raises(InputError, match=r"must be reachable"):
        download(server.address, folder, on_step=lambda step: None)


def test_a_whole_download_is_taken_only_if_the_server_still_has_it(server: Server, folder: Path) -> None:
    """The last byte is asked for again."""
    for version, content in (('"1"', server.content), ('"1"', server.content), ('"2"', server.content[::-1])):
        server.tag, server.content = version, content
        assert download(server.address, folder, on_step=lambda step: None).read_bytes() == content
    assert server.asked == [None, *[f"bytes={len(server.content) - 1}-"] * 2]


def test_a_download_has_another_token_next_time_and_another_address_no_part_of_it(server: Server, folder: Path) -> None:
    server.cut = 100_000
    for address in (server.address, server.address.replace("secret", "other")):
        with pytest.raises(InputError, match="goes on where it stopped"):
            download(address, folder, on_step=lambda step: None)
    assert server.asked == [None, "bytes=100000-"]
    with pytest.raises(InputError, match="goes on where it stopped"):
        download(server.address.replace("digits", "there"), folder, on_step=lambda step: None)
    assert server.asked[2:] == [None]
    assert len(names(folder)) == 2


def test_a_download_that_is_no_bundle_or_damaged_is_forgotten(server: Server, folder: Path) -> None:
    install(server.address, folder)
    whole = server.content
    for content in (b"no zip", whole[:-2000], whole[:5000] + bytes(64) + whole[5064:]):
        server.content = content
        with pytest.raises(BundleError, match=r"'https://localhost:\d+/releases/digits.zip' must give a bundle: 'the download"):
            install(server.address, folder)
        assert names(folder) == ["current", "lock", "slots"]
        assert names(folder / "slots") == ["a"]


def test_nothing_is_kept_before_its_size_is_known_and_fits(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.faults.add("no size")
    with pytest.raises(InputError, match=r"must come with its size, the server answers 200 without"):
        download(server.address, folder, on_step=lambda step: None)
    server.faults.clear()
    usage = type("Usage", (), {"free": 2_000_000})
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"must have \d\.\d MB of free space, found 2.0; delete something"):
        download(server.address, folder, on_step=lambda step: None)
    assert names(folder) == []


def test_the_server_must_be_the_one_it_says(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"must be reachable: .*certificate.*name the authority's file with SSL_CERT_FILE"):
        download(server.address.replace("localhost", "127.0.0.1"), folder, on_step=lambda step: None)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(InputError, match=r"must be reachable: .*certificate") as raised:
        download(server.address, folder, on_step=lambda step: None)
    assert "secret" not in str(raised.value)


WRONG = (
    *("http://localhost/x.zip", "ftp://localhost/x.zip", "https:///x.zip", "file:///etc/passwd"),
    *("https://[::1/x.zip", "https://a:99999/x", "https://a:b/x", "https://a/ü.zip", "https://a..b/x", "https://a/x y"),
)


def test_https_is_not_left(server: Server, folder: Path) -> None:
    for address in WRONG:
        with pytest.raises(InputError, match=r"is a path or an https:// address"):
            download(address, folder, on_step=lambda step: None)
    server.redirection = "http://localhost/there.zip"
    with pytest.raises(InputError, match=r"it leads to 'http://localhost/there.zip', which is not https"):
        download(server.address, folder, on_step=lambda step: None)
    server.redirection = server.address.replace("digits", "there")
    assert download(server.address, folder, on_step=lambda step: None).read_bytes() == server.content


def test_what_is_not_there_is_named(server: Server, folder: Path) -> None:
    with pytest.raises(InputError, match=r"must be there, the server answers 404 Not Found"):
        download(server.address.replace("digits", "missing"), folder, on_step=lambda step: None)
