"""Artifacts that take a camera's frames as they are, with the preprocessing before the finished network."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from lepton_converters import onnx_program, tflite_program
from lepton_converters.artifact import Artifact
from lepton_converters.artifact_runner import ArtifactRunner
from lepton_converters.conversion import LeftOut
from lepton_converters.dataset import Sample, open_dataset
from lepton_converters.frame_steps import add_frame_steps, fixed_size
from lepton_converters.keras_source import KerasSource
from lepton_converters.rewritten_artifact import rewritten
from lepton_converters.tensor_program import FROM_FRAME, Program, Tensor
from lepton_runtime.errors import InputError, UnsupportedError
from lepton_runtime.frame_input import FrameInput, PixelFormat
from lepton_runtime.preprocess import Preprocessing
from lepton_runtime.tensors import Array, TensorSpec

_FRAMES = 2  # golden ones: each may be a megabyte


def plan_frame(source: KerasSource, steps: Preprocessing | None, *, pixels: PixelFormat | None, size: tuple[int, ...] | None) -> FrameInput:
    """The frames that the artifacts are to take.

    Args:
        source: The model, as it is exported.
        steps: Its preprocessing, which the artifacts are to hold.
        pixels: The layout of a frame; ``rgb`` by default, ``gray`` for a model of gray pictures that converts none.
        size: Height and width of a frame; by default those of the model's picture.

    Raises:
        InputError: Pixels or size do not fit.
        UnsupportedError: The model takes no picture of one size, or any number of them.
    """
    if steps is None or steps.size is None or source.noise:
        raise UnsupportedError(f"--input uint8 is for a model of one picture, this one takes {', '.join(map(str, source.inputs))}")
    if source.inputs[0].shape[0] is None:
        raise UnsupportedError("--input uint8 needs a fixed number of frames a call, found --batch dynamic; give a number")
    wanted = fixed_size(steps)
    if size is not None and len(size) != 2:
        raise InputError(f"a frame's size is a height and a width in pixels, found {size!r}")
    if source.inputs[0].dtype not in ("float32", "float16", "float64", "uint8", "int32", "int64"):
        raise UnsupportedError(f"--input uint8 is for a model that can take numbers from 0 to 255, this one takes {source.inputs[0]}")
    is_kept = steps.color == "keep"
    frame = FrameInput(pixels or ("gray" if is_kept and steps.channels == 1 else "rgb"), (size[0], size[1]) if size else wanted, steps)
    if is_kept and steps.channels != (1 if frame.pixels == "gray" else 3):
        raise InputError(
            f"a frame of {frame.pixels} must have the {steps.channels} channels of the model, or be converted: "
            f"give --color {'gray' if steps.channels == 1 else 'rgb'}, or other --pixels"
        )
    if frame.size != wanted and steps.resize == "none":
        raise InputError(
            f"a frame of {frame.size[0]}×{frame.size[1]} must be resized to {wanted[0]}×{wanted[1]} (height × width); "
            "say how with --resize stretch, crop or pad"
        )
    add_frame_steps(Program(FROM_FRAME), Tensor("frame", (1, *frame.shape), "uint8"), frame)  # whether it can be done
    return frame


def with_frame(artifact: Artifact, frame: FrameInput) -> Artifact:
    """The artifact with the steps before it that make its input of a frame.

    Args:
        artifact: Of a network with one input of real numbers, or of bytes, and a fixed batch.
        frame: What it is to take.

    Raises:
        UnsupportedError: The steps cannot be computed inside of a network.
    """
    spec = _spec(frame, artifact.inputs[0].shape[0] or 1, artifact.outputs)
    program, given = Program(FROM_FRAME), Tensor(spec.name, (spec.shape[0] or 1, *frame.shape), spec.dtype)
    result = add_frame_steps(program, given, frame)
    made = rewritten(
        artifact,
        onnx_file=lambda model: onnx_program.put_before(model, program, given, result),
        tflite_file=lambda model: tflite_program.put_before(model, program, given, result),
    )
    return replace(made, inputs=(spec,))


def fold_frames(
    source: KerasSource, artifacts: Sequence[Artifact], frame: FrameInput, *, data: str | None, seed: int
) -> tuple[list[Artifact], dict[str, Array], list[LeftOut]]:
    """The artifacts with the steps before them, verified, arrays for ``golden.npz``, and those that an engine computes otherwise.

    Each gives, on frames, to the bit what it gave without the steps on pictures that were preprocessed in Python; so what is known of
    it in comparison with the Keras model goes on to hold.

    Args:
        source: The trained model.
        artifacts: Finished and verified.
        frame: What they are to take.
        data: Where samples are, as pictures; without them frames are noise.
        seed: Of the noise.

    Raises:
        InputError: The samples are no pictures.
    """
    (spec,) = source.inputs
    batch = spec.shape[0] or 1
    taken = _spec(frame, batch, source.outputs)
    frames = list(_frames(frame, taken, data=data, seed=seed, count=-(-_FRAMES // batch) * batch))
    pictures = [frame.unfolded(array) for array in frames]
    given = [Sample({taken.name: array}, None) for array in frames]
    wanted = [Sample({spec.name: array}, None) for array in pictures]
    golden = {f"input/{taken.name}": np.stack(frames)}
    golden |= {f"output/{name}": values for name, values in source.predict({spec.name: np.stack(pictures)}).items()}
    folded, faults = [], []
    for artifact in artifacts:
        made = with_frame(artifact, frame)
        answers, expected = ArtifactRunner(made).raw(given, batch), ArtifactRunner(artifact).raw(wanted, batch)
        if all(np.array_equal(values, expected[name], equal_nan=values.dtype.kind == "f") for name, values in answers.items()):
            golden |= {f"{made.file}/{name}": values for name, values in answers.items()}
            folded.append(made)
        else:
            faults.append(
                LeftOut(made.format, made.precision, "it answers frames otherwise than what Python makes of them: please report this")
            )
    return folded, golden, faults


def _spec(frame: FrameInput, batch: int, outputs: Sequence[TensorSpec]) -> TensorSpec:
    """The input, under a name that no output has."""
    is_taken = any(spec.name == "frame" for spec in outputs)
    return TensorSpec("camera_frame" if is_taken else "frame", (batch, *frame.shape), "uint8")


def _frames(frame: FrameInput, taken: TensorSpec, *, data: str | None, seed: int, count: int) -> Iterator[Array]:
    """Frames that a camera might send, spread over the data; noise where there is none."""
    if data is None:
        generator = np.random.default_rng(seed)
        yield from (generator.integers(0, 256, frame.shape, np.uint8) for _ in range(count))
        return
    dataset = open_dataset(data, inputs=[taken], preprocessing=frame)
    places = np.linspace(0, dataset.count - 1, count).astype(int).tolist()
    distinct = sorted(set(places))
    found = dict(zip(distinct, dataset.samples(distinct), strict=True))
    yield from (found[place].inputs[taken.name] for place in places)
