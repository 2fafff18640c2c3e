"""Heads matched by their circuits W_q^T W_k and W_v^T W_o^T, which no inner basis can change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from graphrebase.align.body import AttentionLayer, FloatArray
from graphrebase.align.folding import Folded


@dataclass(frozen=True, slots=True)
class Heads:
    """One attention layer as matrices per head, float64.

    Attributes:
        q, v: (kv, g, d, D + 1) and (kv, d, D + 1), the bias as the last column.
        k: (kv, d, D); its bias is invisible to softmax.
        o: (kv, g, d, D), transposed.
    """

    q: FloatArray
    k: FloatArray
    v: FloatArray
    o: FloatArray


def heads_of(layer: AttentionLayer, folded: dict[str, Folded]) -> Heads:
    """Return the matrices of a layer's heads."""
    q, k, v, o = (folded[x.stem] for x in layer.linears)
    query = np.concatenate([q.weight, q.bias[..., None]], -1)
    value = np.concatenate([v.weight, v.bias[..., None]], -1)
    output = np.moveaxis(o.weight, 0, -1)
    if query.ndim == 3:
        query, output = query[:, None], output[:, None]
    return Heads(query, k.weight, value, output)


def in_basis(heads: Heads, before: FloatArray, after: FloatArray) -> Heads:
    """Return A's heads with residual axes in B's basis, T being ``before`` and ``after``."""
    width = before.shape[1]
    back = np.linalg.inv(before) if before.shape[0] == width else np.linalg.pinv(before)

    def read(x: FloatArray) -> FloatArray:
        return np.concatenate([x[..., :width] @ back, x[..., width:]], -1)

    return Heads(read(heads.q), read(heads.k), read(heads.v), heads.o @ after.T)


def match(b: Heads, a: Heads, pairs: tuple[tuple[int, int], ...]) -> tuple[FloatArray, FloatArray]:
    """Return the similarity of key-value heads and of the query heads inside them.

    Args:
        b: B's heads.
        a: A's heads in B's residual basis.
        pairs: positions that rotate together.

    Returns:
        Of heads, (kv, kv); of members, (kv, kv, g, g); rows B, columns A.
    """
    scores = _cosine(b.q, b.k, a.q, a.k, pairs) + _cosine(b.o, b.v, a.o, a.v, ())
    kv, _, members, _ = scores.shape
    if members == 1:
        return scores[:, :, 0, 0], scores
    total = np.zeros((kv, kv))
    for j, i in np.ndindex(kv, kv):
        rows, columns = linear_sum_assignment(-scores[j, i])
        total[j, i] = scores[j, i][rows, columns].sum()
    return total, scores


def _cosine(
    x_b: FloatArray, y_b: FloatArray, x_a: FloatArray, y_a: FloatArray, pairs: object
) -> FloatArray:
    """Return the cosine of X^T Y between all heads, (kv_b, kv_a, g_b, g_a), by d x d Grams."""
    grams = _rotary_grams if pairs else _grams
    inner = grams(x_b, y_b, x_a, y_a, pairs)
    own_b = _own(grams(x_b, y_b, x_b, y_b, pairs))
    own_a = _own(grams(x_a, y_a, x_a, y_a, pairs))
    scale = own_b[:, None, :, None] * own_a[None, :, None, :]
    return np.asarray(inner / np.maximum(np.sqrt(np.maximum(scale, 0.0)), 1e-300))


def _own(inner: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("jjmm->jm", inner))


def _grams(
    x_b: FloatArray, y_b: FloatArray, x_a: FloatArray, y_a: FloatArray, _: object
) -> FloatArray:
    """Return <X_B^T Y_B, X_A^T Y_A> = <X_B X_A^T, Y_B Y_A^T> for all pairs of heads."""
    kv, members = x_b.shape[:2]
    inner = np.zeros((kv, kv, members, members))
    for j, i in np.ndindex(kv, kv):
        outer = y_b[j] @ y_a[i].T
        left = x_b[j] @ np.moveaxis(x_a[i].reshape(-1, x_a.shape[-1]), 0, 1)
        left = left.reshape(members, x_b.shape[2], members, x_a.shape[2])
        inner[j, i] = np.einsum("mrns,rs->mn", left, outer)
    return inner


def _rotary_grams(
    x_b: FloatArray, y_b: FloatArray, x_a: FloatArray, y_a: FloatArray, pairs: object
) -> FloatArray:
    """Return Re sum_f conj<q_b, q_a> <k_b, k_a> over the frequency pairs f."""
    first, second = np.array(pairs).T

    def turn(x: FloatArray) -> np.ndarray:
        return x[..., first, :] + 1j * x[..., second, :]

    left = np.einsum("jmfe,infe->jimnf", turn(x_b), turn(x_a).conj(), optimize=True)
    right = np.einsum("jfe,ife->jif", turn(y_b), turn(y_a).conj(), optimize=True)
    return np.asarray(np.einsum("jimnf,jif->jimn", left.conj(), right).real)
