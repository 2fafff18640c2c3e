"""Calls of fused norms, embeddings, activations, matrix products and convolutions."""

from __future__ import annotations

import numpy as np
from graph.fused_calls.call import HEADS, IDS, B, D, FusedCall, H, S, T, V, W, X, floats, softmax


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
