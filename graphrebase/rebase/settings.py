"""How to align and rebase: what a user can choose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graphrebase.errors import UsageError

METHODS = ("auto", "transfusion", "anchored", "fit", "naive")
TEMPLATES = ("auto", "finetuned", "target")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to align and rebase; the names are those of the command line."""

    method: str = "auto"
    alpha: float = 1.0
    residual: str = "per-point"
    intra: str = "split"
    template: str = "auto"
    device: str = "cpu"
    seed: int = 0
    probes: Path | None = None
    keep_data: Path | None = None
    vocab_map: Path | None = None

    def __post_init__(self) -> None:
        """Check the choices."""
        for name, value, allowed in (
            ("method", self.method, METHODS),
            ("template", self.template, TEMPLATES),
            ("intra", self.intra, ("split", "paper")),
            ("residual", self.residual, ("per-point", "shared")),
        ):
            if value not in allowed:
                raise UsageError(f"unknown {name} '{value}'", hint=f"use {', '.join(allowed)}")
        if not abs(self.alpha) < float("inf"):
            raise UsageError(
                "alpha must be a finite number", hint="1 adds the fine-tuning as it is"
            )
