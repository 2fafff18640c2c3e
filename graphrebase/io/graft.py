"""Writing a model with another end: the file's bytes, some left out, some nodes added."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto

from graphrebase.errors import OutputError
from graphrebase.io.paths import normal_location
from graphrebase.io.reader import Model
from graphrebase.io.wire import Copy, Data, Edit, encode_field, fields, splice

_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Graft:
    """What to change at the end of a graph.

    Attributes:
        kept: indices of the nodes that stay, byte by byte.
        nodes: nodes put after them.
        tensors: initializers that these read.
        inputs: graph inputs to add.
        outputs: the graph's outputs, in place of its own.
        opsets: operator sets to add.
        unread: names of initializers and values that nothing reads any more.
    """

    kept: frozenset[int]
    nodes: tuple[onnx.NodeProto, ...]
    tensors: tuple[onnx.TensorProto, ...]
    inputs: tuple[onnx.ValueInfoProto, ...]
    outputs: tuple[onnx.ValueInfoProto, ...]
    opsets: tuple[onnx.OperatorSetIdProto, ...]
    unread: frozenset[str]


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads, also inside its subgraphs (names of their own are harmless)."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from reads(inner)
            yield from (output.name for output in graph.output)


def needed(
    graph: onnx.GraphProto, values: Sequence[str], given: frozenset[str] | set[str]
) -> tuple[set[int], set[str]]:
    """Return the nodes that some values need, and every name that is needed on the way.

    Args:
        graph: the graph.
        values: what is wanted.
        given: values that are there already; what leads to them is not needed.
    """
    producers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    chosen: set[int] = set()
    names, pending = set(values), [name for name in values if name not in given]
    while pending:
        place = producers.get(pending.pop())
        if place is None or place in chosen:
            continue
        chosen.add(place)
        for name in reads(graph.node[place]):
            if name and name not in names:
                names.add(name)
                if name not in given:
                    pending.append(name)
    return chosen, names


def write_grafted(model: Model, folder: Path, graft: Graft) -> Path:
    """Write a model with a graft into an empty folder, and its external data beside it.

    Payloads are copied in chunks, external data linked where the file system allows it.

    Args:
        model: the model to change.
        folder: where to write.
        graft: what to change.

    Returns:
        the model file.

    Raises:
        OutputError: it cannot be written.
    """
    out = folder / "grafted.onnx"
    try:
        for location, file in model.data_files.items():
            _link(file, folder / normal_location(location))
        with (
            model.path.open("rb") as source,
            mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data,
            out.open("wb") as result,
        ):
            for piece in splice(len(data), _edits(data, model, graft)):
                if isinstance(piece, bytes):
                    result.write(piece)
                elif isinstance(piece, Copy):
                    for start in range(piece.start, piece.end, _CHUNK_BYTES):
                        result.write(data[start : min(start + _CHUNK_BYTES, piece.end)])
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror}", where=str(folder)) from error
    return out


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _edits(data: Data, model: Model, graft: Graft) -> Iterator[Edit]:
    graph = next(
        field
        for field in fields(data, 0, len(data))
        if field.number == ModelProto.GRAPH_FIELD_NUMBER
    )
    names = {site.message.start: name for name, site in model.sites.items()}
    number = 0
    for field in fields(data, graph.begin, graph.end):
        drop = field.number == GraphProto.OUTPUT_FIELD_NUMBER
        if field.number == GraphProto.NODE_FIELD_NUMBER:
            drop = number not in graft.kept
            number += 1
        elif field.number == GraphProto.VALUE_INFO_FIELD_NUMBER:
            value = onnx.ValueInfoProto.FromString(data[field.begin : field.end])
            drop = value.name in graft.unread
        elif field.number == GraphProto.INITIALIZER_FIELD_NUMBER:
            drop = names.get(field.start) in graft.unread
        if drop:
            yield Edit(field.start, field.end, b"", (graph,))
    for message, items in (
        (GraphProto.NODE_FIELD_NUMBER, graft.nodes),
        (GraphProto.INITIALIZER_FIELD_NUMBER, graft.tensors),
        (GraphProto.INPUT_FIELD_NUMBER, graft.inputs),
        (GraphProto.OUTPUT_FIELD_NUMBER, graft.outputs),
    ):
        for item in items:
            content = encode_field(message, item.SerializeToString())
            yield Edit(graph.end, graph.end, content, (graph,))
    for opset in graft.opsets:
        content = encode_field(ModelProto.OPSET_IMPORT_FIELD_NUMBER, opset.SerializeToString())
        yield Edit(len(data), len(data), content)
