"""Bodies of contractions that swallowed a transpose, a scale or an activation."""

from __future__ import annotations

from graphrebase.graph.bodies.activation import activate
from graphrebase.graph.bodies.table import Call, body


@body("FusedMatMul")
def fused_matmul(call: Call) -> None:
    """Transpose the operands, multiply, scale."""
    _product(call, call.output(0))


@body("FusedMatMulActivation")
def fused_matmul_activation(call: Call) -> None:
    """Multiply as FusedMatMul does and apply an activation."""
    activate(call, _product(call, ""), call.attribute("activation", ""), call.output(0))


def _product(call: Call, out: str) -> str:
    """Scale an operand that is computed, so that a bias still follows the product directly."""
    operands = [_turned(call, 0, "A"), _turned(call, 1, "B")]
    alpha = call.attribute("alpha", 1.0)
    if alpha != 1:
        chosen = 0 if call.input(0) in call.producers else 1
        scalar = call.scalar(alpha, call.input(0))
        operands[chosen] = call.emit("Mul", operands[chosen], scalar)
    return call.emit("MatMul", *operands, out=out)


def _turned(call: Call, position: int, letter: str) -> str:
    """Return an operand as MatMul wants it: batch axes, rows, columns.

    ``transBatch`` says that the first axis is the row axis and the batch follows it.
    """
    value = call.input(position)
    matrix, batch = call.attribute(f"trans{letter}", 0), call.attribute(f"transBatch{letter}", 0)
    if not (matrix or batch) or call.rank(value) < 2:
        return value
    order = list(range(call.rank(value)))
    if batch:
        order = [*order[1:-1], order[0], order[-1]]
    if matrix:
        order[-2:] = order[:-3:-1]
    return call.emit("Transpose", value, perm=order)


@body("FusedGemm")
def fused_gemm(call: Call) -> None:
    """Gemm, then an activation."""
    kept = {k: call.attribute(k) for k in ("alpha", "beta", "transA", "transB")}
    value = call.emit("Gemm", *call.node.inputs, **kept)
    activate(call, value, call.attribute("activation", ""), call.output(0))


@body("GemmFastGelu")
def gemm_fast_gelu(call: Call) -> None:
    """MatMul, an optional bias, Gelu."""
    value = call.emit("MatMul", call.input(0), call.input(1))
    if call.optional(2):
        value = call.emit("Add", value, call.input(2))
    call.emit("Gelu", value, out=call.output(0))
