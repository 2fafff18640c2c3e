"""Families that nobody writes against: they measure how the analysis generalises."""

from collections.abc import Mapping
from dataclasses import replace

from zoo_models.families.audio import WAV2VEC, WAVES
from zoo_models.families.decoders import (
    GATED,
    GROUPED,
    HALF,
    HALF_ROTARY,
    LM,
    PLAIN_LM,
    ROTARY,
    TIED,
    lm,
    partial_rotary,
)
from zoo_models.families.encoders import ENCODERS, NO_DROPOUT, SIZES, TOKENS
from zoo_models.families.seq2seq import BART, BOTH_TEXTS, SEQ2SEQ
from zoo_models.families.vision import CLASSIFIER, OPEN, TOWER, VIT
from zoo_models.family import HIDDEN_STATE, LOGITS, PIXELS, POOLED, TEXT, Family, hf
from zoo_models.nominal import LATENT, PIXEL_PATCH, POSITION, VOCABULARY, Nominal, Tower
from zoo_models.sizes import LABELS

_BERT = {**SIZES, **TOKENS, **NO_DROPOUT, "type_vocab_size": 2, "pad_token_id": 1}
_ROBERTA = ENCODERS["roberta"].nominal

_FAMILIES: Mapping[str, Family] = {
    "stablelm": lm(
        "StableLm",
        {**PLAIN_LM, **partial_rotary(0.5), "num_key_value_heads": 2},
        Nominal((replace(GATED, rotary=4),), (VOCABULARY,), notes=(HALF_ROTARY,)),
    ),
    "cohere": lm(
        "Cohere",
        {**GROUPED, "tie_word_embeddings": True},
        replace(LM, notes=("interleaved pairs", ROTARY, TIED)),
    ),
    "olmo2": lm(
        "Olmo2",
        {k: v for k, v in GROUPED.items() if k != "head_dim"},
        replace(LM, notes=(ROTARY, "norms over all heads of queries and keys together")),
    ),
    "starcoder2": lm(
        "Starcoder2",
        {**{k: v for k, v in GROUPED.items() if k != "head_dim"}, "sliding_window": 8},
        replace(LM, towers=(replace(GATED, gated=False),)),
    ),
    "granite": lm("Granite", {k: v for k, v in GROUPED.items() if k != "head_dim"}, LM),
    "glm": lm(
        "Glm",
        {**GROUPED, **partial_rotary(0.5)},
        Nominal(
            (replace(GATED, rotary=4),),
            (VOCABULARY,),
            notes=("interleaved pairs", HALF_ROTARY, "packed gate and up"),
        ),
    ),
    "nemotron": lm(
        "Nemotron",
        {**GROUPED, **partial_rotary(0.5)},
        Nominal((replace(HALF, kv_heads=2),), (VOCABULARY,), notes=(HALF_ROTARY,)),
    ),
    "xlm-roberta": hf(
        "XLMRobertaModel", "XLMRobertaConfig", _BERT, TEXT, HIDDEN_STATE + POOLED, _ROBERTA
    ),
    "camembert": hf(
        "CamembertForMaskedLM",
        "CamembertConfig",
        _BERT,
        TEXT,
        LOGITS,
        replace(ENCODERS["bert-mlm"].nominal),
    ),
    "convbert": hf(
        "ConvBertModel",
        "ConvBertConfig",
        {**_BERT, "embedding_size": 16, "conv_kernel_size": 3},
        TEXT,
        HIDDEN_STATE,
        Nominal(
            (replace(OPEN, name="text", heads=2, kv_heads=2),),
            (VOCABULARY, POSITION, LATENT),
            other={"embedding": 16},
            notes=("half of the heads are dynamic convolutions, not counted",),
        ),
    ),
    "data2vec-vision": hf(
        "Data2VecVisionForImageClassification",
        "Data2VecVisionConfig",
        {**VIT, "use_relative_position_bias": True, "drop_path_rate": 0.0},
        PIXELS,
        LOGITS,
        CLASSIFIER,
    ),
    "vit-mae": hf(
        "ViTMAEModel",
        "ViTMAEConfig",
        {k: v for k, v in VIT.items() if k != "num_labels"},
        ("pixel_values", "noise"),
        HIDDEN_STATE,
        Nominal((replace(TOWER, latent=True),), (PIXEL_PATCH, POSITION, LATENT)),
    ),
    "sew": hf(
        "SEWForCTC",
        "SEWConfig",
        {**WAV2VEC, "squeeze_factor": 2, "num_labels": LABELS},
        WAVES,
        LOGITS,
        Nominal(
            (Tower("encoder"),),
            (VOCABULARY,),
            notes=("grouped position convolution: the stream is permuted group by group",),
        ),
    ),
    "pegasus": hf(
        "PegasusForConditionalGeneration",
        "PegasusConfig",
        BART,
        BOTH_TEXTS,
        LOGITS,
        SEQ2SEQ["bart"].nominal,
    ),
    "m2m100": hf(
        "M2M100ForConditionalGeneration",
        "M2M100Config",
        BART,
        BOTH_TEXTS,
        LOGITS,
        SEQ2SEQ["bart"].nominal,
    ),
}
HELD_OUT: Mapping[str, Family] = {
    name: replace(family, held_out=True) for name, family in _FAMILIES.items()
}
