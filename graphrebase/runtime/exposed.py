"""Intermediate values of a model as outputs, in memory: the file stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphrebase.errors import InputError
from graphrebase.io import Model
from graphrebase.runtime.session import Session

LIMIT = 2**31 - 1
"""Bytes of a serialized model that onnxruntime accepts from memory."""


def exposed(
    model: Model, values: Sequence[str], weights: Mapping[str, np.ndarray] | None = None
) -> Session:
    """Return a session whose outputs are the given values; nodes after them do not run.

    Args:
        model: the model.
        values: names of values of its main graph.
        weights: new values of some of its constants, by name.

    Raises:
        InputError: the model cannot be loaded whole, or onnxruntime refuses it.
    """
    proto = _load(model.path)
    for name, array in (weights or {}).items():
        _replace(proto, name, array)
    kept = {output.name: output for output in proto.graph.output}
    outputs = [kept.get(name) or helper.make_empty_tensor_value_info(name) for name in values]
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    if proto.ByteSize() > LIMIT:
        raise InputError(
            "the model is too large to look inside it",
            where=str(model.path),
            hint="use --method anchored, which needs no activations",
        )
    return Session(proto.SerializeToString())


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(str(path))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(f"cannot load the model: {error}", where=str(path)) from None


def _replace(proto: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            _overwrite(tensor, array)
            return
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.output[0] == name:
            _overwrite(node.attribute[0].t, array)
            return
    raise InputError(f"the model has no constant '{name}'")


def _overwrite(tensor: TensorProto, array: np.ndarray) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(array, dtype), tensor.name))
