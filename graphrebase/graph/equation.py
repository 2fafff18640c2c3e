"""Equations of Einsum: operand terms and the output term, with implicit parts spelt out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Letters for the axes of an ellipsis, the last axis first; equations use ASCII letters only.
_OTHERS = "".join(map(chr, range(0x3B1, 0x3B1 + 16)))


@dataclass(frozen=True, slots=True)
class Equation:
    """The letters of every operand and of the output."""

    operands: tuple[str, ...]
    output: str

    @staticmethod
    def parse(text: str | bytes) -> Equation:
        """Return an equation; an implicit output has the letters that appear once, sorted."""
        plain = (text.decode() if isinstance(text, bytes) else text).replace(" ", "")
        given, arrow, output = plain.partition("->")
        if not arrow:
            once = sorted(c for c in set(given) - set(".,") if given.count(c) == 1)
            output = ("..." if "..." in given else "") + "".join(once)
        return Equation(tuple(given.split(",")), output)

    def spelt_out(self, ranks: Sequence[int]) -> Equation:
        """Return the equation with every ellipsis replaced by letters of its own.

        Args:
            ranks: rank of each operand.
        """
        counts = [
            rank - len(term) + 3 if "..." in term else 0
            for term, rank in zip(self.operands, ranks, strict=True)
        ]
        operands = tuple(
            term.replace("...", _OTHERS[:count][::-1])
            for term, count in zip(self.operands, counts, strict=True)
        )
        longest = max(counts, default=0)
        return Equation(operands, self.output.replace("...", _OTHERS[:longest][::-1]))
