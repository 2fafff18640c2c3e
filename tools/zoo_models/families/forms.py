"""Attention of other forms: latents, scores by position, pooled tokens, channels first."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoo_models.families.decoders import GROUPED, LM, PLAIN_LM, ROTARY, TIED, lm
from zoo_models.families.encoders import NO_DROPOUT, SIZES, TOKENS
from zoo_models.family import LOGITS, PIXELS, TEXT, Family, hf
from zoo_models.nominal import CLASSES, PIXEL_PATCH, POSITION, VOCABULARY, Nominal, Tower
from zoo_models.sizes import HEADS, HIDDEN, LABELS, LAYERS, MLP, VOCAB

_QUERY_LATENT, _KEY_LATENT = 16, 12
_LATENT: Mapping[str, Any] = {
    **PLAIN_LM,
    "num_key_value_heads": HEADS,
    "q_lora_rank": _QUERY_LATENT,
    "kv_lora_rank": _KEY_LATENT,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
}
_LATENTS = Nominal(
    (Tower("text", head_dim=12, gated=True, rotary=4),),
    (VOCABULARY,),
    other={"query latent": _QUERY_LATENT, "key latent": _KEY_LATENT},
    notes=(
        "queries and keys come from latents, free in every layer",
        "4 of 12 dimensions of a key are one rotary part for all heads: head_qk is the rest",
    ),
)
_STAGES: Mapping[str, Any] = {
    "num_encoder_blocks": 2,
    "hidden_sizes": [16, HIDDEN],
    "depths": [1, 1],
    "num_attention_heads": [2, HEADS],
    "sr_ratios": [2, 1],
    "mlp_ratios": [2, 2],
    "patch_sizes": [3, 3],
    "strides": [4, 2],
    "decoder_hidden_size": 16,
    "drop_path_rate": 0.0,
    "num_labels": LABELS,
}

FORMS: Mapping[str, Family] = {
    "deepseek-v3": lm("DeepseekV3", {**_LATENT, "first_k_dense_replace": LAYERS}, _LATENTS),
    "minicpm3": lm(
        "MiniCPM3",
        _LATENT,
        replace(_LATENTS, notes=(*_LATENTS.notes, "parts of queries and keys written into place")),
    ),
    "bitnet": lm(
        "BitNet",
        {k: v for k, v in GROUPED.items() if k != "head_dim"},
        replace(LM, notes=(ROTARY, "norms before the output maps of attention and MLP")),
    ),
    "mpt": hf(
        "MptForCausalLM",
        "MptConfig",
        {
            "d_model": HIDDEN,
            "n_heads": HEADS,
            "n_layers": LAYERS,
            "max_seq_len": 64,
            "vocab_size": VOCAB,
            "use_cache": False,
        },
        TEXT,
        LOGITS,
        Nominal(
            (Tower("text", mlp=4 * HIDDEN, tied_heads=True),),
            (VOCABULARY,),
            notes=("packed q/k/v", TIED, "ALiBi: one order of heads for the stack"),
        ),
    ),
    "xlnet": hf(
        "XLNetLMHeadModel",
        "XLNetConfig",
        {
            "vocab_size": VOCAB,
            "d_model": HIDDEN,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "d_inner": MLP,
            "dropout": 0.0,
        },
        TEXT,
        LOGITS,
        Nominal(
            (Tower("text"),),
            (VOCABULARY,),
            notes=("scores by content and by position, each with a bias per head", TIED),
        ),
    ),
    "funnel": hf(
        "FunnelForMaskedLM",
        "FunnelConfig",
        {
            "vocab_size": VOCAB,
            "block_sizes": [1, 1],
            "num_decoder_layers": LAYERS,
            "d_model": HIDDEN,
            "n_head": HEADS,
            "d_head": 8,
            "d_inner": MLP,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
        },
        TEXT,
        LOGITS,
        Nominal(
            (Tower("text", layers=2 + LAYERS),),
            (VOCABULARY,),
            notes=("tokens are pooled in pairs and put back: one stream", TIED),
        ),
    ),
    "squeezebert": hf(
        "SqueezeBertForMaskedLM",
        "SqueezeBertConfig",
        {
            **SIZES,
            **TOKENS,
            **NO_DROPOUT,
            "embedding_size": HIDDEN,
            "q_groups": 2,
            "k_groups": 2,
            "v_groups": 2,
            "post_attention_groups": 1,
            "intermediate_groups": 2,
            "output_groups": 2,
        },
        TEXT,
        LOGITS,
        Nominal(
            (Tower("text"),),
            (VOCABULARY, POSITION),
            other={"prediction": HIDDEN},
            notes=("grouped 1x1 convolutions: the stream is a grid, groups by units", TIED),
        ),
    ),
    "segformer": hf(
        "SegformerForImageClassification",
        "SegformerConfig",
        {**_STAGES, **NO_DROPOUT},
        PIXELS,
        LOGITS,
        Nominal(
            (
                Tower("stage 1", 1, heads=2, kv_heads=2, hidden=16, mlp=32),
                Tower("stage 2", 1, mlp=2 * HIDDEN),
            ),
            (PIXEL_PATCH, CLASSES),
            notes=("a depthwise convolution inside each MLP, keys of fewer positions",),
        ),
    ),
}
