"""Whether permuting a model by its own symmetry groups leaves its outputs alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
from onnx import numpy_helper

from graphrebase.graph import build_graph
from graphrebase.io import read_model
from graphrebase.symmetry import Symmetry, find_symmetry, permute_array, random_permutations

#: (B, T) of the two runs; neither is a size that shape inference tries.
RUNS = ((4, 6), (1, 9))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What permuting changed.

    Attributes:
        error: largest change of an output, relative to the output's scale.
        groups: number of groups found.
        inner: how many of them are groups inside each index of another.
    """

    error: float
    groups: int
    inner: int


def permuted_weights(symmetry: Symmetry, seed: int) -> dict[str, np.ndarray]:
    """Return the constants that move, permuted by a random element of every group."""
    leaves = [leaf for group in symmetry.groups for leaf in group.leaves]
    chosen = random_permutations(leaves, seed)
    moved = {}
    for name, axes in symmetry.constants.items():
        stored = symmetry.graph.constants[name].load()
        moved[name] = permute_array(stored, axes, chosen, symmetry.solver)
    return moved


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """Return a session that runs the graph as it is written."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def relative_change(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """Return the largest difference between outputs, relative to each output's scale.

    The scale is at least 1e-3: the mean of a centred value is rounding noise.
    """
    worst = 0.0
    for name, old in before.items():
        scale = float(np.abs(old).max(initial=1e-3))
        change = float(np.abs(after[name] - old).max(initial=0.0))
        worst = max(worst, change / scale if np.isfinite(scale) else 0.0)
    return worst


def with_weights(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return a copy of a model with some initializers and Constant tensors replaced."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    for node in copy.graph.node:
        if node.op_type == "Constant" and node.output[0] in weights:
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(weights[node.output[0]]))
    return copy


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a model as it is written and return its outputs by name."""
    session = open_session(model.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def violation(path: Path, seed: int = 0, *, leave_out: bool = False) -> Outcome:
    """Return how much a random graph's outputs change under its own symmetry groups.

    With ``leave_out`` the first constant of the first group stays as it is, the control.
    """
    symmetry = find_symmetry(build_graph(read_model(path)))
    model, weights = onnx.load(path), permuted_weights(symmetry, seed)
    if leave_out:
        del weights[symmetry.groups[0].members[0].tensor]
    moved = with_weights(model, weights)
    rng = np.random.default_rng(seed)
    sessions = [open_session(m.SerializeToString()) for m in (model, moved)]
    names = [value.name for value in sessions[0].get_outputs()]
    error = 0.0
    for batch, length in RUNS:
        sizes = {"B": batch, "T": length}
        shape = [sizes.get(n, n) for n in sessions[0].get_inputs()[0].shape]
        feed = {"x": rng.normal(size=shape)}
        before, after = (dict(zip(names, s.run(names, feed), strict=True)) for s in sessions)
        error = max(error, relative_change(before, after))
    inner = sum(group.over is not None for group in symmetry.groups)
    return Outcome(error, len(symmetry.groups), inner)
