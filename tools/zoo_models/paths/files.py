"""External data: in one file, and in one file per tensor."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from zoo_models.paths.path import Source


def one_file(source: Source, output: Path) -> None:
    """Store all weights in one file beside the model."""
    onnx.save_model(
        onnx.load(source.path),
        str(output),
        save_as_external_data=True,
        location=f"{output.name}.data",
        size_threshold=0,
    )


def many_files(source: Source, output: Path) -> None:
    """Store every weight in a file of its own."""
    model = onnx.load(source.path)
    for number, tensor in enumerate(model.graph.initializer):
        if not tensor.dims:
            continue
        raw = numpy_helper.to_array(tensor).tobytes()
        for field in ("float_data", "int32_data", "int64_data", "double_data"):
            tensor.ClearField(field)
        tensor.raw_data = raw
        set_external_data(tensor, f"{output.stem}.{number:03}.bin")
    onnx.save_model(model, str(output))
