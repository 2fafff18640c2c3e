"""Linear maps: MatMul, Gemm and Conv with a constant weight, with the bias that follows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from graphrebase.graph import Graph, Node, ShapeTable
from graphrebase.graph.equation import Equation
from graphrebase.structure.views import View, constant_view


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear map x' = W x + b.

    Attributes:
        node: the contraction.
        weight: view of W as (out, in); for a convolution (out, channels * taps).
        bias: view of b (out,), or None.
        input: value that is read.
        product: value the contraction computes, before a separate bias Add.
        output: value after the bias.
        weight_slot: input position of W.
        experts: number of maps of which each token uses its own; W is (experts * out, in) then.
        reads: axes of ``input`` that number its channels, row-major.
        gives: the same for ``output``.
        taps: kernel positions of a convolution, of which a column of W is made.
        groups: parts of the channels that are mapped by themselves; W is (out, in / groups) then.
    """

    node: Node
    weight: View
    bias: View | None
    input: str
    product: str
    output: str
    weight_slot: int
    experts: int = 1
    reads: tuple[int, ...] = (-1,)
    gives: tuple[int, ...] = (-1,)
    taps: int = 1
    groups: int = 1

    @property
    def pointwise(self) -> bool:
        """Tell whether every position is mapped by itself (not so for a convolution)."""
        return self.node.op_type != "Conv" or self.taps == 1

    @property
    def out_width(self) -> int:
        """Return the number of outputs."""
        return self.weight.shape[0] // self.experts

    @property
    def in_width(self) -> int:
        """Return the number of inputs."""
        return self.weight.shape[1] * self.groups


def find_linears(graph: Graph, shapes: ShapeTable) -> list[Linear]:
    """Return every linear map of a graph, in topological order."""
    makers = {
        "MatMul": _from_matmul,
        "Gemm": _from_gemm,
        "Conv": _from_conv,
        "Einsum": _from_einsum,
    }
    found = []
    for node in graph.nodes:
        maker = makers.get(node.op_type)
        linear = maker(graph, shapes, node) if maker and not node.domain else None
        if linear is not None:
            found.append(linear)
    return found


def _from_matmul(graph: Graph, shapes: ShapeTable, node: Node) -> Linear | None:
    for slot, other in ((1, 0), (0, 1)):
        view = constant_view(graph, shapes, node.inputs[slot])
        if view is None or len(view.shape) != 2 or graph.is_constant(node.inputs[other]):
            continue
        if slot == 0:
            return None  # W x on the left (rare): the columns of x are positions
        weight = view.turned()
        bias, output = _following_bias(graph, shapes, node.outputs[0], weight.shape[0])
        return Linear(node, weight, bias, node.inputs[0], node.outputs[0], output, 1)
    return None


def _from_gemm(graph: Graph, shapes: ShapeTable, node: Node) -> Linear | None:
    view = constant_view(graph, shapes, node.inputs[1])
    if view is None or len(view.shape) != 2 or node.attributes.get("transA"):
        return None
    if not node.attributes.get("transB"):
        view = view.turned()
    bias = constant_view(graph, shapes, node.input(2)) if node.input(2) else None
    if bias is not None and bias.shape != (view.shape[0],):
        bias = None
    output = node.outputs[0]
    if not node.input(2):
        bias, output = _following_bias(graph, shapes, output, view.shape[0])
    return Linear(node, view, bias, node.inputs[0], node.outputs[0], output, 1)


def _from_conv(graph: Graph, shapes: ShapeTable, node: Node) -> Linear | None:
    view = constant_view(graph, shapes, node.inputs[1])
    if view is None:
        return None
    bias = constant_view(graph, shapes, node.input(2)) if node.input(2) else None
    weight = view.shaped((view.shape[0], int(np.prod(view.shape[1:]))))
    output = node.outputs[0]
    if bias is None:
        bias, output = _bias_along(graph, shapes, output, weight.shape[0], (1,))
    stored = shapes.shape(node.inputs[1]) or ()
    taps, groups = math.prod(d[0] for d in stored[2:]), node.attributes.get("group", 1)
    if groups > 1 and taps > 1:
        return None  # positions by convolution (wav2vec 2.0), or a depthwise filter
    source, product = node.inputs[0], node.outputs[0]
    return Linear(node, weight, bias, source, product, output, 1, 1, (1,), (1,), taps, groups)


def _from_einsum(graph: Graph, shapes: ShapeTable, node: Node) -> Linear | None:
    """Return a map whose weight has its heads as axes, such as bsd,dhk->bhsk or bhsk,hkd->bsd."""
    slot = next((i for i, n in enumerate(node.inputs) if n in graph.constants), None)
    if slot is None or len(node.inputs) != 2 or graph.is_constant(node.inputs[1 - slot]):
        return None
    ranks = [len(shapes.shape(n) or ()) for n in node.inputs]
    equation = Equation.parse(node.attributes["equation"]).spelt_out(ranks)
    term, other, output = equation.operands[slot], equation.operands[1 - slot], equation.output
    summed = [c for c in other if c in term and c not in output]
    given = [c for c in output if c in term and c not in other]
    if not summed or not given or {*summed, *given} != set(term) or len(term) != ranks[slot]:
        return None
    name = node.inputs[slot]
    stored = graph.constants[name].shape
    sizes = [math.prod(stored[term.index(c)] for c in letters) for letters in (given, summed)]
    order = [term.index(c) for c in (*given, *summed)]
    flat = np.arange(math.prod(stored)).reshape(stored).transpose(order).reshape(-1)
    view = View(name, (sizes[0], sizes[1]), flat=flat, shape=(sizes[0], sizes[1]))
    reads = tuple(other.index(c) for c in summed)
    gives = tuple(output.index(c) for c in given)
    product = node.outputs[0]
    bias, result = _bias_along(graph, shapes, product, sizes[0], gives)
    return Linear(node, view, bias, node.inputs[1 - slot], product, result, slot, 1, reads, gives)


def _following_bias(
    graph: Graph, shapes: ShapeTable, product: str, width: int
) -> tuple[View | None, str]:
    """Return the bias added to a product, in either operand order, and the sum's name.

    tf2onnx puts the axes of the product back with a Reshape before it adds the bias.
    """
    users = graph.users(product)
    name = product
    while len(users) == 1 and users[0].node.op_type in ("Reshape", "Squeeze"):
        name = users[0].node.outputs[0]
        users = graph.users(name)
    if len(users) != 1 or users[0].node.op_type != "Add":
        return None, product
    node = users[0].node
    view = constant_view(graph, shapes, node.inputs[1 - users[0].position])
    if view is None or int(np.prod(view.shape)) != width:
        return None, product
    grid, ends = [n for n in view.shape if n > 1], shapes.shape(name) or ()
    if [d[0] for d in ends[len(ends) - len(grid) :]] != grid:
        return None, product
    return view.shaped((width,)), node.outputs[0]


def _bias_along(
    graph: Graph, shapes: ShapeTable, product: str, width: int, axes: tuple[int, ...]
) -> tuple[View | None, str]:
    """Return the bias added along some axes of a product, and the sum's name.

    Args:
        graph: the graph.
        shapes: its shapes.
        product: the value that the bias is added to.
        width: number of channels.
        axes: axes of the product that number them.
    """
    users = graph.users(product)
    if len(users) != 1 or users[0].node.op_type != "Add":
        return None, product
    node = users[0].node
    other = node.inputs[1 - users[0].position]
    view, shape, whole = (
        constant_view(graph, shapes, other),
        shapes.shape(other),
        shapes.shape(product),
    )
    if view is None or shape is None or whole is None or len(shape) > len(whole):
        return None, product
    padded = [(1, 1)] * (len(whole) - len(shape)) + list(shape)
    channel_axes = {axis % len(whole) for axis in axes}
    fits = all(padded[i] == (whole[i] if i in channel_axes else (1, 1)) for i in range(len(whole)))
    if not fits or math.prod(view.shape) != width:
        return None, product
    return view.shaped((width,)), node.outputs[0]


def by_output(linears: Iterable[Linear]) -> dict[str, Linear]:
    """Return the linear map that computes each value, with and without its bias."""
    found: dict[str, Linear] = {}
    for linear in linears:
        found[linear.product] = linear
        found[linear.output] = linear
    return found
