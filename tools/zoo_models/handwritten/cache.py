"""Decoders with past keys and values as inputs and outputs, in optimum's layout."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import transformers
from torch import Tensor, nn

from zoo_models.modules import Zoo

_PARTS = ("key", "value")


class Cached(Zoo):
    """A causal language model that reads and returns its cache.

    Inputs after ids and mask are `past_key_values.N.key` and `.value`, outputs after the logits
    `present.N.key` and `.value`, all `(batch, kv_heads, length, head_dim)`. Without past it
    starts from an empty cache.
    """

    def __init__(self, model: str, config: str, options: dict[str, Any], past: bool) -> None:
        """Build the model from transformers class names."""
        settings = getattr(transformers, config)(**{**options, "use_cache": True})
        parts = [f"{i}.{part}" for i in range(settings.num_hidden_layers) for part in _PARTS]
        super().__init__(
            _Flat(getattr(transformers, model)(settings)),
            ("input_ids", "attention_mask", *(f"past_key_values.{p}" for p in parts if past)),
            ("logits", *(f"present.{p}" for p in parts)),
        )


class _Flat(nn.Module):
    """A model whose cache is one tensor per layer and part, by name."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def set_attn_implementation(self, attention: str) -> None:
        """Choose how attention is computed."""
        model: Any = self.model
        model.set_attn_implementation(attention)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **past: Tensor) -> SimpleNamespace:
        """Run on ids `(batch, sequence)`, mask `(batch, past + sequence)` and the cache."""
        cache, states = transformers.DynamicCache(), list(past.values())
        for layer, (keys, values) in enumerate(zip(states[::2], states[1::2], strict=True)):
            cache.update(keys, values, layer)
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        result = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        present = {
            f"present.{i}.{part}": state
            for i, layer in enumerate(result.past_key_values.layers)
            for part, state in zip(_PARTS, (layer.keys, layer.values), strict=True)
        }
        return SimpleNamespace(logits=result.logits, **present)
