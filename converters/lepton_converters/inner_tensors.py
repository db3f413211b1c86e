"""Activations inside of a converted file, and what each part of it makes of activations that are given."""

from collections.abc import Mapping
from typing import Protocol

from lepton_runtime.tensors import Array, TensorSpec


class InnerTensors(Protocol):
    """A file that can be looked into, and cut at the tensors that it was opened for."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Those that the file holds, by name; what it rounds to 8 bits with its scale and zero point. Shapes are left out."""
        ...

    def values(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors as the file holds them."""
        ...

    def values_apart(self, inputs: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, Array]:
        """The same, where whoever reads one of them gets what is given in its place.

        So the error of each is what its own part of the network adds: the rounding of what it takes, of its weights, and of what
        it makes.

        Args:
            inputs: Of the network.
            given: Of each tensor, real numbers.
        """
        ...

    def answers(self, inputs: Mapping[str, Array], errors: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of a float file, where whoever reads one of the tensors gets it with an error added.

        Args:
            inputs: Of the network.
            errors: Of each tensor, of its shape.
        """
        ...
