"""What a family of the zoo is. Needs no torch until a module is made."""

from __future__ import annotations

import hashlib
import importlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_models.nominal import Nominal
from zoo_models.sizes import INPUTS, Shape

TEXT = ("input_ids", "attention_mask")
TYPED = (*TEXT, "token_type_ids")
PIXELS = ("pixel_values",)
HIDDEN_STATE, POOLED, LOGITS = ("last_hidden_state",), ("pooler_output",), ("logits",)


@dataclass(frozen=True, slots=True)
class Family:
    """How to build one family, what it reads and returns, and what structure it has.

    Attributes:
        make: returns the torch module; imports what it needs.
        inputs, outputs: names, in the order of the module's arguments and results.
        nominal: its structure, by hand.
        key: text that changes when the module does.
        noisy: every parameter gets noise, so that none is zero and no two are equal.
        shapes: of inputs that differ from `sizes.INPUTS`.
        baked: dynamic axes that the legacy exporter takes for constants.
        held_out: nobody writes against it; it measures how the analysis generalises.
    """

    make: Callable[[], Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nominal: Nominal
    key: str
    noisy: bool = True
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    baked: tuple[str, ...] = ()
    held_out: bool = False

    def shape(self, name: str) -> Shape:
        """Return the axes of an input; a string is a dynamic axis."""
        return self.shapes[name] if name in self.shapes else INPUTS[name]


def hf(
    model: str,
    config: str,
    options: Mapping[str, Any],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    nominal: Nominal,
    *,
    shapes: Mapping[str, Shape] | None = None,
    prepare: str = "",
    held_out: bool = False,
    **model_options: Any,
) -> Family:
    """Return a family from transformers class names; the classes are looked up when built.

    `prepare` names a method of the model to call with "batched_mm" (experts that export).
    """

    def make() -> Any:
        import transformers

        from zoo_models.modules import Zoo

        built = getattr(transformers, model)(
            getattr(transformers, config)(**options), **model_options
        )
        if prepare:
            getattr(built, prepare)("batched_mm")
        return Zoo(built, inputs, outputs)

    key = repr((model, config, sorted(options.items()), inputs, outputs, prepare, model_options))
    return Family(make, inputs, outputs, nominal, key, shapes=dict(shapes or {}), held_out=held_out)


def hand(
    source: str,
    make: str,
    inputs: tuple[str, ...],
    nominal: Nominal,
    *arguments: Any,
    outputs: tuple[str, ...] = LOGITS,
    shapes: Mapping[str, Shape] | None = None,
    baked: tuple[str, ...] = (),
) -> Family:
    """Return a family that is written here: `make` of `zoo_models.handwritten.SOURCE`."""
    path = Path(__file__).parent / "handwritten" / f"{source}.py"
    key = f"{hashlib.sha256(path.read_bytes()).hexdigest()} {make} {arguments}"

    def build() -> Any:
        module = importlib.import_module(f"zoo_models.handwritten.{source}")
        return getattr(module, make)(*arguments)

    return Family(build, inputs, outputs, nominal, key, shapes=dict(shapes or {}), baked=baked)


def merge(*tables: Mapping[str, Family]) -> dict[str, Family]:
    """Return one table of all; names must differ."""
    merged: dict[str, Family] = {}
    for name, family in itertools.chain.from_iterable(table.items() for table in tables):
        if name in merged:
            raise ValueError(f"two families are called {name!r}")
        merged[name] = family
    return merged
