"""The `naive` method: identity maps, so that the task vector is added as it is."""

from __future__ import annotations

from graphrebase.align.evidence import Evidence
from graphrebase.align.maps import identity_maps
from graphrebase.align.registry import Found, Options, register


@register("naive")
def naive(evidence: Evidence, options: Options) -> Found:
    """Return the identity map of every space."""
    return Found(identity_maps(evidence.problem.spaces), start="identity")
