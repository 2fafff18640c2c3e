"""Text decoders (causal language models)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoo_models.families.encoders import SIZES, TOKENS
from zoo_models.family import LOGITS, TEXT, Family, hf
from zoo_models.nominal import POSITION, VOCABULARY, Nominal, Tower
from zoo_models.sizes import (
    END_OF_TEXT,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    MLP,
    POSITIONS,
    VOCAB,
)

GPT: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "n_positions": POSITIONS,
    "n_embd": HIDDEN,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_inner": MLP,
    "use_cache": False,
    "bos_token_id": END_OF_TEXT,
    "eos_token_id": END_OF_TEXT,
}
PLAIN_LM: Mapping[str, Any] = {
    **SIZES,
    **TOKENS,
    "use_cache": False,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED: Mapping[str, Any] = {**PLAIN_LM, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM}
LLAMA = {k: v for k, v in GROUPED.items() if not k.endswith("token_id")}
_GEMMA = {
    **GROUPED,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": HEAD_DIM,
    "sliding_window": 8,
}
_FALCON = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "ffn_hidden_size": MLP,
    "max_position_embeddings": POSITIONS,
    "use_cache": False,
}


def partial_rotary(factor: float) -> dict[str, Any]:
    """Return options for rotary positions on a share of every head."""
    return {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": factor,
        }
    }


TIED = "tied head: a second, transposed copy of the embedding"
ROTARY = "rotary pairs: no head_qk"
HALF_ROTARY = "rotary on half of each head: head_qk is the other half"
_TEXT = Tower("text")
GATED = replace(_TEXT, kv_heads=KV_HEADS, gated=True, rotary=HEAD_DIM)
LM = Nominal((GATED,), (VOCABULARY,), notes=(ROTARY,))
HALF = replace(_TEXT, rotary=HEAD_DIM // 2)
_SLOPES = (
    "the slopes of ALiBi are one constant per head for all layers: one order of heads for the stack"
)


def lm(
    name: str, options: Mapping[str, Any], nominal: Nominal, *, config: str = "", **more: Any
) -> Family:
    """Return the causal language model of a transformers architecture."""
    return hf(
        f"{name}ForCausalLM", config or f"{name}Config", options, TEXT, LOGITS, nominal, **more
    )


DECODERS: Mapping[str, Family] = {
    "gpt2": hf(
        "GPT2LMHeadModel",
        "GPT2Config",
        GPT,
        TEXT,
        LOGITS,
        Nominal((_TEXT,), (VOCABULARY, POSITION), notes=("packed q/k/v in one Gemm", TIED)),
    ),
    "gpt-neox": lm(
        "GPTNeoX",
        {**PLAIN_LM, **partial_rotary(0.5)},
        Nominal((HALF,), (VOCABULARY,), notes=("q/k/v packed head by head", HALF_ROTARY)),
    ),
    "gpt-j": lm(
        "GPTJ",
        {**GPT, "rotary_dim": HEAD_DIM // 2, "tie_word_embeddings": False},
        Nominal((HALF,), (VOCABULARY,), notes=("interleaved pairs", HALF_ROTARY)),
    ),
    "opt": lm(
        "OPT",
        {
            **{k: v for k, v in SIZES.items() if k != "intermediate_size"},
            **TOKENS,
            "ffn_dim": MLP,
            "word_embed_proj_dim": HIDDEN,
            "use_cache": False,
            "dropout": 0.0,
        },
        Nominal((_TEXT,), (VOCABULARY, POSITION), notes=(TIED,)),
    ),
    "bloom": lm(
        "Bloom",
        {
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "use_cache": False,
        },
        Nominal(
            (replace(_TEXT, mlp=4 * HIDDEN, tied_heads=True),),
            (VOCABULARY,),
            notes=("q/k/v packed head by head", TIED, _SLOPES),
        ),
    ),
    "falcon": lm(
        "Falcon",
        _FALCON,
        Nominal(
            (replace(_TEXT, kv_heads=1, rotary=HEAD_DIM),),
            (VOCABULARY,),
            notes=("one key and value head: no head, only head_member", ROTARY, TIED),
        ),
    ),
    "falcon-new": lm(
        "Falcon",
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": KV_HEADS},
        Nominal(
            (replace(_TEXT, kv_heads=KV_HEADS, rotary=HEAD_DIM),),
            (VOCABULARY,),
            notes=("q/k/v packed group by group", ROTARY, TIED),
        ),
    ),
    "llama": lm("Llama", LLAMA, LM),
    "llama-tied": lm(
        "Llama", {**LLAMA, "tie_word_embeddings": True}, replace(LM, notes=(ROTARY, TIED))
    ),
    "mistral": lm("Mistral", {**GROUPED, "sliding_window": 8}, LM),
    "qwen2": lm("Qwen2", {k: v for k, v in GROUPED.items() if k != "head_dim"}, LM),
    "qwen3": lm(
        "Qwen3", GROUPED, replace(LM, notes=(ROTARY, "norms of queries and keys shared by heads"))
    ),
    "gemma2": lm("Gemma2", _GEMMA, replace(LM, notes=(ROTARY, TIED))),
    "gemma3": lm(
        "Gemma3",
        _GEMMA,
        replace(LM, notes=(ROTARY, TIED, "norms of queries and keys shared by heads")),
        config="Gemma3TextConfig",
    ),
    "phi": lm(
        "Phi",
        {**PLAIN_LM, **partial_rotary(0.5)},
        Nominal((HALF,), (VOCABULARY,), notes=(HALF_ROTARY,)),
    ),
    "phi3": lm(
        "Phi3",
        {**PLAIN_LM, "num_key_value_heads": KV_HEADS},
        replace(LM, notes=("packed q/k/v and packed gate and up", ROTARY)),
    ),
    "mixtral": lm(
        "Mixtral",
        {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
        replace(
            LM,
            towers=(replace(GATED, experts=4),),
            notes=(ROTARY, "8-bit scores of experts are often equal, TopK then takes the first"),
            exceptions={"*+qdq*": {"expert": 0}, "*+qoperator": {"expert": 0}},
        ),
        prepare="set_experts_implementation",
    ),
}
