"""Random small graphs that run in onnxruntime, drawn choice by choice.

A choice is made by any ``Pick`` (hypothesis in the tests, so that failures shrink). Weights are
float64, which leaves a wrong permutation nowhere to hide: a right one changes outputs by 1e-15 of
their scale. Sizes are few and repeat, so that axes of equal size meet where they should not.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper, numpy_helper

from random_graphs import layers, layout, products  # noqa: F401  (their steps enter the table)
from random_graphs.draft import STEPS, Draft, Pick, Value, size_of


def draw_graph(pick: Pick, *, steps: int = 8) -> onnx.ModelProto:
    """Return a random model of about ``steps`` operators (or small blocks of them)."""
    draft = Draft(pick)
    middle = pick(((), ("T",), (4,)))
    source = Value("x", ("B", *middle, 5))
    draft.values.append(source)
    current = draft.linear(source, pick((4, 8)), bias=True)
    names = tuple(STEPS)
    for _ in range(pick(range(2, steps + 1))):
        chosen = current if pick((True, True, False)) else pick(draft.values)
        STEPS[pick(names)](draft, chosen)
        current = draft.values[-1]
    used = {name for node in draft.nodes for name in node.input}
    ends = [v for v in draft.values if v.name not in used and v is not source] or [current]
    outputs = {finish(draft, v).name: None for v in ends[-3:]}
    return _model(draft, source, list(outputs))


def finish(draft: Draft, value: Value) -> Value:
    """Return a graph output made of a value, most often with its static axes contracted."""
    kind = draft.pick(("contract", "contract", "last", "flat", "mean", "direct"))
    if not value.static or kind == "direct":
        return value
    if kind == "last" and value.rank - 1 in value.static:
        return draft.linear(value, 3, bias=True)
    if kind == "flat" and value.static == list(range(value.rank - len(value.static), value.rank)):
        size = size_of(value.shape)
        flat = draft.reshape(value, (*value.shape[: value.static[0]], size))
        if flat is not None:
            return draft.linear(flat, 3, bias=False)
    if kind == "mean":
        axes = draft.ints([draft.pick(value.static)])
        shape = [n for i, n in enumerate(value.shape) if [i] != draft.integers[axes].tolist()]
        return draft.add("ReduceMean", [value.name, axes], shape, keepdims=0)
    letters = "abcdefgh"[: value.rank]
    used = "".join(letters[i] for i in value.static)
    rest = "".join(c for c in letters if c not in used)
    weight = draft.weight([int(value.shape[i]) for i in value.static] + [3], share=False)
    shape = [n for i, n in enumerate(value.shape) if i not in value.static] + [3]
    equation = f"{letters},{used}z->{rest}z"
    return draft.add("Einsum", [value.name, weight], shape, equation=equation)


def _model(draft: Draft, source: Value, outputs: Sequence[str]) -> onnx.ModelProto:
    stored = {**draft.weights, **draft.integers}
    graph = helper.make_graph(
        draft.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, list(source.shape))],
        [helper.make_tensor_value_info(n, TensorProto.DOUBLE, None) for n in outputs],
        [numpy_helper.from_array(v, n) for n, v in stored.items()],
    )
    opsets = [helper.make_opsetid("", draft.opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
