"""One function for each format: a traced program becomes a file."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import torch
from torch.export import ExportedProgram

from fastrpn.deployment.metadata import Metadata

__all__ = ["METADATA_FILE", "OUTPUTS", "write_aoti", "write_onnx", "write_torch"]

METADATA_FILE = "fastrpn.json"  # in a program's archive
OUTPUTS = ("boxes", "scores", "labels", "counts")


def write_torch(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """The program as `torch.export.load` reads it."""
    with warnings.catch_warnings():
        # Weights in channels_last are complete, though torch fears that they are not.
        warnings.filterwarnings("ignore", "No complete tensor found")
        torch.export.save(program, path, extra_files={METADATA_FILE: metadata.json()})


def write_aoti(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Compiled by AOTInductor; C++ reads its metadata, too."""
    path.unlink()  # the packager writes into a file that is there
    torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(path),
        inductor_configs={"aot_inductor.metadata": metadata.strings()},
    )


def write_onnx(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Standard operators, nothing of ours."""
    from fastrpn.deployment.onnx_operators import OPSET, translations

    image = "image" if metadata.size.batch is None else "images"
    with redirect_stdout(io.StringIO()):  # torch tells of every step
        converted = torch.onnx.export(
            program,
            input_names=[image],
            output_names=list(OUTPUTS[: 3 if metadata.size.batch is None else 4]),
            opset_version=OPSET,
            dynamo=True,
            custom_translation_table=translations(len(metadata.classes)),
        )
    assert converted is not None  # only torch's former exporter returns nothing
    shape = converted.model.graph.inputs[0].shape
    for axis, name in ((-2, "height"), (-1, "width")):
        if shape is not None and not isinstance(shape[axis], int):
            shape[axis] = name
    converted.model.metadata_props.update(metadata.strings())
    converted.save(path)
