"""The last block fitted to the wanted logits: Newton steps on the second layer of the last MLP.

What follows the last block is known exactly, a norm and one linear map, so the last layer need not
aim at a stream: it can aim at the logits p* wanted on the probes, and at B's own on keep probes.
The objective over its change C, with C_0 the ridge solution of the stream and G its Gram matrix,

    sum_i w_i KL(p*_i || p_i(C)) + s/2 tr((C - C_0) G (C - C_0)^T),

is minimised with the Kronecker-factored Gauss-Newton matrix (Martens & Grosse, ICML 2015)
(F + s I) x G, F the mean Fisher matrix of the logits carried back through norm and head. Forward
passes only: the gradient through a norm and one matrix is written out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from graphrebase.align.body import FloatArray, Linear, Read
from graphrebase.align.folding import fold

SingleArray = NDArray[np.float32]
EPSILON = 1e-6
AGREES = 1e-3
"""Largest relative difference of logits at which a linear readout counts as the model's own."""
CHUNK = 1 << 22
"""Logits held at once."""
SMALLEST_STEP = 1e-3


@dataclass(frozen=True, slots=True)
class Readout:
    """A norm and a linear map, from the last stream to logits.

    Attributes:
        weight: (C, D), the norm's gain folded in.
        bias: (C,).
        centred: the norm subtracts the mean.
        normed: there is a norm.
    """

    weight: FloatArray
    bias: FloatArray
    centred: bool
    normed: bool

    @classmethod
    def of(cls, head: Linear, read: Read) -> Readout:
        """Return the readout of a model's head."""
        folded = fold(head, read)
        norm = head.norm
        return cls(folded.weight, folded.bias, norm is not None and norm.centred, norm is not None)

    def normalise(self, stream: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the normalised stream (N, D) and what it was divided by, (N, 1)."""
        if not self.normed:
            return stream, np.ones((len(stream), 1))
        kept = stream - stream.mean(axis=1, keepdims=True) if self.centred else stream
        size = np.sqrt((kept**2).mean(axis=1, keepdims=True) + EPSILON)
        return kept / size, size

    def logits(self, stream: FloatArray) -> FloatArray:
        """Return the logits (N, C) of a stream (N, D)."""
        return self.normalise(stream)[0] @ self.weight.T + self.bias

    def back(self, normalised: FloatArray, size: FloatArray, error: FloatArray) -> FloatArray:
        """Return the gradient at the stream, (N, D), of one at the logits, (N, C)."""
        gradient = error @ self.weight
        if not self.normed:
            return gradient
        gradient = gradient - normalised * (normalised * gradient).mean(axis=1, keepdims=True)
        if self.centred:
            gradient = gradient - gradient.mean(axis=1, keepdims=True)
        return np.asarray(gradient / size)

    def agrees(self, stream: FloatArray, logits: FloatArray | None) -> bool:
        """Return whether it gives a model's own logits (N, C) on a stream."""
        if logits is None or logits.shape != (len(stream), len(self.bias)):
            return False
        scale = max(float(np.abs(logits).max()), 1e-6)
        return float(np.abs(self.logits(stream) - logits).max()) <= AGREES * scale


@dataclass(frozen=True, slots=True)
class Samples:
    """Tokens whose logits the last layer is fitted to.

    Attributes:
        hidden: input of the second layer, (N, M), a column of ones last where it has a bias.
        before: the stream without the layer's change, (N, D).
        wanted: probabilities (N, C), in single precision: these may be many.
        weights: (N,).
    """

    hidden: FloatArray
    before: FloatArray
    wanted: SingleArray
    weights: FloatArray


@dataclass(frozen=True, slots=True)
class _State:
    value: float
    gradient: FloatArray
    fisher: FloatArray


def refine(
    readout: Readout, samples: Samples, start: FloatArray, gram: FloatArray, stay: float, steps: int
) -> FloatArray:
    """Return a better change of the last layer, (D, M).

    Args:
        readout: of the updated B.
        samples: what is wanted where.
        start: the ridge solution.
        gram: its Gram matrix with the ridge, (M, M).
        stay: s, the weight of the stream's fit; 1 over the variance of the wanted move makes a
            stream that does not move at all cost half a nat per token.
        steps: Newton steps.
    """
    factor = linalg.cho_factor(gram)
    change, step = start, 1.0
    state = _evaluate(readout, samples, change, start, gram, stay)
    for _ in range(steps):
        metric = state.fisher + np.eye(len(state.fisher)) * stay
        direction = linalg.solve(metric, state.gradient, assume_a="pos")
        direction = linalg.cho_solve(factor, direction.T).T
        while step >= SMALLEST_STEP:
            trial = change + step * direction
            found = _evaluate(readout, samples, trial, start, gram, stay)
            if found.value < state.value:
                break
            step /= 2
        else:
            break
        change, state, step = trial, found, min(1.0, 2 * step)
    return change


def _evaluate(
    readout: Readout,
    samples: Samples,
    change: FloatArray,
    start: FloatArray,
    gram: FloatArray,
    stay: float,
) -> _State:
    moved = (change - start) @ gram
    value = 0.5 * stay * float((moved * (change - start)).sum())
    gradient = -stay * moved
    width = len(change)
    means, spreads, total = np.zeros((width, width)), np.zeros(len(readout.bias)), 0.0
    for rows in _chunks(len(samples.weights), len(readout.bias)):
        weights, hidden = samples.weights[rows], samples.hidden[rows]
        normalised, size = readout.normalise(samples.before[rows] + hidden @ change.T)
        log = log_softmax(normalised @ readout.weight.T + readout.bias)
        found, wanted = np.exp(log), samples.wanted[rows].astype(np.float64)
        entropy = np.where(wanted > 0, wanted * np.log(np.maximum(wanted, 1e-30)), 0.0)
        value += float(weights @ (entropy - wanted * log).sum(axis=1))
        back = readout.back(normalised, size, (wanted - found) * weights[:, None])
        gradient = gradient + back.T @ hidden
        spread = weights / size[:, 0] ** 2
        mean = (found * np.sqrt(spread)[:, None]) @ readout.weight
        means += mean.T @ mean
        spreads += spread @ found
        total += float(weights.sum())
    # sum_i s_i W^T (diag(p_i) - p_i p_i^T) W, its first part over all tokens at once
    fisher = readout.weight.T @ (readout.weight * spreads[:, None]) - means
    return _State(value, gradient, _damped(fisher / max(total, 1e-300)))


def _damped(fisher: FloatArray, damping: float = 0.03) -> FloatArray:
    return fisher + np.eye(len(fisher)) * damping * float(fisher.trace()) / len(fisher)


def _chunks(count: int, classes: int) -> Iterator[slice]:
    size = max(1, CHUNK // classes)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def log_softmax(logits: FloatArray) -> FloatArray:
    """Return log probabilities along the last axis."""
    top = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(top - np.log(np.exp(top).sum(axis=-1, keepdims=True)))


def softmax(logits: SingleArray) -> SingleArray:
    """Return probabilities along the last axis; the logits, which may be large, are overwritten."""
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits
