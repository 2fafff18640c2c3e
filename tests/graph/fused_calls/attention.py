"""Calls of attention, fused and standard, with caches, positions and packed tokens."""

from __future__ import annotations

import numpy as np
from graph.fused_calls.call import (
    HALF,
    HEADS,
    KV,
    PLACES,
    B,
    D,
    FusedCall,
    H,
    P,
    S,
    T,
    V,
    X,
    floats,
    softmax,
)


def attended(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return plain attention of (B, S, h, d) operands as (B, S, h * d)."""
    scores = np.einsum("bshd,bthd->bhst", query, key) / np.sqrt(query.shape[-1])
    mixed = np.einsum("bhst,bthd->bshd", softmax(scores), value)
    return mixed.reshape(*query.shape[:2], -1)


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
