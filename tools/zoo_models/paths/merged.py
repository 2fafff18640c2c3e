"""The merged decoder of optimum: one If, a branch with a cache and one without.

The weights of both branches lie in the main graph, equal ones once; the branches capture them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zoo_models.paths.path import Case, Source, all_sizes

if TYPE_CHECKING:
    from zoo_models.entry import ZooEntry


def merged(source: Source, output: Path) -> None:
    """Merge a decoder with a cache and its counterpart without, exported from the same weights."""
    with_past = onnx.load(source.path)
    without = onnx.load(_counterpart(source).path)
    weights: dict[str, TensorProto] = {}
    branches = [_branch(model, name, weights) for name, model in
                (("then", with_past), ("else", without))]  # fmt: skip
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    outputs = list(without.graph.output)
    node = helper.make_node(
        "If",
        ["use_cache_branch"],
        [value.name for value in outputs],
        then_branch=branches[0],
        else_branch=branches[1],
    )
    graph = helper.make_graph(
        [node], "merged", [*with_past.graph.input, flag], outputs, list(weights.values())
    )
    model = helper.make_model(
        graph, opset_imports=with_past.opset_import, ir_version=with_past.ir_version
    )
    onnx.save(model, output)


def cases(source: Source) -> dict[str, Case]:
    """Return the cases of both branches; the one without a cache gets an empty one."""
    found = {}
    for size, case in all_sizes(source).items():
        found[size] = Case({**case.inputs, "use_cache_branch": np.array([True])}, case.outputs)
    other = _counterpart(source)
    for size, inputs in other.inputs.items():
        batch = len(inputs["input_ids"])
        empty = {
            name: array[:1, :, :0].repeat(batch, 0)
            for name, array in source.inputs[size].items()
            if name.startswith("past")
        }
        given = {**inputs, **empty, "use_cache_branch": np.array([False])}
        found[f"{size}-prefill"] = Case(given, other.outputs[size])
    return found


def _counterpart(source: Source) -> ZooEntry:
    from zoo_models.building import entry_of

    name = source.path.stem.replace("-cache-", "-prefill-", 1)
    return entry_of(name, source.path.parent)


def _branch(
    model: onnx.ModelProto, prefix: str, weights: dict[str, TensorProto]
) -> onnx.GraphProto:
    """Return a graph without weights; those go to `weights`, by content."""
    inputs = {value.name for value in model.graph.input}
    renamed = {name: name for name in inputs}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        content = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        known = weights.setdefault(content.hexdigest(), tensor)
        renamed[tensor.name] = known.name
    outputs = []
    for value in model.graph.output:
        outputs.append(onnx.ValueInfoProto())
        outputs[-1].CopyFrom(value)
        outputs[-1].name = f"{prefix}_{value.name}"
    nodes = []
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{prefix}_{node.name}"
        copy.input[:] = [n and renamed.get(n, f"{prefix}_{n}") for n in node.input]
        copy.output[:] = [n and f"{prefix}_{n}" for n in node.output]
        nodes.append(copy)
    return helper.make_graph(nodes, prefix, [], outputs)
