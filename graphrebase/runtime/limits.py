"""What a model can take of given inputs: the rows of its tables, and the sizes on which it runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphrebase.errors import GraphRebaseError, InputError, VerificationError
from graphrebase.graph import Graph
from graphrebase.runtime.batches import in_batches, main_output
from graphrebase.runtime.session import Session
from graphrebase.runtime.synthetic import looked_up, two_sizes

Arrays = Mapping[str, np.ndarray]


def check_rows(
    arrays: Arrays, graph: Graph, *, model: str, where: str | None = None, hint: str = ""
) -> None:
    """Check that indices are inside the tables that they look up.

    Args:
        arrays: inputs by name, axis 0 the samples.
        graph: the model's.
        model: what to call it.
        where: the file that the arrays are from.
        hint: what to try.

    Raises:
        InputError: an index is outside.
    """
    for name, rows in looked_up(graph).items():
        given = arrays.get(name)
        if given is None or not given.size or given.dtype.kind not in "iu":
            continue
        value = int(given.max() if given.max() >= rows else given.min())
        if not 0 <= value < rows:
            raise InputError(
                f"input '{name}' holds {value}, the {model} has a table of {rows} rows for it "
                f"(0 to {rows - 1})",
                where=where,
                hint=hint or "leave these samples out, or check that the array is of this model",
            )


def check_running(
    session: Session, graph: Graph, arrays: Arrays, *, model: str, where: str | None = None
) -> None:
    """Check that a model which runs at all runs on given inputs, on a few of them.

    Tables of positions say only roughly how long a sequence may be, and exports bake sizes in.

    Args:
        session: the model.
        graph: its graph.
        arrays: one array per input, axis 0 the samples.
        model: what to call it.
        where: the file that the arrays are from.

    Raises:
        InputError: it does not run on these, though it does on others.
    """
    few = _few(arrays)
    if _runs(session, few):
        return
    blank = {n: _blank(n, x) for n, x in few.items()}
    if _runs(session, blank):
        raise InputError(
            _of_values(session, few, blank, model),
            where=where,
            hint="leave these samples out, or check that the array is of this model",
        )
    try:
        others = two_sizes(session, graph, 0)[0]
    except GraphRebaseError:
        return
    lengths = {x.shape[1] for x in few.values() if x.ndim == 2}
    given = max(lengths, default=0)
    longest = _longest(session, blank, given)
    if longest and len(lengths) == 1:
        raise InputError(
            f"sequences have {given} tokens, the {model} runs on {longest} at most",
            where=where,
            hint="cut them, or export the model for longer ones",
        )
    raise InputError(
        f"the {model} does not run on inputs of the shapes {_shapes(few)}",
        where=where,
        hint=f"it runs on {_shapes(others)}, for example",
    )


def _few(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return the first sample, and those with the largest and the smallest index."""
    rows = {0}
    for array in arrays.values():
        if array.ndim == 2 and array.dtype.kind in "iu" and array.size:
            rows |= {int(array.argmax()) // array.shape[1], int(array.argmin()) // array.shape[1]}
    return {n: x[sorted(rows)] if x.ndim else x for n, x in arrays.items()}


def _runs(session: Session, arrays: Arrays) -> bool:
    try:
        for _ in in_batches(session, arrays, [main_output(session)], size=1):
            pass
    except VerificationError:
        return False
    return True


def _blank(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array with zeros for indices."""
    return array if array.dtype.kind not in "iu" or "mask" in name.lower() else 0 * array


def _of_values(session: Session, arrays: Arrays, blank: Arrays, model: str) -> str:
    for name, array in arrays.items():
        if not _runs(session, {**blank, name: array}):
            extremes = f"{array.min()} to {array.max()}"
            return f"input '{name}' holds {extremes}, which the {model} does not take"
    return f"the {model} does not take these values together"


def _longest(session: Session, arrays: Arrays, length: int) -> int:
    """Return the largest number of tokens, below one that is too large, that runs; 0 if none."""
    low, high = 0, length
    while high - low > 1:
        middle = (low + high) // 2
        cut = {n: x[:, :middle] if x.ndim == 2 else x for n, x in arrays.items()}
        low, high = (middle, high) if _runs(session, cut) else (low, middle)
    return low


def _shapes(arrays: Arrays) -> str:
    return ", ".join(f"{n} (.., {', '.join(map(str, x.shape[1:]))})" for n, x in arrays.items())
