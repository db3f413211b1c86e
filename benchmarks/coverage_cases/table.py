"""All rows of the coverage table, in its order, and the layer classes that have none."""

from typing import Any

from coverage_cases import layers, networks, operations, preprocessing, sequences
from coverage_cases.case import Case

GROUPS = {
    "networks": (networks.cases,),
    "layers": (layers.cases, sequences.cases, preprocessing.cases, operations.cases),
}
EXCUSED = {
    "Layer": "the base class of all layers",
    "Wrapper": "a base class; its children have rows",
    "InputSpec": "describes what a layer takes, and is no layer",
    "Equalization": "Keras 3.15 cannot build a functional model with it: it gives back the very tensor that it was given",
    "FlaxLayer": "runs code of another framework (Flax on JAX), which no Keras file holds",
    "JaxLayer": "runs code of another framework (JAX), which no Keras file holds",
    "TorchModuleWrapper": "runs code of another framework (PyTorch), which no Keras file holds",
    "TFSMLayer": "points at a SavedModel folder, which no Keras file holds; the folder itself is a source",
}
"""Classes of ``keras.layers`` that cannot stand in an inference graph by themselves, and why."""


def all_cases() -> dict[str, Case]:
    """Every case by its name.

    Raises:
        ValueError: Two have the same name.
    """
    cases = [case for makers in GROUPS.values() for make in makers for case in make()]
    named = {case.name: case for case in cases}
    if len(named) != len(cases):
        raise ValueError("cases must have names of their own")
    return named


def group_of(name: str) -> str:
    """``networks`` or ``layers``."""
    return "networks" if name in networks.NETWORKS else "layers"


def layer_classes(keras: Any) -> list[str]:
    """The classes in ``keras.layers``, each once: under its own name, or that which it is public under."""
    names: dict[type, list[str]] = {}
    for name, value in sorted(vars(keras.layers).items()):
        if isinstance(value, type):
            names.setdefault(value, []).append(name)
    return sorted(value.__name__ if value.__name__ in public else public[0] for value, public in names.items())
