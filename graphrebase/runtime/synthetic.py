"""Inputs made up for a model: random, reproducible, and inside its lookup tables."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import product

import numpy as np

from graphrebase.errors import UsageError, VerificationError
from graphrebase.graph import Graph, Node
from graphrebase.runtime.counts import count_tokens, token_counts
from graphrebase.runtime.fillers import any_index, filler, position
from graphrebase.runtime.flags import is_flag
from graphrebase.runtime.session import InputSpec, Session

_VOCABULARY = 64
_BATCHES = (1, 3)
_LENGTHS = (6, 9)
#: What to try, in this order, where an export has a size baked in that it declares dynamic.
_SPARE_BATCHES = (1, 2, 3, 4)
_SPARE_LENGTHS = (6, 9, 2, 3, 4, 5, 7, 8, 1, 10, 12, 16, 32, 64, 128, 224, 256, 512)
#: Operators that hand an index on as it is.
_INDEX_PASSES = {"Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
#: Operators that compute an index from another one, element by element.
_INDEX_ARITHMETIC = {"Add", "Less", "Mul", "Not", "Sub", "Where"}
#: Operators whose output holds some of the values of their first input and no others.
_SELECTIONS = _INDEX_PASSES | {"Expand", "Gather", "GatherElements", "Slice", "Tile", "Transpose"}
#: Operators that hand a table on row by row.
_TABLE_PASSES = {"Cast", "DequantizeLinear", "Identity"}

#: How caches are sized, in the order of trying: as declared; with a mask that is as long as past
#: and present together though it is declared otherwise; with nothing in the cache.
_CACHES = ("declared", "grown mask", "empty")

Sizes = Mapping[str, int]


def synthetic_inputs(
    session: Session,
    *,
    batch: int,
    length: int,
    seed: int,
    vocabulary: int = _VOCABULARY,
    flag: bool = True,
    cache: str = "declared",
) -> dict[str, np.ndarray]:
    """Return random inputs of the shapes and types that the model declares.

    The dynamic symbols on an axis 0 get ``batch``, all others ``length``; a sum of
    symbols ("past_length + length") is added up. Integers: masks are ones, token types zeros,
    positions count up along the last axis, others are uniform below ``vocabulary``. Booleans are
    true, those of one element ``flag``, floats standard normal. ``cache`` is one of ``_CACHES``.
    Inputs that are known to count tokens do so. Each input has its own stream of random numbers, so
    that the order of the inputs does not matter.

    Raises:
        UsageError: a size or the vocabulary is below 1, or an input holds text.
    """
    if min(batch, length, vocabulary) < 1:
        raise UsageError(
            f"batch {batch}, length {length} and vocabulary {vocabulary} have to be 1 or more"
        )
    past = _past_symbols(session)
    sizes = _symbol_sizes(
        session, batch, length, dict.fromkeys(past, 0) if cache == "empty" else {}
    )
    grown = max((sizes[symbol] for symbol in past), default=0) if cache == "grown mask" else 0
    made = {}
    for name, spec in session.inputs.items():
        shape = _shape(spec, sizes)
        if grown and _is_mask(spec):
            shape = (shape[0], shape[1] + grown)
        made[name] = _fill(spec, shape, seed, vocabulary)
        if is_flag(spec):
            made[name][...] = flag
    count_tokens(made, length, session.counts)
    return made


def is_made_up(session: Session, name: str) -> bool:
    """Return whether what is made up for an input is what is meant: a mask, a position, a count."""
    kind = session.inputs[name].dtype.kind
    known = kind == "b" or (kind in "iu" and filler(name) is not any_index)
    return known or name in session.counts


def table_limit(graph: Graph) -> int:
    """Return the row count of the smallest table that graph inputs look up freely.

    Counts every constant table of a Gather whose index is an input that ``synthetic_inputs``
    fills from the vocabulary; 64 where there is none.
    """
    rows = [rows for name, rows, _ in _tables(graph) if name and filler(name) is any_index]
    return min(rows, default=_VOCABULARY)


def length_limit(graph: Graph) -> int | None:
    """Return the row count of the smallest table looked up by position, None without one.

    Counts 2-D tables whose index is computed, or is a position input. An index picked from a
    constant that holds one value (token types that the exporter filled in) sets no limit.
    """
    rows = [
        rows
        for name, rows, index in _tables(graph)
        if (not _is_uniform(graph, index) if name is None else filler(name) is position)
    ]
    return min(rows, default=None)


def looked_up(graph: Graph) -> dict[str, int]:
    """Return the rows of the smallest table that every input looks up as it is, by input."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        if node.op_type != "Gather" or node.domain:
            continue
        table = graph.constants.get(_walk_up(graph, node.input(0), _TABLE_PASSES))
        source = _walk_up(graph, node.input(1), _INDEX_PASSES)
        axis = node.attributes.get("axis", 0)
        if table is not None and source in graph.inputs and table.shape:
            rows = table.shape[axis]
            found[source] = min(found.get(source, rows), rows)
    return found


def two_sizes(session: Session, graph: Graph, seed: int) -> list[dict[str, np.ndarray]]:
    """Return two input sets on which the model runs, of different sizes where it allows that.

    Batch 1 with length 6 and batch 3 with length 9, inside the limits of the tables. Some exports
    bake a size in although they declare it dynamic; a set that fails is replaced by other sizes.
    An output without one finite number counts as failed: on it every comparison would succeed.
    A model with a flag (``use_cache_branch``) gets two sets for each of its values.

    Raises:
        VerificationError: the model runs with none of the sizes tried.
    """
    session.counts = token_counts(graph)
    flags = (True, False) if any(map(is_flag, session.inputs.values())) else (True,)
    found: list[dict[str, np.ndarray]] = []
    failure: VerificationError | None = None
    for flag in flags:
        try:
            found.extend(_two_running(session, graph, seed, flag))
        except VerificationError as error:
            failure = failure or error
    if not found and failure is not None:
        raise failure
    return found


def _two_running(
    session: Session, graph: Graph, seed: int, flag: bool
) -> Iterator[dict[str, np.ndarray]]:
    vocabulary = min(_VOCABULARY, table_limit(graph))
    short, long = _lengths(length_limit(graph))
    runs: tuple[int, int] | None = None
    for offset, size in enumerate(((_BATCHES[0], short), (_BATCHES[1], long))):
        runs, inputs = _first_running(
            session, _candidates(size, runs),
            seed=seed + offset, vocabulary=vocabulary, flag=flag,
        )  # fmt: skip
        yield inputs


def _first_running(
    session: Session,
    sizes: Iterable[tuple[int, int]],
    *,
    seed: int,
    vocabulary: int,
    flag: bool,
) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
    """Return the first sizes that run, and their inputs; the first failure is the one raised."""
    failure: VerificationError | None = None
    tried: set[tuple[tuple[int, ...], ...]] = set()
    caches = _CACHES if _past_symbols(session) else _CACHES[:1]
    for (batch, length), cache in product(sizes, caches):
        inputs = synthetic_inputs(
            session,
            batch=batch,
            length=length,
            seed=seed,
            vocabulary=vocabulary,
            flag=flag,
            cache=cache,
        )
        shapes = tuple(array.shape for array in inputs.values())
        if shapes in tried:
            continue
        tried.add(shapes)
        try:
            _check_finite(session.run(inputs))
        except VerificationError as error:
            failure = failure or error
        else:
            return (batch, length), inputs
    raise failure or VerificationError("there are no sizes to try")


def _lengths(limit: int | None) -> tuple[int, int]:
    """Return the two lengths, different wherever the limit leaves room."""
    if limit is None:
        return _LENGTHS
    second = max(1, min(_LENGTHS[1], limit))
    return max(1, min(_LENGTHS[0], second - 1)), second


def _candidates(size: tuple[int, int], runs: tuple[int, int] | None) -> Iterator[tuple[int, int]]:
    """Yield the wanted size, mixtures with one that is known to run, then all the others."""
    yield size
    if runs is not None:  # most often only one of batch and length is baked in
        yield size[0], runs[1]
        yield runs[0], size[1]
        yield runs
    yield 1, size[1]
    for length in _SPARE_LENGTHS:
        for batch in _SPARE_BATCHES:
            yield batch, length


def _check_finite(outputs: Mapping[str, np.ndarray]) -> None:
    for name, array in outputs.items():
        if array.dtype.kind in "biuOSU" or not array.size:
            continue
        if not np.isfinite(array.astype(np.float64)).any():
            raise VerificationError(
                f"output '{name}' has no finite number on synthetic inputs",
                hint="check the model's weights, or give real inputs",
            )


def _is_mask(spec: InputSpec) -> bool:
    return len(spec.shape) == 2 and isinstance(spec.shape[1], str) and "mask" in spec.name.lower()


def _past_symbols(session: Session) -> set[str]:
    """Return the symbols that only caches have: lengths of float inputs of rank 4 and more."""
    inside: set[str] = set()
    outside: set[str] = set()
    for spec in session.inputs.values():
        is_cache = spec.dtype.kind not in "biuO" and len(spec.shape) >= 4
        symbols = {d for d in spec.shape[1:] if isinstance(d, str)}
        (inside if is_cache else outside).update(symbols)
    return inside - outside


def _symbol_sizes(session: Session, batch: int, length: int, given: Sizes) -> Sizes:
    shapes = [spec.shape for spec in session.inputs.values()]
    leading = [shape[0] for shape in shapes if shape and isinstance(shape[0], str)]
    sizes = {d: length for shape in shapes for d in shape if isinstance(d, str)}
    inside = {d for shape in shapes for d in shape[1:]}
    sizes.update({s: batch for s in leading if s == leading[0] or s not in inside})
    sizes.update(given)
    for symbol in sizes:
        terms = [term.strip() for term in symbol.split("+")]
        if len(terms) > 1 and all(re.fullmatch(r"\w+", term) for term in terms):
            sizes[symbol] = sum(int(t) if t.isdigit() else sizes.get(t, length) for t in terms)
    return sizes


def _shape(spec: InputSpec, sizes: Sizes) -> tuple[int, ...]:
    return tuple(sizes[d] if isinstance(d, str) else d for d in spec.shape)


def _fill(spec: InputSpec, shape: tuple[int, ...], seed: int, vocabulary: int) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    kind = spec.dtype.kind
    if kind == "O":
        raise UsageError(f"input '{spec.name}' holds text, which cannot be made up")
    if kind == "b":
        return np.ones(shape, spec.dtype)
    if kind in "iu":
        top = min(vocabulary, np.iinfo(spec.dtype).max)
        return filler(spec.name)(rng, shape, top).astype(spec.dtype)
    return rng.standard_normal(shape).astype(spec.dtype)


def _tables(graph: Graph) -> Iterator[tuple[str | None, int, str]]:
    """Return (graph input or None, rows, index value) of every Gather of a 2-D constant table."""
    for node in graph.nodes:
        if node.op_type != "Gather" or node.domain or node.attributes.get("axis", 0) != 0:
            continue
        table = graph.constants.get(_walk_up(graph, node.input(0), _TABLE_PASSES))
        if table is None or len(table.shape) != 2:
            continue
        yield _index_source(graph, node.input(1)), table.shape[0], node.input(1)


def _index_source(graph: Graph, name: str) -> str | None:
    """Return the one graph input that an index is, or is computed from element by element.

    tf2onnx adds the size of the table to negative indices: x * (x >= 0) + (x + size) * (x < 0).
    """
    stack, seen, found = [name], {name}, set[str]()
    while stack:
        value = stack.pop()
        node = graph.producers.get(value)
        if value in graph.inputs:
            found.add(value)
        elif node is not None and node.op_type in _INDEX_ARITHMETIC:
            stack.extend(n for n in node.inputs if n and n not in seen)
            seen.update(node.inputs)
        elif node is not None and node.op_type in _INDEX_PASSES:
            stack.append(node.input(0))
        elif not graph.is_constant(value):
            return None
    return found.pop() if len(found) == 1 else None


def _walk_up(graph: Graph, name: str, through: set[str]) -> str:
    node: Node | None
    while (node := graph.producers.get(name)) is not None and node.op_type in through:
        name = node.input(0)
    return name


def _is_uniform(graph: Graph, index: str) -> bool:
    """Tell whether an index is picked from a constant that holds one value."""
    value = graph.constant_value(_walk_up(graph, index, _SELECTIONS))
    return value is not None and value.size > 0 and bool((value == value.flat[0]).all())
