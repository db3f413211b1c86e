"""A look at calibration data while it is used, for what makes ranges useless."""

from collections.abc import Mapping

import numpy as np

from lepton_converters.artifact_runner import best_classes
from lepton_converters.calibration import Calibration, grouped, stack
from lepton_converters.calibration_doubts import find_doubts
from lepton_converters.keras_source import KerasSource
from lepton_converters.tensor_statistics import TensorStatistics
from lepton_runtime.labels import class_output
from lepton_runtime.preprocess import Preprocessing

_GROUP = 32  # samples that Keras answers at once


class CalibrationReview:
    """Collects what looks wrong with the calibration data of one export.

    Attributes:
        found: What the person who exports should be told.
    """

    def __init__(self, source: KerasSource, calibration: Calibration, preprocessing: Preprocessing | None) -> None:
        self.found: tuple[str, ...] = ()
        self._source, self._calibration, self._preprocessing = source, calibration, preprocessing
        self._is_done = False

    def look_at(self, statistics: Mapping[str, TensorStatistics]) -> None:
        """Judge the data by what is known of a network's activations; those of the first network will do."""
        if self._is_done:
            return
        self._is_done = True
        source, count = self._source, 0
        specs = [spec for spec in source.inputs if np.dtype(spec.dtype).kind == "f"]
        inputs = {spec.name: TensorStatistics(spec.name, channel_axis=_channel_axis(spec.shape)) for spec in specs}
        classes = class_output(source.outputs) if source.has_class_scores() else None
        best = np.zeros(max(2, (classes.shape[1] or 2) if classes else 2), np.int64)
        for group in grouped(self._calibration.samples(), _GROUP):
            batch = stack(group, len(group))
            for name, entry in inputs.items():
                entry.add(batch[name], first_sample=count)
            if classes is not None:
                best += np.bincount(best_classes(source.predict(batch), classes), minlength=len(best))
            count += len(group)
        self.found = tuple(
            find_doubts(
                {**statistics, **inputs},
                inputs=source.inputs,
                outputs=source.outputs,
                samples=len(self._calibration.indices),
                distinct_samples=self._calibration.distinct,
                preprocessing=self._preprocessing,
                takes_raw_pixels=source.takes_raw_pixels,
                best_counts=best if classes is not None else None,
            )
        )


def _channel_axis(shape: tuple[int | None, ...]) -> int | None:
    """Of an input: the axis of a picture's colors, or the last."""
    if len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] not in (1, 3, 4):
        return 1
    return len(shape) - 1 if len(shape) > 1 else None
