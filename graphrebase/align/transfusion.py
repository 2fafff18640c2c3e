"""The `transfusion` method (arXiv 2505.22697): weights-only permutations that move A onto B.

Maximises the sum over weights of <B, T A>. Heads are matched by singular values (once: no map
changes them), everything else by coordinate ascent with one linear assignment per space, from
several starts, of which the best is kept:

* **propagated**: what the anchors determine is solved first, and each space from what is already
  solved (embeddings give residual.0, that gives the maps inside heads, those residual.1, ..);
* **identity**: the published start, in seeded random orders (several for small problems, whose
  local optima differ most); left out if the first start already comes close to the ceiling;
* **naive**: the identity with unmatched heads, if its objective beats both (one lineage).

Where a sweep stands still, heads are re-matched by inner products, if that raises the objective.

Defects of the official code, and where each is avoided:

1. Matching inside heads waits for progress of the first sweep: inner maps are ordinary units of
   every sweep (`ascent.units`).
2. Only the last attention layer's progress counts: a sweep is judged by the whole objective
   (`ascent.climb`).
3. Q, K and V biases are ignored: they are weights like any other, and a column of their matrix
   in the spectra (`evidence.similarity`, `spectral.match_heads`).
4. An absolute tolerance of 1e-12 on float32 sums: steps and sweeps are judged relatively, sums
   kept in float64 (`ascent.solve`, `ascent.Stop`).
5. The reverse order skips index 0: every sweep visits every unit (`ascent.climb`).
6. Head costs are computed again in every sweep: once here, before the starts.
7. The permuted A is not equivalent without permuted skips: maps are per space of the graph's own
   algebra, so a skip ties its ends (`shared`) or the graph gets a Gather (`per-point`).
"""

from __future__ import annotations

import numpy as np

from graphrebase.align.ascent import Climb, Stop, Unit, climb, propagate, units
from graphrebase.align.evidence import Evidence, Maps
from graphrebase.align.maps import identity_maps
from graphrebase.align.registry import Found, Options, register
from graphrebase.align.spectral import match_heads

CLOSE_TO_CEILING = 0.9
"""Share of the ceiling above which a second start cannot find anything different."""

RESTART_ELEMENTS = 20_000_000
"""Weight elements that restarts may visit per sweep: a small problem affords more of them."""
MAX_RESTARTS = 16


@register("transfusion")
def transfusion(evidence: Evidence, options: Options) -> Found:
    """Return the best alignment that the starts reach; the same for the same seed."""
    swept = units(evidence, options.intra)
    plain = Maps(identity_maps(evidence.problem.spaces))
    matched = plain.copy()
    for name, value in match_heads(evidence, with_bias=options.spectral_bias).items():
        matched.set(name, value)
    best = _propagated(evidence, matched.copy(), swept, options)
    if best.objective < CLOSE_TO_CEILING * sum(map(evidence.norms, evidence.movable)):
        for run in range(restarts(evidence)):
            best = _better(best, _from(evidence, matched.copy(), swept, options, "identity", run))
    if evidence.objective(plain) > best.objective:
        best = _better(best, _from(evidence, plain, swept, options, "naive"))
    return Found(dict(best.maps.arrays()), best.history, best.start)


def restarts(evidence: Evidence) -> int:
    """Return the number of starts from the identity, 1 to 16 by the size of the problem."""
    elements = sum(int(np.prod(evidence.shape(index))) for index in evidence.movable)
    return int(np.clip(RESTART_ELEMENTS // max(elements, 1), 1, MAX_RESTARTS))


def _propagated(evidence: Evidence, maps: Maps, swept: tuple[Unit, ...], options: Options) -> Climb:
    propagate(evidence, maps, swept)
    stop = Stop(options.tolerance, options.max_sweeps)
    return climb(evidence, maps, swept, stop, start="propagated", refine_heads=options.refine_heads)


def _from(
    evidence: Evidence,
    maps: Maps,
    swept: tuple[Unit, ...],
    options: Options,
    start: str,
    run: int = 0,
) -> Climb:
    rng = np.random.default_rng([options.seed, run])
    stop = Stop(options.tolerance, options.max_sweeps)
    return climb(
        evidence, maps, swept, stop, start=start, rng=rng, refine_heads=options.refine_heads
    )


def _better(one: Climb, other: Climb) -> Climb:
    return other if other.objective > one.objective else one
