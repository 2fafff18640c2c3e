"""One call of an operator and the model made of it; the sizes and inputs that calls share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"
B, S, T, H, HEADS, KV, D, P = 2, 5, 7, 16, 4, 2, 4, 3
IDS = np.array([[1, 5, 2, 0, 3], [4, 4, 1, 2, 6]], np.int32)


@dataclass(frozen=True, slots=True)
class FusedCall:
    """One call: arrays by input name in order, ``None`` for an absent input.

    Attributes:
        outputs: how many it gives; ``""`` in ``absent`` leaves some out.
        same: its body computes the same numbers; otherwise only shapes are compared.
        expected: what it gives, where onnxruntime cannot run it without a GPU.
    """

    op_type: str
    inputs: Mapping[str, np.ndarray | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    domain: str = MICROSOFT
    same: bool = True
    tolerance: float = 1e-5
    expected: Mapping[str, np.ndarray] | None = None


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return values.astype(np.float32)


X, W, V = floats(B, S, H), floats(H, H, seed=1), floats(H, seed=2)
HALF = floats(16, D // 2, seed=3), floats(16, D // 2, seed=4)
PLACES = np.tile(np.arange(S), (B, 1))


def save_call(call: FusedCall, path: Path) -> Path:
    """Save a graph of one call; matrices and vectors are constants, the rest graph inputs."""
    fed = {name: value for name, value in call.inputs.items() if value is not None}
    constants = [numpy_helper.from_array(v, n) for n, v in fed.items() if is_constant(n, v)]
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in fed.items()
        if not is_constant(name, value)
    ]
    names = [name if value is not None else "" for name, value in call.inputs.items()]
    node = helper.make_node(
        call.op_type, names, call.outputs, domain=call.domain, **call.attributes
    )
    outputs = [helper.make_empty_tensor_value_info(name) for name in call.outputs if name]
    graph = helper.make_graph([node], "call", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(MICROSOFT, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=11), path)
    return path


def is_constant(name: str, value: np.ndarray) -> bool:
    """Tell whether an input is a weight (float, of one or two axes, or ``kernel``) or a number."""
    return name == "kernel" or value.size == 1 or (value.dtype == np.float32 and value.ndim <= 2)
