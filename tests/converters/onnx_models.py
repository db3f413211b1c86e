"""Small ONNX models for tests of rewrites, and what they answer."""

import numpy as np
import onnx
import onnxruntime


def answer(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def make(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int], outputs: dict[str, list[int]]) -> onnx.ModelProto:
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()]
    doors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, axes) for name, axes in {"x": shape, **outputs}.items()]
    graph = onnx.helper.make_graph(nodes, "g", doors[:1], doors[1:], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7)


node = onnx.helper.make_node
GENERATOR = np.random.default_rng(11)


def noise(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)
