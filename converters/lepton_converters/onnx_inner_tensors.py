"""Activations inside of ONNX files (NCHW); see :class:`lepton_converters.inner_tensors.InnerTensors`."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime

from lepton_converters.onnx_artifact import silent_options
from lepton_runtime.tensors import Array, TensorSpec


class _Place(NamedTuple):
    """Where a tensor is in a graph: its real numbers, and the node that rounds them to 8 bits, if there is one."""

    real: str
    quantize: onnx.NodeProto | None


class OnnxInnerTensors:
    """A float graph, or one with QuantizeLinear and DequantizeLinear pairs."""

    def __init__(self, model: bytes, names: Sequence[str]) -> None:
        """Find tensors in a file.

        Integers are handed out as they leave a QuantizeLinear: onnxruntime goes on to compute in 8 bits then, as it does on a device.

        Args:
            model: The file's content.
            names: Of the tensors, as the float graph calls them; not all need be there.
        """
        self._model = onnx.load_from_string(model)
        places = {name: _find(self._model.graph, name) for name in names}
        self._places = {name: place for name, place in places.items() if place is not None}
        self.specs = {name: _spec(self._model.graph, name, place) for name, place in self._places.items()}

    def values(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors as the file holds them."""
        return dict(zip(self._places, map(np.asarray, self._whole.run(None, dict(inputs))), strict=True))

    def values_apart(self, inputs: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, Array]:
        """The same, each from the others that are given."""
        feeds = {f"{name}/given": given[name] for name in self._places}
        taken = {value.name for value in self._apart.get_inputs()}
        feeds = {name: value for name, value in {**inputs, **feeds}.items() if name in taken}
        return dict(zip(self._places, map(np.asarray, self._apart.run(None, feeds)), strict=True))

    def answers(self, inputs: Mapping[str, Array], errors: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs, with an error added to each tensor."""
        feeds = {**inputs, **{f"{name}/error": errors[name] for name in self._places}}
        names = [value.name for value in self._model.graph.output]
        return dict(zip(names, map(np.asarray, self._disturbed.run(None, feeds)), strict=True))

    @cached_property
    def _disturbed(self) -> onnxruntime.InferenceSession:
        moved = {place.real: f"{name}/moved" for name, place in self._places.items()}
        model = self._read_instead(moved, inputs=[f"{name}/error" for name in self._places])
        for name, place in self._places.items():
            model.graph.node.append(onnx.helper.make_node("Add", [place.real, f"{name}/error"], [f"{name}/moved"]))
        return _session(model, [moved.get(value.name, value.name) for value in self._model.graph.output])

    @cached_property
    def _whole(self) -> onnxruntime.InferenceSession:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        return _session(model, [place.quantize.output[0] if place.quantize else place.real for place in self._places.values()])

    @cached_property
    def _apart(self) -> onnxruntime.InferenceSession:
        given = {place.real: f"{name}/given" for name, place in self._places.items()}
        model = self._read_instead(given, inputs=[*given.values()])
        outputs = []
        for name, place in self._places.items():
            outputs.append(f"{name}/rounded" if place.quantize else place.real)
            if place.quantize:  # whoever reads the old one reads what is given
                added = model.graph.node.add()
                added.CopyFrom(place.quantize)
                added.name = added.output[0] = outputs[-1]
        return _session(model, outputs)

    def _read_instead(self, others: Mapping[str, str], *, inputs: Sequence[str]) -> onnx.ModelProto:
        """The graph with those inputs of real numbers more, in which whoever reads a tensor reads another."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for node in model.graph.node:
            node.input[:] = [others.get(name, name) for name in node.input]
        model.graph.input.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs)
        return model


def _session(model: onnx.ModelProto, outputs: Sequence[str]) -> onnxruntime.InferenceSession:
    """The graph with those outputs, whose types onnxruntime finds itself."""
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return onnxruntime.InferenceSession(model.SerializeToString(), silent_options(), providers=["CPUExecutionProvider"])


def _find(graph: onnx.GraphProto, name: str) -> _Place | None:
    """Where a tensor of the float graph is.

    Quantization leaves the name to the real numbers before a pair; at the outputs of the network, to what comes out of it, or to
    the integers.
    """
    makers = {output: node for node in graph.node for output in node.output}
    maker = makers.get(name)
    if maker is not None and maker.op_type == "DequantizeLinear":
        maker = makers.get(maker.input[0])
        if maker is None or maker.op_type != "QuantizeLinear":
            return None
    if maker is None:
        return None
    if maker.op_type == "QuantizeLinear":
        return _Place(maker.input[0], maker)
    quantizes = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == name]
    return _Place(name, quantizes[0] if quantizes else None)


def _spec(graph: onnx.GraphProto, name: str, place: _Place) -> TensorSpec:
    if place.quantize is None:
        return TensorSpec(name, (), "float32")
    constants = {tensor.name: tensor for tensor in graph.initializer}
    scale, zero_point = (onnx.numpy_helper.to_array(constants[given]) for given in place.quantize.input[1:3])
    return TensorSpec(name, (), zero_point.dtype.name, float(scale), int(zero_point))
