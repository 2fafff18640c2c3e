"""The alignment file: a safetensors file with one `map/<space>` entry per space.

Metadata (all strings): `format` (`graphrebase-alignment`), `schema_version`, `method`, `options`
(JSON object), `sha256_a`, `sha256_b`, `tool_version`, `details` (JSON object, or empty). The same
alignment gives the same bytes. Files are checked strictly on reading: they come from outside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, get_type_hints

import numpy as np
from safetensors import SafetensorError, safe_open

from graphrebase.align.alignment import Alignment, Details, OptionValue
from graphrebase.align.maps import MapArray, is_linear, is_matrix, is_permutation
from graphrebase.errors import InputError, MismatchError, OutputError
from graphrebase.io import write_file

FORMAT: Final = "graphrebase-alignment"
SCHEMA_VERSION: Final = "1"
PREFIX: Final = "map/"
MAX_BYTES: Final = 1 << 33
"""No alignment of the models this reads comes near this size; larger files are refused unread."""
ADVICE: Final = "give a file written by `graphrebase align`"


def save(alignment: Alignment, path: Path, *, force: bool = False) -> None:
    """Write an alignment, all or nothing.

    Args:
        alignment: its maps are int64 (permutations) or float64 (matrices).
        path: the file to create.
        force: replace an existing file.

    Raises:
        OutputError: the file exists, or cannot be written.
    """
    if path.exists() and not force:
        raise OutputError("the output file exists", where=str(path), hint="use --force")
    data = _encode(alignment)
    write_file(path, data)


def load(path: Path) -> Alignment:
    """Read an alignment.

    Raises:
        InputError: not readable, not an alignment file, or its content is not what it must be.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError("too large for an alignment file", where=str(path), hint=ADVICE)
        with safe_open(path, framework="np") as opened:
            metadata = _checked_metadata(opened.metadata() or {}, path)
            maps = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot read the alignment: {reason}", where=str(path), hint=ADVICE
        ) from None
    except (SafetensorError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"not a readable safetensors file: {error}", where=str(path), hint=ADVICE
        ) from None
    return Alignment(
        {key.removeprefix(PREFIX): _checked_map(key, maps[key], path) for key in sorted(maps)},
        metadata["method"],
        _options(metadata["options"], path),
        metadata["sha256_a"],
        metadata["sha256_b"],
        _details(metadata.get("details", ""), path),
    )


def check_models(alignment: Alignment, sha256_a: str, sha256_b: str) -> None:
    """Refuse an alignment that was computed for other models.

    Raises:
        MismatchError: a content hash differs.
    """
    pairs = (("A", alignment.sha256_a, sha256_a), ("B", alignment.sha256_b, sha256_b))
    for model, recorded, actual in pairs:
        if recorded != actual:
            raise MismatchError(
                f"the alignment was computed for another model {model}",
                where=f"recorded sha256 {recorded[:12] or 'none'}, given {actual[:12] or 'none'}",
                hint="compute it again with `align`, or give the models it was made for",
            )


def _encode(alignment: Alignment) -> bytes:
    """Return the file's bytes; written here because the library orders metadata at random."""
    metadata = {
        "details": json.dumps(asdict(alignment.details), sort_keys=True)
        if alignment.details
        else "",
        "format": FORMAT,
        "method": alignment.method,
        "options": json.dumps(dict(alignment.options), sort_keys=True),
        "schema_version": SCHEMA_VERSION,
        "sha256_a": alignment.sha256_a,
        "sha256_b": alignment.sha256_b,
        "tool_version": _tool_version(),
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    payload, end = [], 0
    for name in sorted(alignment.maps):
        matrix = is_matrix(alignment.maps[name])
        value = np.ascontiguousarray(alignment.maps[name], dtype="<f8" if matrix else "<i8")
        start, end = end, end + value.nbytes
        payload.append(value.tobytes())
        header[PREFIX + name] = {
            "dtype": "F64" if matrix else "I64",
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(payload)


def _tool_version() -> str:
    try:
        return version("graphrebase")
    except PackageNotFoundError:
        return "unknown"


def _checked_metadata(metadata: Mapping[str, str], path: Path) -> Mapping[str, str]:
    if metadata.get("format") != FORMAT:
        raise InputError("not an alignment file", where=str(path), hint=ADVICE)
    found = metadata.get("schema_version")
    if found != SCHEMA_VERSION:
        raise InputError(
            f"alignment file of schema version {found}, this tool reads {SCHEMA_VERSION}",
            where=str(path),
            hint="compute the alignment again with this version of graphrebase",
        )
    missing = [key for key in ("method", "options", "sha256_a", "sha256_b") if key not in metadata]
    if missing:
        raise InputError(f"metadata lacks {', '.join(missing)}", where=str(path), hint=ADVICE)
    for key in ("sha256_a", "sha256_b"):
        if metadata[key] and not re.fullmatch("[0-9a-f]{64}", metadata[key]):
            raise InputError(f"{key} is not a sha256", where=str(path), hint=ADVICE)
    return metadata


def _checked_map(key: str, value: Any, path: Path) -> MapArray:
    where = f"{path}, {key}"
    if not key.startswith(PREFIX) or key == PREFIX:
        raise InputError("an entry is not named map/<space>", where=where, hint=ADVICE)
    if not isinstance(value, np.ndarray) or not (is_permutation(value) or is_linear(value)):
        raise InputError(
            "a map is neither an int64 permutation nor a finite float64 matrix",
            where=where,
            hint=ADVICE,
        )
    return value


def _options(text: str, path: Path) -> dict[str, OptionValue]:
    options = _json_object(text, "options", path)
    if not all(isinstance(value, (str, int, float)) for value in options.values()):
        raise InputError("options are not plain values", where=str(path), hint=ADVICE)
    return options


def _details(text: str, path: Path) -> Details | None:
    if not text:
        return None
    values = _json_object(text, "details", path)
    hints = get_type_hints(Details)
    if set(values) != {field.name for field in fields(Details)} or not all(
        _plausible(value, hints[name]) for name, value in values.items()
    ):
        raise InputError("details are not what this tool writes", where=str(path), hint=ADVICE)
    return Details(**values)


def _plausible(value: object, hint: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if hint is int:
        return number and isinstance(value, int)
    if hint is float:
        return number
    if hint == (float | None):
        return number or value is None
    return isinstance(value, dict) and all(isinstance(v, (int, float)) for v in value.values())


def _json_object(text: str, what: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{what} are not a JSON object", where=str(path), hint=ADVICE)
    return value
