"""Every error that lepton-edge raises on purpose, with the exit code its commands end with.

::

    LeptonError (1)
      - BundleError (1)        a bundle is missing, damaged, or too new
          - SignatureError (1) it is not signed with a trusted key
      - InputError (1)         an array or a file does not fit
      - OutputError (1)        a result cannot be written
      - MissingExtraError (1)  an optional package is not installed
      - CallTimeoutError (1)   a call took longer than it may, and was stopped
      - StreamError (1)        a source of frames fails, or frames or answers are late
      - RemoteError (1)        another machine cannot be reached, or cannot do what it is asked for
      - ParityError (3)        outputs, or accuracy, differ more than allowed
      - RegressionError (4)    slower than the baseline allows
      - UnstableError (5)      a measurement cannot be trusted
      - UnsupportedError (6)   a model, layer or op cannot be converted

Exit code 0 is success, 2 is wrong usage of a command, 130 is interrupted. The warnings are TargetWarning, ProfileWarning
and SelfcheckWarning.
"""


class LeptonError(Exception):
    """Base of the tree; its text says what must hold, what was found and what to do."""

    exit_code = 1


class BundleError(LeptonError):
    """A bundle is missing, damaged, or too new for this version."""


class SignatureError(BundleError):
    """A bundle is not signed with a trusted key, or was changed after it was."""


class InputError(LeptonError):
    """An array or a file does not fit what takes it."""


class OutputError(LeptonError):
    """A result cannot be written where it was asked for."""


class MissingExtraError(LeptonError):
    """An optional package is needed; the text names the command that installs it."""


class CallTimeoutError(LeptonError):
    """A call of a session took longer than it may, and was stopped."""


class StreamError(LeptonError):
    """A camera or another source of frames fails, or a frame or an answer is later than allowed."""


class RemoteError(LeptonError):
    """Another machine cannot be reached, or cannot do what it is asked for."""


class ParityError(LeptonError):
    """An artifact's outputs, or its accuracy, differ from the source model's more than allowed."""

    exit_code = 3


class RegressionError(LeptonError):
    """A latency is higher than the baseline allows, and surely so."""

    exit_code = 4


class UnstableError(LeptonError):
    """A measurement cannot be trusted: throttled, disturbed, or by a clock that fails."""

    exit_code = 5


class UnsupportedError(LeptonError):
    """A model, layer or op cannot be converted as it was asked for."""

    exit_code = 6


class TargetWarning(UserWarning):
    """An artifact runs on a CPU that it was not made for, and its answers may be wrong."""


class ProfileWarning(UserWarning):
    """A device profile is there and does not hold, so that a bundle is opened as if there were none."""


class SelfcheckWarning(UserWarning):
    """An artifact does not answer on this machine as it did on export, and another is opened in its place."""
