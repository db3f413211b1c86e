"""Artifacts that give answers instead of a network's outputs: the steps behind the finished network."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lepton_converters import onnx_program, tflite_program
from lepton_converters.answer_arrays import answers_of
from lepton_converters.answer_plan import AnswerPlan
from lepton_converters.answer_steps import add_answer_steps
from lepton_converters.artifact import Artifact
from lepton_converters.artifact_runner import ArtifactRunner
from lepton_converters.conversion import LeftOut
from lepton_converters.dataset import Sample
from lepton_converters.rewritten_artifact import rewritten
from lepton_converters.tensor_program import TO_ANSWER, Program, Tensor
from lepton_runtime.tensors import Array, TensorSpec

_TOLERANCE = 1e-5  # of the largest value: exponentials are computed otherwise by each engine


def with_answers(artifact: Artifact, plan: AnswerPlan) -> Artifact:
    """The artifact with the steps behind it that make answers of its outputs.

    Args:
        artifact: Of a network that gives real numbers.
        plan: What to do with them.
    """
    program = Program(TO_ANSWER)
    taken = [Tensor(f"{TO_ANSWER}/{spec.name}", tuple(axis or 1 for axis in spec.shape), spec.dtype) for spec in artifact.outputs]
    given = add_answer_steps(program, {spec.name: value for spec, value in zip(artifact.outputs, taken, strict=True)}, plan)
    outputs = tuple(TensorSpec(name, value.shape, value.dtype) for name, value in given.items())
    made = rewritten(
        artifact,
        onnx_file=lambda model: onnx_program.put_behind(model, program, taken, given),
        tflite_file=lambda model: tflite_program.put_behind(model, program, taken, given),
    )
    return replace(made, outputs=outputs)


def fold_answers(
    artifacts: Sequence[Artifact], plan: AnswerPlan, golden: Mapping[str, Array], *, outputs: Sequence[TensorSpec]
) -> tuple[list[Artifact], dict[str, Array], list[LeftOut]]:
    """The artifacts with the steps behind them, verified, the arrays for ``golden.npz``, and those that an engine computes otherwise.

    On the golden inputs each gives what numpy makes of what it gave without the steps.

    Args:
        artifacts: Finished and verified.
        plan: What to do with their outputs.
        golden: Their inputs and outputs without the steps, and the Keras model's outputs.
        outputs: The Keras model's.
    """
    arrays = {name: values for name, values in golden.items() if name.startswith(("input/", "raw/"))}
    arrays |= {f"output/{name}": values for name, values in answers_of({s.name: golden[f"output/{s.name}"] for s in outputs}, plan).items()}
    folded, faults = [], []
    for artifact in artifacts:
        made = with_answers(artifact, plan)
        rows = len(golden[f"input/{artifact.inputs[0].name}"])
        samples = [Sample({spec.name: golden[f"input/{spec.name}"][row] for spec in artifact.inputs}, None) for row in range(rows)]
        found = ArtifactRunner(made).raw(samples, artifact.inputs[0].shape[0] or 1)
        wanted = answers_of({spec.name: golden[f"{artifact.file}/{spec.name}"] for spec in artifact.outputs}, plan)
        fault = next((name for name, values in wanted.items() if not _is_alike(found[name], values)), None)
        if fault is None:
            arrays |= {f"{made.file}/{name}": values for name, values in found.items()}
            folded.append(made)
        else:
            reason = f"its {fault!r} are not what numpy makes of the network's outputs: please report this"
            faults.append(LeftOut(made.format, made.precision, reason))
    return folded, arrays, faults


def _is_alike(found: Array, wanted: Array) -> bool:
    if wanted.dtype.kind in "iu":
        return np.array_equal(found, wanted)
    return np.allclose(found, wanted, rtol=0, atol=_TOLERANCE * max(1.0, float(np.abs(wanted).max())), equal_nan=True)
