"""Bodies of what exporters write before they optimise: parts in sequences, types taken from others.

The dynamo exporter without optimisation cuts q, k and v by SplitToSequence and SequenceAt.
"""

from __future__ import annotations

from graphrebase.graph.bodies.table import Call, KeepAsIs, body


@body("CastLike", domain="")
def cast_like(call: Call) -> None:
    """Cast to the element type of another value."""
    like = call.types.get(call.input(1))
    if like is None:
        raise KeepAsIs
    call.emit("Cast", call.input(0), out=call.output(0), to=like[0])


@body("SequenceAt", domain="")
def sequence_at(call: Call) -> None:
    """Take one part of a value that was cut: a Slice of it."""
    cut, index = call.producers.get(call.input(0)), call.value(call.input(1))
    if cut is None or cut.op_type != "SplitToSequence" or cut.domain or index is None:
        raise KeepAsIs
    sizes, place = call.value(cut.input(1)), int(index)
    axis = int(cut.attributes.get("axis", 0))
    if sizes is None or place < 0:
        raise KeepAsIs
    if sizes.ndim:  # the size of every part
        start, size = int(sizes[:place].sum()), int(sizes[place])
    else:  # one size; the last part may be smaller
        start, size = place * int(sizes), int(sizes)
    bounds = [call.ints(n) for n in (start, start + size, axis)]
    call.emit("Slice", cut.inputs[0], *bounds, out=call.output(0))
