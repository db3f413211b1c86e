"""The wheel of the lepton-edge that runs here, whether it was installed from one or is a checkout."""

import base64
import hashlib
import io
import zipfile
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

DISTRIBUTION = "lepton-edge"
_PACKAGES = ("lepton_edge", "lepton_converters", "lepton_runtime")
_METADATA = ("METADATA", "entry_points.txt", "licenses/LICENSE")
_KIND = "Wheel-Version: 1.0\nGenerator: lepton-edge\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_DATE = (1980, 1, 1, 0, 0, 0)  # the same bytes for the same content


def build_wheel() -> tuple[str, bytes]:
    """Its file's name and content.

    Source: the binary distribution format, packaging.python.org/specifications/binary-distribution-format.
    """
    installed = distribution(DISTRIBUTION)
    name = f"{DISTRIBUTION.replace('-', '_')}-{installed.version}"
    contents: dict[str, bytes] = {}
    for package in _PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        for root in map(Path, spec.submodule_search_locations or ()):
            for path in sorted(root.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    contents[f"{package}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    texts = {entry: installed.read_text(entry) for entry in _METADATA}
    contents |= {f"{name}.dist-info/{entry}": text.encode() for entry, text in texts.items() if text is not None}
    contents[f"{name}.dist-info/WHEEL"] = _KIND.encode()
    record = f"{name}.dist-info/RECORD"
    contents[record] = ("".join(_record_line(place, data) for place, data in contents.items()) + f"{record},,\n").encode()
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, data in contents.items():
            archive.writestr(zipfile.ZipInfo(place, _DATE), data, zipfile.ZIP_DEFLATED)
    return f"{name}-py3-none-any.whl", wheel.getvalue()


def _record_line(path: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(data)}\n"
