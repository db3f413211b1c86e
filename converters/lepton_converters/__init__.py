"""Turns a trained Keras model into a verified bundle; needs the ``[convert]`` extra.

>>> from lepton_converters import export
>>> result = export("cats.keras", "cats.bundle", calib="photos/")     # doctest: +SKIP
>>> [record.file for record in result.manifest.artifacts]             # doctest: +SKIP
['model.fp32.onnx', 'model.static-int8.onnx', …]

Read :func:`export` for the pipeline; each room it calls has one job.
"""

import lepton_runtime  # noqa: F401  # first of all: it keeps onnxruntime's telemetry out
from lepton_converters.conversion import LeftOut, Step
from lepton_converters.export import ExportResult, export
from lepton_converters.finetune import FinetuneResult, finetune

__all__ = ["ExportResult", "FinetuneResult", "LeftOut", "Step", "export", "finetune"]
