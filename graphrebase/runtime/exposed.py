"""Intermediate values of a model as inputs and outputs, in memory: the file stays as it is.

Only the nodes between them, and the weights these read, are loaded: a session of one block of a
large model needs one block's memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphrebase.errors import InputError
from graphrebase.graph import Graph, build_graph
from graphrebase.io import Model
from graphrebase.io.graft import needed
from graphrebase.runtime.counts import reads_counts, token_counts
from graphrebase.runtime.flags import flags_off
from graphrebase.runtime.opened import opened
from graphrebase.runtime.session import Session, declared_outside

SHARED = 1 << 12
"""Bytes from which on a weight is given beside the model, not inside it."""
LIMIT = 2**31 - 1
"""Bytes of a serialized model that onnxruntime accepts from memory."""


def exposed(
    model: Model,
    values: Sequence[str],
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    given: Mapping[str, np.dtype] | None = None,
) -> Session:
    """Return a session whose outputs are the given values; switches of the model are off.

    Args:
        model: the model.
        values: names of values of its main graph, or of values inside its fused operators.
        weights: new values of some of its constants, by name.
        given: values of the main graph that become inputs, and their types; what leads to them
            is not loaded.

    Raises:
        InputError: the part cannot be loaded whole, or onnxruntime refuses it.
    """
    weights, given = weights or {}, given or {}
    unknown = sorted(set(weights) - set(model.tensors))
    if unknown:
        raise InputError(f"the model has no constant '{unknown[0]}'")
    whole = opened(model, set(values), set(given))
    chosen, names = needed(whole, values, set(given))
    nodes = [whole.node[place] for place in sorted(chosen)]
    names.update(name for node in nodes for name in node.output)
    made = {name for node in nodes for name in node.output} | {v.name for v in whole.input}
    hidden = [n for n in values if n not in made and n not in given and n not in model.tensors]
    if hidden:
        raise InputError(
            f"the value '{hidden[0]}' lies inside a branch or a loop and cannot be shown",
            where=str(model.path),
            hint="use --method anchored, which needs no activations",
        )
    part = onnx.ModelProto()
    part.CopyFrom(_shell(model.proto))
    part.graph.node.extend(nodes)
    part.graph.input.extend(v for v in whole.input if v.name in names and v.name not in given)
    part.graph.input.extend(
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), None)
        for name, dtype in given.items()
    )
    kept = {output.name: output for output in whole.output}
    part.graph.output.extend(
        kept.get(name) or helper.make_empty_tensor_value_info(name) for name in values
    )
    constants = {node.output[0]: node for node in part.graph.node if node.op_type == "Constant"}
    part.graph.sparse_initializer.extend(
        x for x in whole.sparse_initializer if x.values.name in names
    )
    initializers = {x.name for x in whole.initializer}
    size, shared = 0, dict[str, np.ndarray]()
    for name in sorted(names & (set(model.tensors) | initializers)):
        if name not in constants and name in model.tensors:
            array = _values(model, name, weights)
            if array.nbytes >= SHARED and array.dtype.isbuiltin == 1:
                shared[name] = array
                part.graph.initializer.append(declared_outside(name, array))
                continue
        tensor = numpy_helper.from_array(_values(model, name, weights), name)
        size += tensor.ByteSize()
        if size > LIMIT:
            raise InputError(
                "the model is too large to look inside it",
                where=str(model.path),
                hint="use --method anchored, which needs no activations",
            )
        if name in constants:
            constants[name].attribute[0].t.CopyFrom(tensor)
        else:
            part.graph.initializer.append(tensor)
    session = flags_off(Session(part.SerializeToString(), weights=shared))
    if reads_counts(model.proto.graph):
        session.counts = token_counts(build_graph(model))
    return session


def whole(path: Path, graph: Graph) -> Session:
    """Return a session of a model file with a known graph, its switches off.

    Weights in files of their own are mapped, not copied.
    """
    session = flags_off(Session(path))
    session.counts = token_counts(graph)
    return session


def _shell(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without its graph: opsets, functions and the like."""
    shell = onnx.ModelProto(ir_version=proto.ir_version, producer_name=proto.producer_name)
    shell.opset_import.extend(proto.opset_import)
    shell.functions.extend(proto.functions)
    shell.graph.name = proto.graph.name or "part"
    return shell


def _values(model: Model, name: str, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    reference = model.tensors[name]
    array = weights.get(name)
    return reference.load() if array is None else np.ascontiguousarray(array, reference.dtype)
