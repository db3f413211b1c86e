"""What reads bytes that others wrote, each with the errors that it may raise: any other is a fault."""

import tempfile
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lepton_edge.report.document import load_report
from lepton_runtime import Bundle, BundleError, InputError, LeptonError, Manifest, Preprocessing, SignatureError
from lepton_runtime.device_profile import UNREADABLE, parse_profiles
from lepton_runtime.engines.onnx_guard import check_onnx
from lepton_runtime.engines.tflite_guard import check_tflite
from lepton_runtime.frame_input import FrameInput
from lepton_runtime.golden import Golden
from lepton_runtime.signature import read_public_key, signers
from lepton_runtime.table import read_table
from lepton_runtime.tensors import TensorSpec

SPECS = [TensorSpec("color", (1, 1), "string"), TensorSpec("size", (1, 1), "float32"), TensorSpec("count", (1, 1), "int64")]


def _in_file(read: Callable[[Path], object], data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as file:
        file.write(data)
        file.flush()
        read(Path(file.name))


def _read_bundle(path: Path) -> None:
    bundle = Bundle.open(path)
    bundle.check()
    bundle.load_encoders()
    Golden.open(bundle)
    bundle.read_signatures()


def manifest(data: bytes) -> None:
    """A manifest, which writes itself as it was read."""
    with suppress(BundleError):
        found = Manifest.from_json(data)
        assert Manifest.from_json(found.to_json()).to_json() == found.to_json()


def bundle(data: bytes) -> None:
    """A zipped bundle, with its vocabularies, golden arrays and signatures."""
    with suppress(BundleError):
        _in_file(_read_bundle, data)


def preprocessing(data: bytes) -> None:
    """Preprocessing in TOML, and what it says of itself."""
    with suppress(InputError, UnicodeDecodeError):
        _in_file(lambda path: Preprocessing.from_dict(Preprocessing.from_toml(path)), data)
    with suppress(LeptonError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        FrameInput.from_dict(tomllib.loads(data.decode()))


def profiles(data: bytes) -> None:
    """What ``tune`` has measured."""
    with suppress(*UNREADABLE):
        parse_profiles(data)


def report(data: bytes) -> None:
    """A result of ``benchmark``."""
    with suppress(InputError):
        _in_file(load_report, data)


def signature(data: bytes) -> None:
    """Signatures of OpenSSH, and its public keys."""
    with suppress(SignatureError):
        signers(data)
    with suppress(InputError):
        read_public_key(data.decode(errors="replace"), name="key")


def table(data: bytes) -> None:
    """A table in CSV."""
    with suppress(InputError):
        _in_file(lambda path: read_table(path, SPECS), data)


def onnx(data: bytes) -> None:
    """An ONNX file, before an engine gets it."""
    with suppress(BundleError):
        check_onnx(data)


def tflite(data: bytes) -> None:
    """A TFLite file, before an engine gets it."""
    with suppress(BundleError):
        check_tflite(data)


READERS: dict[str, Callable[[bytes], None]] = {
    reader.__name__: reader for reader in (manifest, bundle, preprocessing, profiles, report, signature, table, onnx, tflite)
}
