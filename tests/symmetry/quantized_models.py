"""Two layers x (n, 32) -> hidden (64) -> y (n, 5) in every quantised form, from one seed.

The same float weights W1 (32, 64) and W2 (64, 5) are quantised in each way, with zero points that
differ from channel to channel, so that leaving any of them behind shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, HIDDEN, OUT, BLOCK = 32, 64, 5, 16
MS = "com.microsoft"


@dataclass(slots=True)
class Maker:
    """Collects nodes and initializers of one model."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    source: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an initializer."""
        self.weights[name] = value
        return name

    def node(
        self, op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: int
    ) -> str:
        """Add a node; returns its first output."""
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def integers(self, name: str, shape: tuple[int, ...], dtype: type = np.uint8) -> str:
        """Add random integers of a type."""
        info = ml_dtypes.iinfo(dtype)
        return self.constant(
            name, self.source.integers(info.min, info.max + 1, shape).astype(dtype)
        )

    def scales(self, name: str, shape: tuple[int, ...]) -> str:
        """Add scales that differ from channel to channel."""
        return self.constant(name, self.source.uniform(0.01, 0.05, shape).astype(np.float32))

    def points(self, name: str, shape: tuple[int, ...]) -> str:
        """Add zero points that differ from channel to channel."""
        return self.constant(name, self.source.integers(90, 160, shape).astype(np.uint8))

    def scalar(self, name: str, value: float) -> str:
        """Add one scale."""
        return self.constant(name, np.array(value, np.float32))

    def save(self, path: Path, opset: int) -> Path:
        """Write the model."""
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
            for name, size in (("x", WIDTH), ("y", OUT))
        ]
        stored = [numpy_helper.from_array(v, n) for n, v in self.weights.items()]
        graph = helper.make_graph(self.nodes, "layers", ends[:1], ends[1:], stored)
        sets = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
        onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=10), path)
        return path


Layer = Callable[[Maker, str, str, int, int], str]


def per_tensor(m: Maker, x: str, tag: str, rows: int, columns: int) -> str:
    """DequantizeLinear with one scale, MatMul."""
    weight = m.integers(f"w{tag}", (rows, columns))
    zero = m.constant(f"z{tag}", np.array(120, np.uint8))
    plain = m.node("DequantizeLinear", [weight, m.scalar(f"s{tag}", 0.02), zero], [f"p{tag}"])
    return m.node("MatMul", [x, plain], [f"m{tag}"])


def per_channel(axis: int) -> Layer:
    """DequantizeLinear with one scale per row or column, MatMul."""

    def layer(m: Maker, x: str, tag: str, rows: int, columns: int) -> str:
        size = ((rows, columns)[axis],)
        inputs = [
            m.integers(f"w{tag}", (rows, columns)),
            m.scales(f"s{tag}", size),
            m.points(f"z{tag}", size),
        ]
        plain = m.node("DequantizeLinear", inputs, [f"p{tag}"], axis=axis)
        return m.node("MatMul", [x, plain], [f"m{tag}"])

    return layer


def blocked(dtype: type) -> Layer:
    """DequantizeLinear with one scale per block of rows, MatMul."""

    def layer(m: Maker, x: str, tag: str, rows: int, columns: int) -> str:
        size = (rows // BLOCK, columns)
        inputs = [
            m.integers(f"w{tag}", (rows, columns), dtype),
            m.scales(f"s{tag}", size),
            m.integers(f"z{tag}", size, dtype),
        ]
        plain = m.node("DequantizeLinear", inputs, [f"p{tag}"], axis=0, block_size=BLOCK)
        return m.node("MatMul", [x, plain], [f"m{tag}"])

    return layer


def quantized(m: Maker, x: str, tag: str) -> list[str]:
    """Quantise an activation statically; returns value, scale and zero point."""
    scale = m.scalar(f"xs{tag}", 0.05)
    zero = m.constant(f"xz{tag}", np.array(128, np.uint8))
    return [m.node("QuantizeLinear", [x, scale, zero], [f"q{tag}"]), scale, zero]


def dynamic(m: Maker, x: str, tag: str, rows: int, columns: int) -> str:
    """DynamicQuantizeLinear, MatMulInteger, Cast, Mul: what dynamic quantisation writes."""
    names = [f"q{tag}", f"qs{tag}", f"qz{tag}"]
    m.node("DynamicQuantizeLinear", [x], names)
    weight = m.integers(f"w{tag}", (rows, columns))
    zero = m.points(f"z{tag}", (columns,))
    product = m.node("MatMulInteger", [names[0], weight, names[2], zero], [f"i{tag}"])
    real = m.node("Cast", [product], [f"c{tag}"], to=TensorProto.FLOAT)
    scale = m.node("Mul", [names[1], m.scales(f"s{tag}", (columns,))], [f"ms{tag}"])
    return m.node("Mul", [real, scale], [f"m{tag}"])


def qlinear_matmul(m: Maker, x: str, tag: str, rows: int, columns: int) -> str:
    """QuantizeLinear, QLinearMatMul, QLinearAdd of a bias, DequantizeLinear."""
    result = [m.scalar(f"ys{tag}", 0.1), m.constant(f"yz{tag}", np.array(128, np.uint8))]
    weight = [
        m.constant(f"w{tag}", m.source.integers(-127, 128, (rows, columns)).astype(np.int8)),
        m.scales(f"s{tag}", (columns,)),
        m.constant(f"z{tag}", np.zeros(columns, np.int8)),
    ]
    product = m.node("QLinearMatMul", [*quantized(m, x, tag), *weight, *result], [f"i{tag}"])
    bias = [m.integers(f"b{tag}", (columns,)), result[0], result[1]]
    summed = m.node("QLinearAdd", [product, *result, *bias, *result], [f"a{tag}"], MS)
    return m.node("DequantizeLinear", [summed, *result], [f"m{tag}"])


def qgemm(m: Maker, x: str, tag: str, rows: int, columns: int) -> str:
    """QuantizeLinear, QGemm with a transposed weight and an integer bias."""
    weight = [
        m.constant(f"w{tag}", m.source.integers(-127, 128, (columns, rows)).astype(np.int8)),
        m.scales(f"s{tag}", (columns,)),
        m.constant(f"z{tag}", np.zeros(columns, np.int8)),
    ]
    bias = m.constant(f"b{tag}", m.source.integers(-900, 900, columns).astype(np.int32))
    inputs = [*quantized(m, x, tag), *weight, bias]
    return m.node("QGemm", inputs, [f"m{tag}"], MS, transB=1)


def dynamic_matmul(m: Maker, x: str, tag: str, rows: int, columns: int) -> str:
    """DynamicQuantizeMatMul, which onnxruntime fuses a dynamic chain to."""
    inputs = [
        x,
        m.integers(f"w{tag}", (rows, columns)),
        m.scales(f"s{tag}", (columns,)),
        m.points(f"z{tag}", (columns,)),
        m.constant(f"b{tag}", m.source.standard_normal(columns).astype(np.float32)),
    ]
    return m.node("DynamicQuantizeMatMul", inputs, [f"m{tag}"], MS)


def integer_to_float(m: Maker, x: str, tag: str, rows: int, columns: int) -> str:
    """QuantizeLinear, MatMulIntegerToFloat with bias."""
    value, scale, zero = quantized(m, x, tag)
    inputs = [
        value,
        m.integers(f"w{tag}", (rows, columns)),
        scale,
        m.scales(f"s{tag}", (columns,)),
        zero,
        m.points(f"z{tag}", (columns,)),
        m.constant(f"b{tag}", m.source.standard_normal(columns).astype(np.float32)),
    ]
    return m.node("MatMulIntegerToFloat", inputs, [f"m{tag}"], MS)


def nbits(bits: int, *, points: bool, flat: bool = False) -> Layer:
    """MatMulNBits with scales per block, with or without packed zero points and bias."""

    def layer(m: Maker, x: str, tag: str, rows: int, columns: int) -> str:
        blocks = rows // BLOCK
        packed = -(-blocks * bits // 8)
        shapes = [(columns, blocks), (columns, packed)]
        if flat:
            shapes = [(columns * blocks,), (columns * packed,)]
        inputs = [
            x,
            m.integers(f"w{tag}", (columns, blocks, BLOCK * bits // 8)),
            m.scales(f"s{tag}", shapes[0]),
            m.integers(f"z{tag}", shapes[1]) if points else "",
            "",
            m.constant(f"b{tag}", m.source.standard_normal(columns).astype(np.float32)),
        ]
        return m.node(
            "MatMulNBits", inputs, [f"m{tag}"], MS, K=rows, N=columns, bits=bits, block_size=BLOCK
        )

    return layer


def save_layers(path: Path, layer: Layer, opset: int = 21) -> Path:
    """Save two layers with a Relu between them."""
    m = Maker()
    hidden = m.node("Relu", [layer(m, "x", "1", WIDTH, HIDDEN)], ["hidden"])
    m.node("Identity", [layer(m, hidden, "2", HIDDEN, OUT)], ["y"])
    return m.save(path, opset)
