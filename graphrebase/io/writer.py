"""Writing a model: the template's bytes with other payloads, streamed and committed as one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from onnx import ModelProto, TensorProto

from graphrebase.errors import GraphRebaseError, InputError, OutputError
from graphrebase.io import paths
from graphrebase.io.layout import RAW_DATA, TensorSite
from graphrebase.io.reader import Model, Stamp
from graphrebase.io.staging import StagedFile, Staging
from graphrebase.io.tensors import Array, TensorRef, encode, stored_bytes
from graphrebase.io.wire import Copy, Edit, Piece, Slot, encode_field, field_header, splice

_CHUNK_BYTES = 8 << 20
Replacements = Mapping[str, Callable[[], Array]]


def write_model(
    template: Model,
    out: str | os.PathLike[str],
    replacements: Replacements,
    metadata: Mapping[str, str],
    *,
    force: bool = False,
    protected: Sequence[Path] = (),
) -> None:
    """Write ``template`` to ``out`` with some tensors replaced; every other byte stays.

    Payloads are streamed: each function is called once, its result written and dropped. Payloads
    stored as varints become ``raw_data``. External data keeps its layout and its names, unless
    they would fall on input files (see ``paths.output_locations``). Nothing is visible at ``out``
    before all of it is written.

    Args:
        template: the model whose graph and layout the output has.
        out: the model file to write, in an existing folder.
        replacements: a function per tensor name that returns its new values, of the tensor's
            shape and dtype (float32 and float64 are cast to its floating dtype).
        metadata: entries of ``metadata_props`` to add; entries of the same key are overwritten.
        force: overwrite an existing output, never an input.
        protected: other files that must not be written to, beside the template's own.

    Raises:
        OutputError: ``out`` exists, is an input, or cannot be written.
        InputError: the template changed since it was opened.
        VerificationError: a new value is not finite in the tensor's dtype.
        GraphRebaseError: a replacement does not fit its tensor.
    """
    out = Path(out)
    inputs = (*template.files, *protected)
    _check_unchanged(template)
    _check_replacements(template, replacements)
    _check_not_shared(template, replacements)
    if not out.parent.is_dir():
        raise OutputError(
            "the output folder does not exist", where=str(out.parent), hint="create it first"
        )
    locations = paths.output_locations(template.data_files, out, inputs)
    targets = _data_targets(template, locations, out)
    for target in (out, *targets):
        paths.check_target(target, inputs, force=force)
    empty = _fill_empty(template, replacements)
    with Staging(out.parent) as staging:
        for target, (source, edits) in _data_edits(template, targets, replacements).items():
            pieces = splice(template.stamps[source].size, edits)
            _write(staging.open(target), source, pieces, template, replacements)
        edits = [
            *_payload_edits(template, replacements.keys() - empty),
            *_location_edits(template, locations, replacements),
            *_metadata_edits(template, metadata),
        ]
        pieces = splice(template.layout.size, edits)
        _write(staging.open(out), template.path, pieces, template, replacements)
        staging.commit()


def _check_unchanged(template: Model) -> None:
    for path, stamp in template.stamps.items():
        with contextlib.suppress(OSError):
            if Stamp.of(path.stat()) == stamp:
                continue
        raise InputError("the file changed while in use", where=str(path), hint="run again")


def _check_replacements(template: Model, replacements: Replacements) -> None:
    for name in replacements:
        if name not in template.tensors:
            raise GraphRebaseError(
                f"there is no initializer or Constant {name!r}", where=str(template.path)
            )
        if template.tensors[name].dtype.kind == "O":
            raise GraphRebaseError(
                f"tensor {name!r} holds strings and cannot be replaced", where=str(template.path)
            )


def _check_not_shared(template: Model, replacements: Replacements) -> None:
    """Refuse to replace a tensor whose external bytes belong to another tensor as well."""
    ranges = [item for item in template.external if item.storage.length]
    ranges.sort(key=lambda item: (item.storage.file, item.storage.offset))
    cluster: list[TensorSite] = []
    file, end = Path(), 0
    for item in ranges:
        storage = item.storage
        if storage.file != file or storage.offset >= end:
            cluster, file, end = [], storage.file, 0
        cluster.append(item.site)
        end = max(end, storage.offset + storage.length)
        replaced = {site.name for site in cluster if site.role != "other"} & replacements.keys()
        if len(cluster) > 1 and replaced:
            raise OutputError(
                f"tensors {sorted(site.name for site in cluster)} share bytes of external data, "
                "so one cannot change alone",
                where=str(file),
                hint="save the model again with onnx.save, which stores each tensor by itself",
            )


def _data_targets(
    template: Model, locations: Mapping[str, str], out: Path
) -> dict[Path, tuple[str, Path]]:
    """Return, per data file to write, its location in the template and its source."""
    targets: dict[Path, tuple[str, Path]] = {}
    for old, new in locations.items():
        target = out.parent / paths.normal_location(new)
        if target == out:
            raise OutputError(
                f"the model needs the name {out.name!r} for its external data",
                where=str(out),
                hint="choose another name",
            )
        targets[target] = (paths.normal_location(old), template.data_files[old])
    return targets


def _fill_empty(template: Model, replacements: Replacements) -> set[str]:
    """Return the replaced tensors that have no elements, after checking their new values."""
    empty = {name for name in replacements if not template.tensors[name].nbytes}
    for name in empty:
        for _ in encode(template.tensors[name], replacements[name]()):
            pass
    return empty


def _data_edits(
    template: Model, targets: Mapping[Path, tuple[str, Path]], replacements: Replacements
) -> dict[Path, tuple[Path, list[Edit]]]:
    """Return source and edits of each external data file to write."""
    edits: dict[str, list[Edit]] = {location: [] for location, _ in targets.values()}
    for item in template.external:
        if _is_replaced(item.site, replacements) and item.storage.length:
            start, end = item.storage.offset, item.storage.offset + item.storage.length
            slot = Slot(item.site.name, item.storage.length)
            edits[paths.normal_location(item.location)].append(Edit(start, end, slot))
    return {target: (source, edits[name]) for target, (name, source) in targets.items()}


def _is_replaced(site: TensorSite, replacements: Replacements) -> bool:
    return site.role != "other" and site.name in replacements


def _payload_edits(template: Model, names: Iterable[str]) -> Iterator[Edit]:
    """Yield the edits that replace payloads inside the model file."""
    for name in names:
        site, ref = template.sites[name], template.tensors[name]
        if site.is_external:
            continue
        if not ref.storage.is_message:
            start = ref.storage.offset
            yield Edit(start, start + ref.storage.length, Slot(name, ref.storage.length))
            continue
        length = stored_bytes(ref.dtype, ref.nbytes // ref.dtype.itemsize)
        at = site.payload[0][0]
        yield Edit(at, at, field_header(RAW_DATA, length), site.enclosing)
        yield Edit(at, at, Slot(name, length), site.enclosing)
        for start, end in site.payload:
            yield Edit(start, end, b"", site.enclosing)


def _location_edits(
    template: Model, locations: Mapping[str, str], replacements: Replacements
) -> Iterator[Edit]:
    """Yield the edits that rename external data files, and drop the checksums of changed ones."""
    changed = {
        paths.normal_location(item.location)
        for item in template.external
        if _is_replaced(item.site, replacements)
    }
    for item in template.external:
        is_changed = paths.normal_location(item.location) in changed
        for entry in item.site.external:
            start, end = entry.field.start, entry.field.end
            if entry.key == "location" and locations[item.location] != entry.value:
                content = _entry(
                    TensorProto.EXTERNAL_DATA_FIELD_NUMBER, entry.key, locations[item.location]
                )
                yield Edit(start, end, content, item.site.enclosing)
            elif entry.key == "checksum" and is_changed:
                yield Edit(start, end, b"", item.site.enclosing)


def _metadata_edits(template: Model, metadata: Mapping[str, str]) -> Iterator[Edit]:
    """Yield the edits that set entries of ``metadata_props``; new ones go to the end."""
    number = ModelProto.METADATA_PROPS_FIELD_NUMBER
    present = set()
    for key, field in template.layout.metadata:
        if key in metadata:
            present.add(key)
            yield Edit(field.start, field.end, _entry(number, key, metadata[key]))
    end = template.layout.size
    for key, value in metadata.items():
        if key not in present:
            yield Edit(end, end, _entry(number, key, value))


def _entry(number: int, key: str, value: str) -> bytes:
    """Return a field that holds a StringStringEntryProto."""
    pair = encode_field(1, key.encode()) + encode_field(2, value.encode())
    return encode_field(number, pair)


def _write(
    file: StagedFile,
    source: Path,
    pieces: Iterable[Piece],
    template: Model,
    replacements: Replacements,
) -> None:
    """Write ``pieces`` of ``source`` to ``file``, payloads filled in as they come."""
    for piece in pieces:
        match piece:
            case Copy():
                for chunk in _read(source, piece):
                    file.write(chunk)
            case Slot():
                _write_payload(file, template.tensors[piece.name], replacements[piece.name])
            case _:
                file.write(piece)
    file.sync()


def _write_payload(file: StagedFile, ref: TensorRef, values: Callable[[], Array]) -> None:
    """Call ``values`` and write what it returns; nothing of it outlives this call."""
    for chunk in encode(ref, values()):
        file.write(chunk.data)


def _read(source: Path, piece: Copy) -> Iterator[bytes]:
    """Yield the bytes of ``piece`` in chunks."""
    left = piece.end - piece.start
    try:
        with source.open("rb") as file:
            file.seek(piece.start)
            while left:
                chunk = file.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise InputError("the file was cut short while in use", where=str(source))
                left -= len(chunk)
                yield chunk
    except OSError as error:
        raise InputError(f"cannot read: {error}", where=str(source)) from error
