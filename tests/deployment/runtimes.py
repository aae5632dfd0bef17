"""ONNX files in the runtimes that people use, and modules as ONNX files."""

import numpy as np
import torch

from fastrpn.deployment.onnx_operators import OPSET, translations


def onnxruntime(path):
    """Tensors -> the file's outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs):
        feeds = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feeds)]

    return run


def openvino(path):
    """Tensors -> the file's outputs. Else OpenVINO may compute in bfloat16."""
    import openvino

    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(*inputs):
        result = model([value.numpy() for value in inputs])
        return [torch.from_numpy(np.array(result[i])) for i in range(len(model.outputs))]

    return run


RUNTIMES = {"onnxruntime": onnxruntime, "openvino": openvino}


def to_onnx(module, inputs, path, dynamic_shapes=None, num_classes=2):
    """A module of our operators as an ONNX file."""
    program = torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes, strict=False)
    table = translations(num_classes)
    converted = torch.onnx.export(program, opset_version=OPSET, custom_translation_table=table)
    converted.save(path)
    return path
