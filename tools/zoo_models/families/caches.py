"""Decoders with caches as inputs and outputs, and their counterparts without past."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoo_models.families.decoders import DECODERS, GPT, LLAMA
from zoo_models.family import Family, hand
from zoo_models.sizes import HEAD_DIM, HEADS, KV_HEADS, LAYERS

PARTS = tuple(f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value"))
_STATE = (
    "caches are paired state: their heads and dimensions are free when inputs and outputs may "
    "change basis together"
)


def _pair(
    name: str, model: str, config: str, options: Mapping[str, Any], kv: int
) -> dict[str, Family]:
    known = DECODERS[name].nominal
    nominal = replace(known, notes=(*known.notes, _STATE))
    outputs = ("logits", *(f"present.{part}" for part in PARTS))
    past = tuple(f"past_key_values.{part}" for part in PARTS)
    state = ("batch", kv, "past", HEAD_DIM)
    ids = ("input_ids", "attention_mask")
    arguments = (model, config, dict(options))
    return {
        f"{name}-cache": hand(
            "cache",
            "Cached",
            (*ids, *past),
            nominal,
            *arguments,
            True,
            outputs=outputs,
            shapes={"attention_mask": ("batch", "total"), **dict.fromkeys(past, state)},
        ),
        f"{name}-prefill": hand(
            "cache", "Cached", ids, nominal, *arguments, False, outputs=outputs
        ),
    }


CACHES: Mapping[str, Family] = {
    **_pair("llama", "LlamaForCausalLM", "LlamaConfig", LLAMA, KV_HEADS),
    **_pair("gpt2", "GPT2LMHeadModel", "GPT2Config", GPT, HEADS),
}
