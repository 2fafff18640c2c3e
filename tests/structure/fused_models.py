"""One encoder and one decoder, from the same weights in every form that fusing gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
LAYERS, H, HEADS, KV, D, MLP, VOCABULARY, PLACES, LABELS = 2, 32, 4, 2, 16, 48, 19, 24, 5
ENCODER_D = H // HEADS


@dataclass(slots=True)
class Draft:
    """Collects nodes; weights come from one seed by name, whatever the form."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    caches: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def add(
        self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> Any:
        """Add a node; returns its output, or all of them; an empty name is an absent input."""
        names = [self._fresh() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def contributed(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        return self.add(op, *inputs, outputs=outputs, domain=MICROSOFT, **attributes)

    def store(self, name: str, value: np.ndarray) -> str:
        self.weights[name] = value
        return name

    def ints(self, *values: int, scalar: bool = False) -> str:
        array = np.array(values[0] if scalar else values, np.int64)
        return self.store(self._fresh(), array)

    def linear(self, x: str, name: str, rows: int, columns: int, *, bias: bool = True) -> str:
        product = self.add("MatMul", x, self.store(f"{name}.w", weight(f"{name}.w", rows, columns)))
        return self.add("Add", product, self.bias(name, columns)) if bias else product

    def bias(self, name: str, size: int) -> str:
        return self.store(f"{name}.b", weight(f"{name}.b", size))

    def gain(self, name: str) -> str:
        return self.store(f"{name}.g", 1 + weight(f"{name}.g", H))

    def heads(self, x: str, heads: int, inner: int) -> str:
        return self.add(
            "Transpose", self.add("Reshape", x, self.ints(0, 0, heads, inner)), perm=[0, 2, 1, 3]
        )

    def merged(self, x: str) -> str:
        return self.add("Reshape", self.add("Transpose", x, perm=[0, 2, 1, 3]), self.ints(0, 0, -1))

    def _fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def save(self, path: Path, output: str, extra: Sequence[str] = ()) -> Path:
        inputs = [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", "length"])]
        inputs += [
            helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "length"][:rank])
            for name, rank in (("lengths", 1), ("total", 0))
            if name in extra
        ]
        ends = [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", "length", LABELS])
        ]
        for past, present in self.caches.items():
            for made, name, length in ((inputs, past, "past"), (ends, present, "past + length")):
                shape = ["batch", KV, length, D]
                made.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        stored = [numpy_helper.from_array(v, n) for n, v in self.weights.items()]
        graph = helper.make_graph(self.nodes, "model", inputs, ends, stored)
        sets = [helper.make_opsetid("", 23), helper.make_opsetid(MICROSOFT, 1)]
        onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=10), path)
        return path


def weight(name: str, *shape: int) -> np.ndarray:
    """Return the weight of a name: the same in every form."""
    seed = [ord(letter) for letter in name]
    values = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(
        shape[0] ** (len(shape) - 1)
    )
    return values.astype(np.float32)


def packed(name: str, sizes: Mapping[str, int], kind: str, rows: int = H) -> np.ndarray:
    """Return the weights (or biases) of q, k and v side by side."""
    shape = (rows,) if kind == "w" else ()
    parts = [weight(f"{name}.{part}.{kind}", *shape, size) for part, size in sizes.items()]
    return np.concatenate(parts, axis=-1)


# --- the encoder: pre-norm, biases, Gelu

QKV = {"q": H, "k": H, "v": H}


def written_out(d: Draft, x: str, name: str) -> str:
    """Attention of MatMul and Softmax."""
    q, k, v = (d.heads(d.linear(x, f"{name}.{part}", H, H), HEADS, ENCODER_D) for part in QKV)
    scores = d.add("MatMul", q, d.add("Transpose", k, perm=[0, 1, 3, 2]))
    scale = d.store(d._fresh(), np.array(ENCODER_D**-0.5, np.float32))
    return d.merged(d.add("MatMul", d.add("Softmax", d.add("Mul", scores, scale), axis=-1), v))


def fused_matmul(d: Draft, x: str, name: str) -> str:
    """Attention whose scores are one FusedMatMul."""
    q, k, v = (d.heads(d.linear(x, f"{name}.{part}", H, H), HEADS, ENCODER_D) for part in QKV)
    scores = d.contributed("FusedMatMul", q, k, transB=1, alpha=ENCODER_D**-0.5)
    return d.merged(d.add("MatMul", d.add("Softmax", scores, axis=-1), v))


def contributed_attention(d: Draft, x: str, name: str) -> str:
    """Attention with its projections inside."""
    weights = d.store(f"{name}.qkv.w", packed(name, QKV, "w"))
    bias = d.store(f"{name}.qkv.b", packed(name, QKV, "b"))
    return d.contributed("Attention", x, weights, bias, num_heads=HEADS)


def multi_head(d: Draft, x: str, name: str) -> str:
    """MultiHeadAttention with the biases inside."""
    parts = [d.linear(x, f"{name}.{part}", H, H, bias=False) for part in QKV]
    bias = d.store(f"{name}.qkv.b", packed(name, QKV, "b"))
    return d.contributed("MultiHeadAttention", *parts, bias, num_heads=HEADS)


def standard(d: Draft, x: str, name: str) -> str:
    """Attention of opset 23 on packed heads."""
    parts = [d.linear(x, f"{name}.{part}", H, H) for part in QKV]
    return d.add("Attention", *parts, q_num_heads=HEADS, kv_num_heads=HEADS)


def standard_heads(d: Draft, x: str, name: str) -> str:
    """Attention of opset 23 on heads."""
    parts = [d.heads(d.linear(x, f"{name}.{part}", H, H), HEADS, ENCODER_D) for part in QKV]
    return d.merged(d.add("Attention", *parts))


Attend = Callable[[Draft, str, str], str]
ENCODERS: dict[str, tuple[Attend, bool]] = {
    "written out": (written_out, False),
    "FusedMatMul": (fused_matmul, True),
    "Attention": (contributed_attention, True),
    "MultiHeadAttention": (multi_head, True),
    "opset 23, packed": (standard, False),
    "opset 23, heads": (standard_heads, True),
}


def save_encoder(path: Path, form: str) -> Path:
    """Save the encoder; residual connections, norms, biases and look-ups may be fused."""
    attend, fused = ENCODERS[form]
    d = Draft()
    stream, x = _embedding(d, fused)
    for layer in range(LAYERS):
        name = f"layer{layer}"
        branch = d.linear(attend(d, x, name), f"{name}.o", H, H, bias=not fused)
        stream, x = _join(d, fused, branch, f"{name}.o", stream, f"{name}.norm")
        hidden = d.linear(x, f"{name}.up", H, MLP, bias=not fused)
        if fused:
            hidden = d.contributed("BiasGelu", hidden, d.bias(f"{name}.up", MLP))
        else:
            hidden = d.add("Gelu", hidden)
        branch = d.linear(hidden, f"{name}.down", MLP, H, bias=not fused)
        stream, x = _join(d, fused, branch, f"{name}.down", stream, f"{name}.last")
    return d.save(path, d.linear(x, "head", H, LABELS))


def _embedding(d: Draft, fused: bool) -> tuple[str, str]:
    words = d.store("words", weight("words", VOCABULARY, H))
    places = d.store("places", weight("places", PLACES, H))
    gain, bias = d.gain("embedding"), d.bias("embedding", H)
    if fused:
        inputs = ("ids", "", words, places, "", gain, bias)
        x, _, stream = d.contributed("EmbedLayerNormalization", *inputs, outputs=3, epsilon=1e-5)
        return stream, x
    length = d.add("Gather", d.add("Shape", "ids"), d.ints(1, scalar=True))
    zero, one = d.ints(0, scalar=True), d.ints(1, scalar=True)
    rows = d.add("Gather", places, d.add("Range", zero, length, one))
    stream = d.add("Add", d.add("Gather", words, "ids"), rows)
    return stream, d.add("LayerNormalization", stream, gain, bias)


def _join(d: Draft, fused: bool, branch: str, name: str, stream: str, norm: str) -> tuple[str, str]:
    """Return the stream after a block, and its norm."""
    gain, bias = d.gain(norm), d.bias(norm, H)
    if fused:
        inputs = (branch, stream, gain, bias, d.bias(name, H))
        x, _, _, total = d.contributed("SkipLayerNormalization", *inputs, outputs=4, epsilon=1e-5)
        return total, x
    total = d.add("Add", branch, stream)
    return total, d.add("LayerNormalization", total, gain, bias)


# --- the decoder: RMSNorm, rotary positions, two query heads per key-value head, a gate

GROUPED = {"q": HEADS * D, "k": KV * D, "v": KV * D}


def tables(d: Draft) -> tuple[str, str]:
    """Store cosine and sine per place and pair."""
    angles = np.outer(np.arange(PLACES), 10.0 ** -np.linspace(0, 2, D // 2))
    cosine = d.store("cos", np.cos(angles).astype(np.float32))
    return cosine, d.store("sin", np.sin(angles).astype(np.float32))


def _projected(d: Draft, x: str, name: str) -> list[str]:
    return [d.linear(x, f"{name}.{p}", H, n, bias=False) for p, n in GROUPED.items()]


def _grouped(d: Draft, parts: Sequence[str], *, rotary: int) -> str:
    cosine, sine = tables(d) if rotary else ("", "")
    inputs = (*parts, "", "", "lengths", "total", cosine, sine)
    return d.contributed(
        "GroupQueryAttention", *inputs, outputs=3, num_heads=HEADS, kv_num_heads=KV,
        do_rotary=rotary,
    )[0]  # fmt: skip


def grouped(d: Draft, x: str, name: str) -> str:
    """GroupQueryAttention that rotates inside."""
    return _grouped(d, _projected(d, x, name), rotary=1)


def grouped_cached(d: Draft, x: str, name: str) -> str:
    """GroupQueryAttention with keys and values of tokens before, which it gives back longer."""
    caches = [f"past.{name}.{part}" for part in "kv"]
    inputs = (*_projected(d, x, name), *caches, "lengths", "total", *tables(d))
    attributes = {"num_heads": HEADS, "kv_num_heads": KV, "do_rotary": 1}
    output, *present = d.contributed("GroupQueryAttention", *inputs, outputs=3, **attributes)
    d.caches.update(zip(caches, present, strict=True))
    return output


def grouped_packed(d: Draft, x: str, name: str) -> str:
    """The same on packed q, k, v."""
    weights = d.store(f"{name}.qkv.w", packed(name, GROUPED, "w"))
    return _grouped(d, (d.add("MatMul", x, weights), "", ""), rotary=1)


def rotated_before(d: Draft, x: str, name: str) -> str:
    """GroupQueryAttention after RotaryEmbedding of com.microsoft."""
    q, k, v = _projected(d, x, name)
    cosine, sine = tables(d)
    q, k = (
        d.contributed("RotaryEmbedding", part, _places(d), cosine, sine, num_heads=heads)
        for part, heads in ((q, HEADS), (k, KV))
    )
    return _grouped(d, (q, k, v), rotary=0)


def standard_grouped(d: Draft, x: str, name: str) -> str:
    """RotaryEmbedding and Attention of opset 23."""
    q, k, v = _projected(d, x, name)
    cosine, sine = tables(d)
    q, k = (
        d.add("RotaryEmbedding", part, cosine, sine, _places(d), num_heads=heads)
        for part, heads in ((q, HEADS), (k, KV))
    )
    return d.add("Attention", q, k, v, q_num_heads=HEADS, kv_num_heads=KV, is_causal=1)


def _places(d: Draft) -> str:
    """Return 0, 1, .. along the tokens for every sample."""
    shape = d.add("Shape", "ids")
    length = d.add("Gather", shape, d.ints(1, scalar=True))
    line = d.add("Range", d.ints(0, scalar=True), length, d.ints(1, scalar=True))
    return d.add("Expand", line, shape)


DECODERS: dict[str, tuple[Attend, bool]] = {
    "GroupQueryAttention": (grouped, True),
    "GroupQueryAttention, packed": (grouped_packed, True),
    "RotaryEmbedding": (rotated_before, True),
    "opset 23": (standard_grouped, False),
}
CACHED: dict[str, tuple[Attend, bool]] = {"GroupQueryAttention, cache": (grouped_cached, True)}


def save_decoder(path: Path, form: str) -> Path:
    """Save the decoder."""
    attend, fused = {**DECODERS, **CACHED}[form]
    d = Draft()
    stream = d.add("Gather", d.store("words", weight("words", VOCABULARY, H)), "ids")
    x = _rms(d, fused, stream, "first")
    for layer in range(LAYERS):
        name = f"layer{layer}"
        branch = d.linear(attend(d, x, name), f"{name}.o", HEADS * D, H, bias=False)
        stream, x = _rms_join(d, fused, branch, stream, f"{name}.norm")
        gate = d.linear(x, f"{name}.gate", H, MLP, bias=False)
        active = (
            d.contributed("QuickGelu", gate, alpha=1.0)
            if fused
            else d.add("Mul", gate, d.add("Sigmoid", gate))
        )
        hidden = d.add("Mul", active, d.linear(x, f"{name}.up", H, MLP, bias=False))
        branch = d.linear(hidden, f"{name}.down", MLP, H, bias=False)
        stream, x = _rms_join(d, fused, branch, stream, f"{name}.last")
    extra = {name for node in d.nodes for name in node.input} & {"lengths", "total"}
    return d.save(path, d.linear(x, "head", H, LABELS, bias=False), sorted(extra))


def _rms(d: Draft, fused: bool, stream: str, name: str) -> str:
    if fused:
        return d.add("SimplifiedLayerNormalization", stream, d.gain(name), axis=-1, epsilon=1e-5)
    return d.add("RMSNormalization", stream, d.gain(name), epsilon=1e-5)


def _rms_join(d: Draft, fused: bool, branch: str, stream: str, norm: str) -> tuple[str, str]:
    if fused:
        x, _, _, total = d.contributed(
            "SkipSimplifiedLayerNormalization",
            branch,
            stream,
            d.gain(norm),
            outputs=4,
            epsilon=1e-5,
        )
        return total, x
    total = d.add("Add", branch, stream)
    return total, _rms(d, fused, total, norm)


def save(path: Path, form: str) -> Path:
    """Save the encoder or decoder of a form."""
    return (save_encoder if form in ENCODERS else save_decoder)(path, form)


def feed(path: Path, batch: int, length: int) -> dict[str, np.ndarray]:
    """Return inputs of a size."""
    fed: dict[str, np.ndarray] = {
        "ids": np.random.default_rng([batch, length])
        .integers(0, VOCABULARY, (batch, length))
        .astype(np.int32),
        "lengths": np.full(batch, length - 1, np.int32),
        "total": np.array(length, np.int32),
    }
    names = {value.name for value in onnx.load(path).graph.input}
    return {name: value for name, value in fed.items() if name in names}
