"""What artifacts do before and behind the network: which of it is asked for, and how finished artifacts get it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lepton_converters.answer_plan import AnswerPlan, plan_answers
from lepton_converters.artifact import Artifact
from lepton_converters.conversion import LeftOut, Step
from lepton_converters.keras_source import KerasSource
from lepton_converters.recipe import IntegerIo
from lepton_runtime.answers import Answers
from lepton_runtime.errors import InputError
from lepton_runtime.frame_input import FrameInput, PixelFormat
from lepton_runtime.preprocess import Preprocessing
from lepton_runtime.tensors import Array

_ACTIVATIONS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}


@dataclass(frozen=True)
class Doors:
    """The steps before and behind the network that artifacts are to hold.

    Attributes:
        frame: What they take, if that is a camera's frame.
        answering: What they go on to, if not to the network's outputs.
    """

    frame: FrameInput | None
    answering: AnswerPlan | None

    @property
    def detects(self) -> bool:
        """Whether the answers are boxes."""
        return self.answering is not None and self.answering.boxes is not None

    def notes(self, *, is_evaluated: bool) -> list[str]:
        """What whoever reads the accuracy should know.

        Args:
            is_evaluated: Whether one was measured.
        """
        notes = []
        if self.frame and is_evaluated:
            notes.append(
                "the accuracy is that of pictures which are preprocessed at once; of the same pictures as frames, which are resized to "
                f"{self.frame.size[0]}×{self.frame.size[1]} first, it may be another"
            )
        if self.frame and self.frame.pixels == "gray" and self.frame.folded.channels == 3:
            notes.append("the frames are gray, the network was verified on pictures in color: it knows less than its accuracy says")
        return notes

    def fold(
        self,
        source: KerasSource,
        artifacts: list[Artifact],
        golden: Mapping[str, Array],
        *,
        data: str | None,
        seed: int,
        on_step: Callable[[Step], None],
    ) -> tuple[list[Artifact], Mapping[str, Array], list[LeftOut]]:
        """The artifacts with the steps, verified, the arrays for ``golden.npz``, and those that an engine computes otherwise than Python.

        Args:
            source: The trained model.
            artifacts: Finished and verified.
            golden: What they take and give without the steps.
            data: Where samples are.
            seed: Of frames where there are none.
            on_step: Told what is happening.

        Raises:
            InputError: The samples are no pictures.
        """
        from lepton_converters.answer_export import fold_answers  # they need onnx, which a device has not
        from lepton_converters.frame_export import fold_frames

        faults: list[LeftOut] = []
        if self.frame:
            on_step(Step("verify", "frames"))
            artifacts, golden, faults = fold_frames(source, artifacts, self.frame, data=data, seed=seed)
            on_step(Step("verify", "frames", f"{self.frame.pixels}, answered to the bit as Python preprocesses them", 1))
        if self.answering:
            on_step(Step("verify", "answers"))
            artifacts, golden, found = fold_answers(artifacts, self.answering, golden, outputs=source.outputs)
            faults = [*faults, *found]
            on_step(Step("verify", "answers", "as numpy makes them of the outputs", 1))
        return artifacts, golden, faults


@dataclass(frozen=True)
class DoorOptions:
    """What is asked for; see :func:`lepton_converters.export`."""

    input_: Literal["float", "uint8"]
    pixels: PixelFormat | None
    frame_size: tuple[int, ...] | None
    answers: Answers | None
    anchors: str | Path | None
    variances: Sequence[float] | None

    def check(self, io: IntegerIo) -> None:
        """Refuse options that do not go together.

        Raises:
            InputError: Some do not.
        """
        if self.input_ not in ("float", "uint8"):
            raise InputError(f"--input is float or uint8, found {self.input_!r}")
        if io != "float" and (self.input_ == "uint8" or self.answers):
            first = "--input uint8 is for frames as they are" if self.input_ == "uint8" else "steps behind the network take real numbers"
            raise InputError(f"{first}, --io {io} is for numbers that stand for others; leave one of both out")
        if self.input_ != "uint8" and (self.pixels or self.frame_size):
            raise InputError("--pixels and --frame-size are for --input uint8, found them without it")
        if self.anchors is not None and (self.answers is None or self.answers.boxes != "center_xywh"):
            raise InputError("--anchors are what boxes are offsets from: give --boxes center_xywh, too")
        if self.variances is not None and (self.anchors is None or len(self.variances) != 4 or not _are_positive(self.variances)):
            raise InputError(f"--variances are four numbers above 0 and given with --anchors, found {list(self.variances)}")

    def plan(self, source: KerasSource, steps: Preprocessing | None, labels: Sequence[str] | None) -> Doors:
        """What becomes of it for one model.

        Raises:
            InputError: Something does not fit the model.
            UnsupportedError: The model takes no pictures, or does not give such outputs.
        """
        from lepton_converters.frame_export import plan_frame

        frame = plan_frame(source, steps, pixels=self.pixels, size=self.frame_size) if self.input_ == "uint8" else None
        answering = None
        if self.answers:
            answering = plan_answers(
                source.outputs, self.answers, inputs=source.inputs, labels=labels, anchors=self.anchors, variances=self.variances
            )
            if self.answers.activation != "none":
                self._check_activation(source.last_operators[source.outputs.index(answering.scores)])
        return Doors(frame, answering)

    def _check_activation(self, last: str) -> None:
        assert self.answers is not None
        if last in _ACTIVATIONS:
            raise InputError(
                f"--activation {self.answers.activation} is for scores without one, the network ends in {_ACTIVATIONS[last]}; leave it out"
            )


def _are_positive(values: Sequence[float]) -> bool:
    return bool(np.isfinite(values).all() and np.greater(values, 0).all())
