"""Number formats, opsets and static shapes."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zoo_models.paths.path import Case, Source, all_sizes


def float16(source: Source, output: Path) -> None:
    """Convert to float16 with onnxruntime's converter; inputs and outputs stay float32."""
    _half(source, output, keep=True)


def float16_all(source: Source, output: Path) -> None:
    """Convert to float16, inputs and outputs too."""
    _half(source, output, keep=False)


def _half(source: Source, output: Path, *, keep: bool) -> None:
    from onnxruntime.transformers import float16 as converter

    model = onnx.load(source.path)
    onnx.save(converter.convert_float_to_float16(model, keep_io_types=keep), output)


def _narrow(tensor: TensorProto) -> None:
    array = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
    tensor.CopyFrom(
        helper.make_tensor(
            tensor.name, TensorProto.BFLOAT16, array.shape, array.tobytes(), raw=True
        )
    )


def stored_bfloat16(source: Source, output: Path) -> None:
    """Store the weights as bfloat16 and cast them to float32 where they are used."""
    model = onnx.load(source.path)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.dims:
            name = tensor.name
            _narrow(tensor)
            tensor.name = f"{name}_bf16"
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    onnx.save(model, output)


def bfloat16(source: Source, output: Path) -> None:
    """Export the module in bfloat16; onnxruntime has few such kernels on a CPU."""
    import torch

    from zoo_models.exporting import export
    from zoo_models.modules import make_module

    def narrow(_: torch.nn.Module, arrays: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(a.bfloat16() if a.is_floating_point() else a for a in arrays)

    module = make_module(source.family)[0].to(torch.bfloat16)
    module.register_forward_pre_hook(narrow)
    export(module, output, "ts17", "eager")


def newer_opset(source: Source, output: Path) -> None:
    """Convert to opset 21 with onnx's version converter."""
    from onnx import version_converter

    onnx.save(version_converter.convert_version(onnx.load(source.path), 21), output)


def only_small(source: Source) -> dict[str, Case]:
    """Return the case of the small inputs, the only one that fits static shapes."""
    return {"small": all_sizes(source)["small"]}


def static_shapes(source: Source, output: Path) -> None:
    """Fix every dynamic axis at the size of the small inputs."""
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    model = onnx.load(source.path)
    for value in list(model.graph.input):
        shape = np.shape(source.inputs["small"].get(value.name, ()))
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shape, strict=False):
            if dim.dim_param:
                make_dim_param_fixed(model.graph, dim.dim_param, size)
    onnx.save(model, output)
