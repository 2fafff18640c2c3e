"""Sizes of the inputs under the two probes.

They follow the declared symbols; where those do not fit together, what most models share; and they
grow until convolutions leave something of them (sound is read with strides of 320 samples).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence, Set

import numpy as np

from graphrebase.graph.view import Graph

Dim = tuple[int, int]
Shapes = Mapping[str, Sequence[int]]

#: Sizes of the dynamic dimensions under the two probes, in order of first appearance. All differ,
#: within a probe and between the probes; small, so that learned position tables are long enough.
PROBES: tuple[Dim, ...] = ((2, 3), (5, 7), (11, 13), (17, 19), (23, 29), (31, 37), (41, 43))

#: Operators that shorten what they slide over.
_WINDOWED = {"AveragePool", "Conv", "ConvInteger", "LpPool", "MaxPool", "QLinearConv"}

#: How often an input is doubled at most.
MOST_DOUBLINGS = 12


def input_dims(graph: Graph) -> dict[str, tuple[Dim, ...]]:
    """Return the probe sizes of every graph input; equal symbols get equal sizes.

    A symbol that is a sum of others ("past_length + length", as optimum writes) is evaluated.
    """
    sizes: dict[str, Dim] = {}
    found: dict[str, list[str | int]] = {}
    for name, value in graph.inputs.items():
        dims = value.type.tensor_type.shape.dim
        found[name] = [
            d.dim_value if d.HasField("dim_value") else d.dim_param or f"{name}.{i}"
            for i, d in enumerate(dims)
        ]
    symbols = [d for dims in found.values() for d in dims if isinstance(d, str)]
    for symbol in sorted(dict.fromkeys(symbols), key=lambda s: "+" in s):
        terms = [t.strip() for t in re.split(r"\+", symbol)]
        if len(terms) > 1 and all(t in sizes or t.isdigit() for t in terms):
            pairs = [sizes.get(t) or (int(t), int(t)) for t in terms]
            sizes[symbol] = (sum(p[0] for p in pairs), sum(p[1] for p in pairs))
        else:
            spare = [p for p in PROBES if p not in sizes.values()]
            last = PROBES[-1][0] + 2 * len(sizes)
            sizes[symbol] = spare[0] if spare else (last, last + 1)
    return {
        name: tuple(sizes[d] if isinstance(d, str) else (d, d) for d in dims)
        for name, dims in found.items()
    }


def short_inputs(graph: Graph, first: Shapes, second: Shapes) -> Set[str]:
    """Return the inputs too short for a convolution: no position is left, or one size for both.

    Args:
        graph: the graph.
        first: shape of every value known under the first probe.
        second: the same under the second probe.
    """
    for node in graph.nodes:
        source, result = node.input(0), node.outputs[0]
        if node.op_type not in _WINDOWED or node.domain:
            continue
        if source not in first or source not in second:
            continue
        left = list(zip(first.get(result, ())[2:], second.get(result, ())[2:], strict=False))
        read = zip(first[source][2:], second[source][2:], strict=False)
        for place, (one, other) in enumerate(read):
            kept = left[place] if place < len(left) else (0, 0)
            if one != other and (min(kept) < 1 or kept[0] == kept[1]):
                return _feeding(graph, source)
    return set()


def _feeding(graph: Graph, value: str) -> Set[str]:
    """Return the graph inputs that a value is computed from."""
    stack, seen = [value], {value}
    while stack:
        node = graph.producers.get(stack.pop())
        fresh = [n for n in node.inputs if n not in seen] if node else []
        seen.update(fresh)
        stack.extend(fresh)
    return seen & set(graph.inputs)


def doubled(dims: Mapping[str, tuple[Dim, ...]], short: Set[str]) -> dict[str, tuple[Dim, ...]]:
    """Return input sizes with every dynamic size of the ``short`` inputs doubled.

    The leading size counts samples, not positions. Inputs that share a size keep sharing it.
    """
    grown = {d for name in short for d in dims[name][1:] if d[0] != d[1]}
    return {
        name: tuple((2 * d[0], 2 * d[1]) if d in grown else d for d in sizes)
        for name, sizes in dims.items()
    }


def without_baked(
    graph: Graph,
    shapes: Mapping[str, Sequence[Dim]],
    values: Mapping[str, tuple[np.ndarray, np.ndarray]],
    dims: Mapping[str, tuple[Dim, ...]],
) -> dict[str, tuple[Dim, ...]]:
    """Return input sizes with those static that an exporter took for constants.

    torch.nn.MultiheadAttention is traced with the length of the sample: whatever is declared, the
    model runs at this length only. A Reshape to ``(6, B * h, d)`` tells, whose number of elements
    is off by 6 to the length.

    Args:
        graph: the graph.
        shapes: its shapes, inferred with these input sizes.
        values: its folded values.
        dims: input sizes.
    """
    dynamic = {d for sizes in dims.values() for d in sizes if d[0] != d[1]}
    for node in graph.nodes:
        if node.op_type != "Reshape" or node.domain or node.inputs[1] not in values:
            continue
        targets, given = values[node.inputs[1]], shapes.get(node.inputs[0])
        if given is None or any((target < 1).any() for target in targets):
            continue
        there = [math.prod(size[which] for size in given) for which in (0, 1)]
        wanted = [int(target.prod()) for target in targets]
        constants = set(targets[0].tolist()) & set(targets[1].tolist())
        for size, constant in itertools.product(dynamic, sorted(constants)):
            if all(there[i] * constant == wanted[i] * size[i] for i in (0, 1)):
                fixed = (constant, constant)
                return {n: tuple(fixed if d == size else d for d in s) for n, s in dims.items()}
    return dict(dims)


def shared(dims: Mapping[str, tuple[Dim, ...]]) -> dict[str, tuple[Dim, ...]]:
    """Return input sizes as most models have them, for models that name every size apart.

    One batch for all inputs, one length for the matrices (token ids), one for the caches (of rank
    4 and more); masks are as long as both. A wrong guess is harmless: then shapes stay unknown.
    """
    dynamic = {n: [d if d[0] != d[1] else None for d in sizes] for n, sizes in dims.items()}
    batch = next((s[0] for s in dynamic.values() if s and s[0]), None)
    length = next((s[1] for s in dynamic.values() if len(s) == 2 and s[1]), None)
    past = next((d for s in dynamic.values() if len(s) > 3 for d in s[1:] if d), None)
    whole = (length[0] + past[0], length[1] + past[1]) if length and past else length
    return {
        name: tuple(
            _shared_size(name, place, len(sizes), batch, length, past, whole) or size
            if size[0] != size[1]
            else size
            for place, size in enumerate(sizes)
        )
        for name, sizes in dims.items()
    }


def _shared_size(
    name: str,
    place: int,
    rank: int,
    batch: Dim | None,
    length: Dim | None,
    past: Dim | None,
    whole: Dim | None,
) -> Dim | None:
    if place == 0:
        return batch
    if rank == 2:
        return whole if "mask" in name.lower() else length
    return past if rank > 3 else None
