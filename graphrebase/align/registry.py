"""The table of alignment methods: each is one file that registers one function here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from graphrebase.align.alignment import OptionValue
from graphrebase.align.evidence import Evidence
from graphrebase.align.maps import IndexArray
from graphrebase.errors import UsageError

Intra = Literal["paper", "split"]


@dataclass(frozen=True, slots=True)
class Options:
    """What can be asked of a method; methods ignore what does not concern them.

    Attributes:
        intra: `paper` (one map inside a head for Q, K, V and O) or `split` (Q, K apart from V, O).
        seed: of everything random.
        tolerance: relative gain of a sweep below which an ascent stops.
        max_sweeps: at most this many sweeps per start.
        spectral_bias: count biases as columns when heads are matched by singular values.
        refine_heads: re-match heads by inner products where that raises the objective.

    Raises:
        UsageError: a value out of range.
    """

    intra: str = "split"
    seed: int = 0
    tolerance: float = 1e-6
    max_sweeps: int = 100
    spectral_bias: bool = True
    refine_heads: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        if self.intra not in get_args(Intra):
            raise UsageError(f"unknown intra mode {self.intra!r}", hint="choose paper or split")
        if self.tolerance < 0 or self.max_sweeps < 1 or self.seed < 0:
            raise UsageError("tolerance and seed must not be negative, max_sweeps at least 1")

    def record(self) -> dict[str, OptionValue]:
        """Return the options as plain values for the alignment file."""
        return {
            "intra": self.intra,
            "seed": self.seed,
            "tolerance": self.tolerance,
            "max_sweeps": self.max_sweeps,
            "spectral_bias": int(self.spectral_bias),
            "refine_heads": int(self.refine_heads),
        }


@dataclass(frozen=True, slots=True)
class Found:
    """What a method returns.

    Attributes:
        maps: one map per space.
        history: the objective before the first and after every sweep.
        start: the start that was kept.
    """

    maps: Mapping[str, IndexArray]
    history: tuple[float, ...] = ()
    start: str = "none"


Method = Callable[[Evidence, Options], Found]
METHODS: Final[dict[str, Method]] = {}
"""Method name to function; filled by the method files on import of the package."""


def register(name: str) -> Callable[[Method], Method]:
    """Return a decorator that enters a method in the table."""

    def enter(method: Method) -> Method:
        METHODS[name] = method
        return method

    return enter


def find(name: str) -> Method:
    """Return the method of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}", hint=f"choose one of {', '.join(METHODS)}")
    return METHODS[name]
