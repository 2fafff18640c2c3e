"""Decoders with past keys and values as inputs and outputs, in optimum's layout."""

from __future__ import annotations

from typing import Any

import transformers
from torch import Tensor

from zoo_models.modules import Zoo


class Cached(Zoo):
    """A causal language model that reads and returns its cache.

    Inputs after ids and mask are `past_key_values.N.key` and `.value`, outputs after the logits
    `present.N.key` and `.value`, all `(batch, kv_heads, length, head_dim)`. Without past it
    starts from an empty cache.
    """

    def __init__(self, model: str, config: str, options: dict[str, Any], past: bool) -> None:
        """Build the model from transformers class names."""
        settings = getattr(transformers, config)(**{**options, "use_cache": True})
        layers = settings.num_hidden_layers
        parts = [f"{i}.{part}" for i in range(layers) for part in ("key", "value")]
        super().__init__(
            getattr(transformers, model)(settings),
            ("input_ids", "attention_mask", *(f"past_key_values.{p}" for p in parts if past)),
            ("logits", *(f"present.{p}" for p in parts)),
        )
        self.layers = layers

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """Run on ids `(batch, sequence)`, mask `(batch, past + sequence)` and the cache."""
        ids, mask, *past = arrays
        cache = transformers.DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        result = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        states = [
            state for layer in result.past_key_values.layers for state in (layer.keys, layer.values)
        ]
        return (result.logits, *states)
