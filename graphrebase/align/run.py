"""Run a method on a problem and score what it found: the entry to this package."""

from __future__ import annotations

import numpy as np

from graphrebase.align.alignment import Alignment, check_fits
from graphrebase.align.evidence import Evidence
from graphrebase.align.problem import AlignmentProblem
from graphrebase.align.registry import Options, find
from graphrebase.align.score import details, shuffled_objectives
from graphrebase.backend import select


def align(
    problem: AlignmentProblem,
    *,
    method: str = "transfusion",
    intra: str = "split",
    seed: int = 0,
    device: str = "cpu",
    tolerance: float = 1e-6,
    max_sweeps: int = 100,
    spectral_bias: bool = True,
    refine_heads: bool = True,
    shuffled_draws: int = 1,
    sha256_a: str = "",
    sha256_b: str = "",
) -> Alignment:
    """Align A with B and measure how well that worked.

    Args:
        problem: spaces and weights.
        method: a name in the table of methods.
        intra: `paper` or `split`.
        seed: of everything random; the result is the same for the same seed.
        device: `cpu`, `cuda` or `auto`.
        tolerance: relative gain of a sweep below which an ascent stops.
        max_sweeps: at most this many sweeps per start.
        spectral_bias: count biases as columns when heads are matched by singular values.
        refine_heads: re-match heads by inner products where that raises the objective.
        shuffled_draws: runs of the same method on shuffled weights, for `beyond_chance`; 0 saves
            their time.
        sha256_a: content hash of A, for the record.
        sha256_b: content hash of B, for the record.

    Returns:
        One map per space of the problem, with `details`.

    Raises:
        UsageError: unknown method, mode or device.
        MismatchError: A and B do not fit together.
        VerificationError: a weight is not finite.
    """
    options = Options(intra, seed, tolerance, max_sweeps, spectral_bias, refine_heads)
    run = find(method)
    evidence = Evidence(problem, select(device))
    found = run(evidence, options)
    optimised = bool(found.history)
    shuffled = shuffled_objectives(evidence, run, options, shuffled_draws) if optimised else ()
    alignment = Alignment(
        {name: np.ascontiguousarray(value) for name, value in found.maps.items()},
        method,
        options.record() if optimised else {},
        sha256_a,
        sha256_b,
        details(evidence, found, seed=seed, shuffled=shuffled),
    )
    check_fits(alignment, problem.spaces)
    return alignment
