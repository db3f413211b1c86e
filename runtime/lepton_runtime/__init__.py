"""Runs a bundle on the device, with numpy and onnxruntime only.

>>> from lepton_runtime import Session
>>> session = Session.open("cats.bundle")                  # doctest: +SKIP
>>> session.predict("cat.jpg")[0]                          # doctest: +SKIP
Prediction(label='cat', score=0.97)

Read :class:`Session` for a loaded model, :class:`Stream` for a camera's frames, :class:`Bundle` for what lies on disk,
:class:`Manifest` for what a bundle says about itself, and :mod:`lepton_runtime.errors` for what can go wrong.
"""

import os

# onnxruntime 1.32 writes a device ID and a database into the user's cache folder and tells its makers of each session, unless this is
# set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from lepton_runtime.answers import Answers, Detection
from lepton_runtime.bundle import Bundle
from lepton_runtime.engines.budget import ThreadBudget
from lepton_runtime.errors import (
    BundleError,
    CallTimeoutError,
    InputError,
    LeptonError,
    MissingExtraError,
    OutputError,
    ParityError,
    ProfileWarning,
    RegressionError,
    SelfcheckWarning,
    SignatureError,
    StreamError,
    TargetWarning,
    UnstableError,
    UnsupportedError,
)
from lepton_runtime.formats import Format, Precision, Target
from lepton_runtime.frame_input import FrameInput
from lepton_runtime.frames import Camera, Folder, Frame, Video
from lepton_runtime.labels import Prediction
from lepton_runtime.manifest import Manifest
from lepton_runtime.preprocess import Preprocessing
from lepton_runtime.session import Session
from lepton_runtime.stream import Answer, Stream
from lepton_runtime.tensors import TensorSpec

__all__ = [
    "Answer",
    "Answers",
    "Bundle",
    "BundleError",
    "CallTimeoutError",
    "Camera",
    "Detection",
    "Folder",
    "Format",
    "Frame",
    "FrameInput",
    "InputError",
    "LeptonError",
    "Manifest",
    "MissingExtraError",
    "OutputError",
    "ParityError",
    "Precision",
    "Prediction",
    "Preprocessing",
    "ProfileWarning",
    "RegressionError",
    "SelfcheckWarning",
    "Session",
    "SignatureError",
    "Stream",
    "StreamError",
    "Target",
    "TargetWarning",
    "TensorSpec",
    "ThreadBudget",
    "UnstableError",
    "UnsupportedError",
    "Video",
]
