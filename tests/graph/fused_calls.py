"""Calls of fused operators, small enough to run: what is fed to each, with which attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"
B, S, T, H, HEADS, KV, D, P = 2, 5, 7, 16, 4, 2, 4, 3
IDS = np.array([[1, 5, 2, 0, 3], [4, 4, 1, 2, 6]], np.int32)


@dataclass(frozen=True, slots=True)
class FusedCall:
    """One call: arrays by input name in order, ``None`` for an absent input.

    Attributes:
        outputs: how many it gives; ``""`` in ``absent`` leaves some out.
        same: its body computes the same numbers; otherwise only shapes are compared.
        expected: what it gives, where onnxruntime cannot run it without a GPU.
    """

    op_type: str
    inputs: Mapping[str, np.ndarray | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    domain: str = MICROSOFT
    same: bool = True
    tolerance: float = 1e-5
    expected: Mapping[str, np.ndarray] | None = None


def attended(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return plain attention of (B, S, h, d) operands as (B, S, h * d)."""
    scores = np.einsum("bshd,bthd->bhst", query, key) / np.sqrt(query.shape[-1])
    mixed = np.einsum("bhst,bthd->bshd", softmax(scores), value)
    return mixed.reshape(*query.shape[:2], -1)


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return values.astype(np.float32)


X, W, V = floats(B, S, H), floats(H, H, seed=1), floats(H, seed=2)
HALF = floats(16, D // 2, seed=3), floats(16, D // 2, seed=4)
PLACES = np.tile(np.arange(S), (B, 1))


def attention_calls() -> dict[str, FusedCall]:
    packed = {"x": X, "w": floats(H, 3 * H), "b": floats(3 * H)}
    heads = {"num_heads": HEADS}
    q, k, v = X, floats(B, T, H, seed=5), floats(B, T, H, seed=6)
    bias = floats(3 * H, seed=7)
    scores = floats(1, HEADS, S, T, seed=8)
    past = floats(B, HEADS, P, D, seed=9), floats(B, HEADS, P, D, seed=10)
    packed_qkv, packed_kv = floats(B, S, HEADS, 3, D), floats(B, T, HEADS, 2, D)
    as_heads = k.reshape(B, T, HEADS, D).transpose(0, 2, 1, 3)
    as_values = v.reshape(B, T, HEADS, D).transpose(0, 2, 1, 3)
    return {
        "attention": FusedCall("Attention", packed, heads),
        "attention widths": FusedCall(
            "Attention",
            {"x": X, "w": floats(H, 2 * H + 8), "b": floats(2 * H + 8)},
            {**heads, "qkv_hidden_sizes": [H, H, 8]},
        ),
        "attention mask": FusedCall(
            "Attention", {**packed, "m": np.ones((B, S), np.int32)}, heads, same=False
        ),
        "attention lengths": FusedCall(
            "Attention", {**packed, "m": np.array([S, S - 1], np.int32)}, heads, same=False
        ),
        "attention bias": FusedCall(
            "Attention", {**packed, "m": None, "p": None, "a": floats(1, HEADS, S, S)}, heads
        ),
        "attention past": FusedCall(
            "Attention",
            {**packed, "m": None, "p": np.stack(past)},
            {**heads, "unidirectional": 1},
            ("y", "present"),
        ),
        "multi-head": FusedCall(
            "MultiHeadAttention", {"q": q, "k": k, "v": v, "b": bias, "m": None, "a": scores}, heads
        ),
        "multi-head mask": FusedCall(
            "MultiHeadAttention",
            {"q": q, "k": k, "v": v, "b": None, "m": np.ones((B, T), np.int32)},
            heads,
            same=False,
        ),
        "multi-head cross": FusedCall(
            "MultiHeadAttention", {"q": q, "k": as_heads, "v": as_values, "b": None}, heads
        ),
        "multi-head past": FusedCall(
            "MultiHeadAttention",
            {"q": q, "k": X[::-1].copy(), "v": X + 1, "b": bias, "m": None, "a": None,
             "pk": past[0], "pv": past[1]},
            heads,
            ("y", "pk2", "pv2"),
        ),
        "multi-head step": FusedCall(
            "DecoderMaskedMultiHeadAttention",
            {"q": q[:, :1], "k": k[:, :1], "v": v[:, :1], "m": None, "a": None,
             "pk": past[0], "pv": past[1]},
            heads,
            ("y", "pk2", "pv2"),
            same=False,
            expected={"y": np.zeros((B, 1, H)), "pk2": np.zeros((B, HEADS, P + 1, D))},
        ),
        "multi-head packed": FusedCall(
            "MultiHeadAttention", {"q": packed_qkv}, heads,
            expected={"y": attended(*(packed_qkv[..., i, :] for i in range(3)))},
        ),
        "multi-head packed kv": FusedCall(
            "MultiHeadAttention", {"q": q, "k": packed_kv}, heads,
            expected={
                "y": attended(
                    q.reshape(B, S, HEADS, D), packed_kv[..., 0, :], packed_kv[..., 1, :]
                )
            },
        ),
    }  # fmt: skip


def grouped_calls() -> dict[str, FusedCall]:
    inner = 16  # onnxruntime takes multiples of 16
    attributes = {"num_heads": HEADS, "kv_num_heads": KV}
    lengths = {"l": np.full(B, S - 1, np.int32), "n": np.array(S, np.int32)}
    query, key, value = (
        floats(B, S, count * inner, seed=i) for i, count in enumerate((HEADS, KV, KV))
    )
    separate = {"q": query, "k": key, "v": value, "pk": None, "pv": None, **lengths}
    packed = {**separate, "q": np.concatenate([query, key, value], -1), "k": None, "v": None}
    tables = {"cos": floats(16, inner // 2), "sin": floats(16, inner // 2, seed=1)}
    outputs = ("y", "pk2", "pv2")
    empty = np.zeros((B, KV, 0, inner), np.float32)
    return {
        "grouped": FusedCall("GroupQueryAttention", separate, attributes, outputs),
        "grouped packed": FusedCall("GroupQueryAttention", packed, attributes, outputs),
        "grouped cache": FusedCall(
            "GroupQueryAttention", {**separate, "pk": empty, "pv": empty}, attributes, outputs
        ),
        "grouped rotary": FusedCall(
            "GroupQueryAttention",
            {**separate, **tables, "p": PLACES},
            {**attributes, "do_rotary": 1},
            outputs,
        ),
        "grouped rotary from lengths": FusedCall(
            "GroupQueryAttention",
            {**separate, **tables},
            {**attributes, "do_rotary": 1},
            outputs,
            same=False,
        ),
        "grouped sink": FusedCall(
            "GroupQueryAttention",
            {**separate, "cos": None, "sin": None, "p": None, "a": None, "s": floats(HEADS)},
            attributes,
            outputs,
            same=False,
        ),
    }


def standard_attention_calls() -> dict[str, FusedCall]:
    heads = {"q_num_heads": HEADS, "kv_num_heads": KV}
    k, v = floats(B, T, KV * D), floats(B, T, KV * D, seed=1)
    past = floats(B, KV, P, D, seed=9), floats(B, KV, P, D, seed=10)
    return {
        "standard packed": FusedCall(
            "Attention", {"q": X, "k": k, "v": v, "m": floats(S, T)}, heads, domain=""
        ),
        "standard past": FusedCall(
            "Attention",
            {"q": X, "k": k, "v": v, "m": None, "pk": past[0], "pv": past[1]},
            heads,
            ("y", "pk2", "pv2"),
            domain="",
        ),
        "standard scores": FusedCall(
            "Attention",
            {"q": X, "k": k, "v": v, "m": np.tri(S, T) > 0},
            {**heads, "scale": 0.3, "softcap": 5.0},
            ("y", "", "", "scores"),
            domain="",
        ),
        "standard rotary": FusedCall(
            "RotaryEmbedding",
            {"x": X, "cos": HALF[0], "sin": HALF[1], "p": PLACES},
            {"num_heads": HEADS},
            domain="",
        ),
    }


def norm_calls() -> dict[str, FusedCall]:
    gain, bias = floats(H, seed=11), floats(H, seed=12)
    skip = floats(B, S, H, seed=13)
    small = {"epsilon": 1e-5}
    words = {
        "i": IDS, "s": IDS % 2, "w": floats(9, H), "p": floats(8, H), "t": floats(2, H),
        "g": gain, "b": bias,
    }  # fmt: skip
    return {
        "skip norm": FusedCall(
            "SkipLayerNormalization",
            {"x": X, "s": skip, "g": gain, "b": bias, "c": V},
            small,
            ("y", "", "", "sum"),
        ),
        "skip norm plain": FusedCall(
            "SkipLayerNormalization", {"x": X, "s": skip, "g": gain}, small
        ),
        "skip rms norm": FusedCall(
            "SkipSimplifiedLayerNormalization",
            {"x": X, "s": skip, "g": gain, "c": V},
            small,
            ("y", "", "", "sum"),
        ),
        "rms norm": FusedCall(
            "SimplifiedLayerNormalization", {"x": X, "g": gain}, {"axis": -1, **small}, domain=""
        ),
        "embedding": FusedCall(
            "EmbedLayerNormalization", words, {"epsilon": 1e-5}, ("y", "", "sum")
        ),
        "embedding mask": FusedCall(
            "EmbedLayerNormalization",
            {**words, "m": np.ones((B, S), np.int32), "q": IDS[:, ::-1].copy() % 8},
            {"epsilon": 1e-5},
            ("y", "n"),
        ),
        "embedding without segments": FusedCall(
            "EmbedLayerNormalization", {**words, "s": None, "t": None}, small, ("y", "n"),
            same=False,
        ),
    }  # fmt: skip


def activation_calls() -> dict[str, FusedCall]:
    return {
        "bias gelu": FusedCall("BiasGelu", {"x": X, "b": V}),
        "fast gelu": FusedCall("FastGelu", {"x": X, "b": V}, tolerance=1e-2),
        "fast gelu plain": FusedCall("FastGelu", {"x": X}, tolerance=1e-2),
        "gelu": FusedCall("Gelu", {"x": X}),
        "quick gelu": FusedCall("QuickGelu", {"x": X}),
        "silu": FusedCall("QuickGelu", {"x": X}, {"alpha": 1.0}),
        "bias add": FusedCall(
            "BiasAdd", {"x": X, "b": V, "s": X + 2}, expected={"y": 2 * X + V + 2}
        ),
        "bias split": FusedCall(
            "BiasSplitGelu", {"x": X, "b": V}, expected={"y": np.zeros((B, S, H // 2))}, same=False
        ),
        "bias softmax": FusedCall(
            "BiasSoftmax",
            {"x": floats(B, HEADS, S, T), "m": floats(B, 1, 1, T)},
            {"axis": 3, "is_inner_broadcast": 1},
            expected={"y": softmax(floats(B, HEADS, S, T) + floats(B, 1, 1, T))},
        ),
    }


def contraction_calls() -> dict[str, FusedCall]:
    left, right = floats(B, 3, S, D), floats(B, 3, D, T)
    return {
        "matmul": FusedCall("FusedMatMul", {"a": left, "b": right}, {"alpha": 0.5}),
        "matmul turned": FusedCall(
            "FusedMatMul",
            {"a": left.swapaxes(2, 3).copy(), "b": right.swapaxes(2, 3).copy()},
            {"transA": 1, "transB": 1},
        ),
        "matmul batch": FusedCall(
            "FusedMatMul",
            {"a": left.transpose(2, 0, 1, 3).copy(), "b": right},
            {"transBatchA": 1},
        ),
        "matmul both": FusedCall(
            "FusedMatMul",
            {"a": left, "b": right.transpose(2, 0, 1, 3).copy().transpose(3, 1, 2, 0).copy()},
            {"transBatchB": 1, "transB": 1},
        ),
        "gemm": FusedCall(
            "FusedGemm",
            {"x": floats(S, H), "w": floats(8, H), "b": floats(8)},
            {"transB": 1, "activation": "Tanh"},
        ),
        "matmul activation": FusedCall(
            "FusedMatMulActivation",
            {"a": left, "b": right},
            {"activation": "Relu"},
            expected={"y": np.maximum(left @ right, 0)},
        ),
        "gemm gelu": FusedCall(
            "GemmFastGelu",
            {"x": X, "w": W, "b": V},
            expected={"y": np.zeros((B, S, H))},
            same=False,
        ),
        "conv": FusedCall(
            "FusedConv",
            {"x": floats(B, 3, 6, 6), "w": floats(8, 3, 3, 3), "b": floats(8)},
            {"activation": "Relu", "strides": [1, 1], "pads": [1, 1, 1, 1]},
        ),
        "conv sum": FusedCall(
            "FusedConv",
            {"x": floats(B, 3, 6, 6), "w": floats(8, 3, 3, 3), "b": floats(8),
             "z": floats(B, 8, 4, 4)},
            {"activation": "Relu"},
        ),
    }  # fmt: skip


def packed_calls() -> dict[str, FusedCall]:
    """Two samples of 4 and 3 tokens; what a body of one sample computes is not compared."""
    offsets = {"o": np.arange(8, dtype=np.int32).reshape(2, 4), "c": np.array([0, 4, 7], np.int32)}
    tokens, expected = floats(T, H), {"y": np.zeros((T, H))}
    heads = {"num_heads": HEADS}
    scores = floats(2, HEADS, 4, 4)
    return {
        "packed": FusedCall(
            "PackedAttention",
            {"x": tokens, "w": floats(H, 3 * H), "b": floats(3 * H), **offsets, "a": scores},
            heads, same=False, expected=expected,
        ),
        "packed multi-head": FusedCall(
            "PackedMultiHeadAttention",
            {"q": tokens, "k": tokens, "v": tokens, "b": floats(3 * H), **offsets},
            heads, same=False, expected=expected,
        ),
        "packed in one": FusedCall(
            "PackedMultiHeadAttention",
            {"q": floats(T, HEADS, 3, D), "k": None, "v": None, "b": None, **offsets},
            heads, same=False, expected=expected,
        ),
    }  # fmt: skip


def position_calls() -> dict[str, FusedCall]:
    tables = {"p": PLACES, "cos": HALF[0], "sin": HALF[1]}
    heads = X.reshape(B, S, HEADS, D).transpose(0, 2, 1, 3).copy()
    return {
        "rotary": FusedCall("RotaryEmbedding", {"x": X, **tables}),
        "rotary heads": FusedCall("RotaryEmbedding", {"x": heads, **tables}, {"interleaved": 1}),
        "rotary part": FusedCall(
            "RotaryEmbedding",
            {"x": X, **tables, "cos": HALF[0][:, :1].copy(), "sin": HALF[1][:, :1].copy()},
            {"num_heads": HEADS, "rotary_embedding_dim": 2},
        ),
        "relative bias": FusedCall(
            "RelativePositionBias",
            {"t": floats(8, HEADS), "n": np.array([S]), "m": np.array([T])},
            {"max_distance": 16},
            same=False,
            expected={"y": np.zeros((1, HEADS, S, T))},
        ),
        "gated relative bias": FusedCall(
            "GatedRelativePositionBias",
            {"q": X, "b": V, "r": floats(1, HEADS, S, S), "w": floats(D, 8), "c": floats(8),
             "e": floats(1, HEADS, 1, 1)},
            {"num_heads": HEADS},
            same=False,
            expected={"y": np.zeros((B, HEADS, S, S))},
        ),
    }  # fmt: skip


def einsum_calls() -> dict[str, FusedCall]:
    """Products of two operands; the weight is called kernel."""
    q, k = floats(B, HEADS, S, D), floats(B, HEADS, T, D, seed=1)
    by_place = {"q": q.transpose(0, 2, 1, 3), "k": k.transpose(0, 2, 1, 3)}
    spread, joined = floats(H, HEADS, D, seed=2), floats(HEADS, D, H, seed=3)
    equations: dict[str, tuple[str, dict[str, np.ndarray | None]]] = {
        "matrix": ("bsd,de->bse", {"x": X, "w": floats(H, 12, seed=4)}),
        "to heads": ("bsd,dhk->bhsk", {"x": X, "kernel": spread}),
        "weight first": ("dhk,bsd->bshk", {"kernel": spread, "x": X}),
        "from heads": ("bhsk,hkd->bsd", {"x": q, "kernel": joined}),
        "scores": ("bqhd,bkhd->bhqk", by_place),
        "keys first": ("bkhd,bqhd->bhqk", {"k": by_place["k"], "q": by_place["q"]}),
        "kept": ("bqhd,bkhd->bq", by_place),
    }
    return {
        f"einsum {name}": FusedCall("Einsum", inputs, {"equation": equation}, domain="")
        for name, (equation, inputs) in equations.items()
    }


TABLES: tuple[Callable[[], dict[str, FusedCall]], ...] = (
    attention_calls,
    grouped_calls,
    standard_attention_calls,
    norm_calls,
    activation_calls,
    contraction_calls,
    einsum_calls,
    packed_calls,
    position_calls,
)
CALLS = {name: call for table in TABLES for name, call in table().items()}


def save_call(call: FusedCall, path: Path) -> Path:
    """Save a graph of one call; matrices and vectors are constants, the rest graph inputs."""
    fed = {name: value for name, value in call.inputs.items() if value is not None}
    constants = [numpy_helper.from_array(v, n) for n, v in fed.items() if is_constant(n, v)]
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in fed.items()
        if not is_constant(name, value)
    ]
    names = [name if value is not None else "" for name, value in call.inputs.items()]
    node = helper.make_node(
        call.op_type, names, call.outputs, domain=call.domain, **call.attributes
    )
    outputs = [helper.make_empty_tensor_value_info(name) for name in call.outputs if name]
    graph = helper.make_graph([node], "call", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(MICROSOFT, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=11), path)
    return path


def is_constant(name: str, value: np.ndarray) -> bool:
    """Tell whether an input is a weight (float, of one or two axes, or ``kernel``) or a number."""
    return name == "kernel" or value.size == 1 or (value.dtype == np.float32 and value.ndim <= 2)
