"""The golden arrays of a bundle: a few inputs, and what the source model and each artifact answered."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lepton_runtime.bundle import Bundle
from lepton_runtime.errors import BundleError
from lepton_runtime.formats import Precision
from lepton_runtime.manifest import ArtifactRecord
from lepton_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from lepton_runtime.encoders import Encoder

_TOLERANCE = 1e-4  # in the unit of the outputs, for float arithmetic of another CPU


def golden_limit(record: ArtifactRecord) -> float:
    """How far answers may be from the golden ones; an integer kernel may round one step differently on another CPU."""
    return _TOLERANCE if record.precision in (Precision.FP32, Precision.FP16) else 1 / 64


def golden_fault(difference: float, limit: float) -> str:
    """Why answers are not the golden ones, in words; empty if they are."""
    return "" if difference <= limit else f"its answers differ by {difference:.1e} from the golden ones, {limit:.1e} are allowed"


class Answering(Protocol):
    """What a :class:`lepton_runtime.session.Session` is here."""

    @property
    def bundle(self) -> Bundle:
        """Where it comes from."""
        ...

    @property
    def artifact(self) -> ArtifactRecord:
        """Which of the bundle's models it is."""
        ...

    @property
    def encoders(self) -> "tuple[Encoder, ...]":
        """What makes its inputs of raw values."""
        ...

    def run(self, inputs: Mapping[str, Array], /) -> dict[str, Array]:
        """Named answers for named inputs."""
        ...


@dataclass(frozen=True)
class Golden:
    """The arrays of ``golden.npz``, by ``input/NAME``, ``output/NAME`` and ``FILE/NAME``; ``raw/NAME`` where encoders run."""

    arrays: dict[str, Array]

    @classmethod
    def open(cls, bundle: Bundle) -> "Golden":
        """The bundle's golden arrays.

        Raises:
            BundleError: The file is damaged or lacks an array.
        """
        try:
            with np.load(io.BytesIO(bundle.read(bundle.manifest.golden)), allow_pickle=False) as archive:
                arrays = dict(archive)
        except (ValueError, OSError, EOFError, TypeError, MemoryError, zipfile.BadZipFile) as error:
            raise BundleError(f"{bundle.manifest.golden.file!r} must be a NumPy archive of plain numbers: {error}") from error
        wanted = {f"input/{spec.name}" for spec in bundle.manifest.inputs}
        wanted |= {f"raw/{spec.name}" for spec in _raw_inputs(bundle)}
        wanted |= {f"{record.file}/{spec.name}" for record in bundle.manifest.artifacts for spec in record.outputs}
        if wanted - set(arrays):
            raise BundleError(f"{bundle.manifest.golden.file!r} must hold {min(wanted - set(arrays))!r}; export the bundle again")
        if any(array.ndim < 1 for array in arrays.values()) or {len(arrays[name]) for name in wanted} & {0}:
            raise BundleError(f"{bundle.manifest.golden.file!r} must hold at least one row of each array; export the bundle again")
        return cls(arrays)

    def batches(self, artifact: ArtifactRecord) -> list[dict[str, Array]]:
        """The inputs as that artifact takes them, one mapping a call."""
        inputs = {spec.name: spec.quantize(self.arrays[f"input/{spec.name}"]) for spec in artifact.inputs}
        batch = artifact.inputs[0].shape[0] or 1
        rows = len(next(iter(inputs.values())))
        return [{name: values[row : row + batch] for name, values in inputs.items()} for row in range(0, rows, batch)]

    def difference(self, session: Answering) -> float:
        """Largest difference between what a session answers here and what its file answered on export.

        As a share of the output's largest golden value, or absolute where that is below 1, as for probabilities.

        Raises:
            BundleError: The encoders give other inputs here than they did on export.
        """
        if session.encoders:
            self._check_encoders(session)
        largest = 0.0
        answers = [session.run(inputs) for inputs in self.batches(session.artifact)]
        is_sure = self._sure_places(session)
        for spec in session.artifact.outputs:
            found = np.concatenate([answer[spec.name] for answer in answers])
            expected = self.arrays[f"{session.artifact.file}/{spec.name}"]
            wanted, values = np.abs(spec.dequantize(expected)), found.astype(np.float64)
            unit = max(1.0, float(wanted[np.isfinite(wanted)].max(initial=0.0)))
            with np.errstate(invalid="ignore"):
                apart = np.abs(values - expected.astype(np.float64))
            apart[(found == expected) | (np.isnan(values) & np.isnan(expected))] = 0.0
            apart[np.isnan(apart)] = np.inf  # what is no number is far off
            if is_sure is not None and spec.name != "scores":
                apart[~is_sure] = 0.0
            difference = apart.max(initial=0.0) * (spec.scale or 1.0)
            largest = max(largest, float(difference) / unit)
        return largest

    def _sure_places(self, session: Answering) -> Array | None:
        """Of answers that models choose, those whose scores are so far from their neighbors' that rounding does not swap them.

        Returns:
            ``(rows, top_k)`` bool; ``None`` for models that give all scores.
        """
        answers = session.bundle.manifest.answers
        if answers is None or answers.top_k is None:
            return None
        scores = self.arrays[f"{session.artifact.file}/scores"].astype(np.float64)
        least = 2 * golden_limit(session.artifact) * max(1.0, float(np.abs(scores).max()))
        gaps: Array = scores[:, :-1] - scores[:, 1:] > least
        edge = np.ones((len(scores), 1), bool)
        is_sure: Array = np.concatenate([edge, gaps], axis=1) & np.concatenate([gaps, ~edge], axis=1)  # what follows the last is not known
        return is_sure

    def _check_encoders(self, session: Answering) -> None:
        from lepton_runtime.encoders import encode  # for texts and tables only

        raw = {spec.name: self.arrays[f"raw/{spec.name}"] for spec in _raw_inputs(session.bundle)}
        found = encode(session.encoders, raw)
        for encoder in session.encoders:
            expected = self.arrays.get(f"input/{encoder.output.name}")
            if expected is not None and not np.array_equal(found[encoder.output.name], expected):
                raise BundleError(
                    f"the encoders must give the recorded inputs for the recorded raw values, {encoder} gives others; "
                    "please report this, with the versions of lepton-edge and numpy here"
                )


def _raw_inputs(bundle: Bundle) -> tuple[TensorSpec, ...]:
    """What the encoders take; nothing for a bundle that has none."""
    manifest = bundle.manifest
    outputs = [record.output.name for record in manifest.encoders]
    taken = [spec for record in manifest.encoders for spec in record.inputs if spec.name not in outputs]
    return tuple({spec.name: spec for spec in taken}.values())
