"""Text encoders."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoo_models.family import HIDDEN_STATE, LOGITS, POOLED, TEXT, TYPED, Family, hf
from zoo_models.nominal import CLASSES, LATENT, POOLER, POSITION, VOCABULARY, Nominal, Tower
from zoo_models.sizes import HEADS, HIDDEN, LABELS, LAYERS, MLP, POSITIONS, VOCAB

NO_DROPOUT: Mapping[str, float] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIZES: Mapping[str, int] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": MLP,
}
TOKENS: Mapping[str, int] = {"vocab_size": VOCAB, "max_position_embeddings": POSITIONS}

_BERT: Mapping[str, Any] = {
    **SIZES,
    **TOKENS,
    **NO_DROPOUT,
    "type_vocab_size": 2,
    "num_labels": LABELS,
}
_ROBERTA = {**_BERT, "type_vocab_size": 1, "pad_token_id": 1}
_DISTILBERT = {
    **TOKENS,
    "dim": HIDDEN,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "hidden_dim": MLP,
    "num_labels": LABELS,
}
_MPNET = {**SIZES, **TOKENS, "relative_attention_num_buckets": 32, "pad_token_id": 1}
_DEBERTA = {
    **SIZES,
    **TOKENS,
    **NO_DROPOUT,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
    "num_labels": LABELS,
    "pooler_hidden_size": HIDDEN,
}
_MODERN = {
    **SIZES,
    **TOKENS,
    "global_attn_every_n_layers": 2,
    "local_attention": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "num_labels": LABELS,
}

_TEXT = Tower("text")
_OPEN = replace(_TEXT, latent=True)
_BASE = Nominal((_OPEN,), (VOCABULARY, POSITION, LATENT, POOLER))
_HEADLESS = Nominal((_OPEN,), (VOCABULARY, POSITION, LATENT))
_TIED_DECODER = (
    "tied decoder: where the export holds a second copy of the embedding, the transform's "
    "output is a space of its own; where one tensor serves both, it is the residual"
)
_ONE_TABLE = "one table of position biases for all layers: one order of heads for the stack"
_ROTARY = "rotary pairs: no head_qk"


def _classes(dense: str) -> Nominal:
    return Nominal((_TEXT,), (VOCABULARY, POSITION, CLASSES), other={dense: HIDDEN})


ENCODERS: Mapping[str, Family] = {
    "bert": hf("BertModel", "BertConfig", _BERT, TYPED, HIDDEN_STATE + POOLED, _BASE),
    "bert-mlm": hf(
        "BertForMaskedLM",
        "BertConfig",
        _BERT,
        TEXT,
        LOGITS,
        Nominal(
            (_TEXT,),
            (VOCABULARY, POSITION),
            other={"mlm transform": HIDDEN},
            notes=(_TIED_DECODER,),
        ),
    ),
    "bert-cls": hf(
        "BertForSequenceClassification", "BertConfig", _BERT, TYPED, LOGITS, _classes("pooler")
    ),
    "roberta": hf("RobertaModel", "RobertaConfig", _ROBERTA, TEXT, HIDDEN_STATE + POOLED, _BASE),
    "roberta-cls": hf(
        "RobertaForSequenceClassification",
        "RobertaConfig",
        _ROBERTA,
        TEXT,
        LOGITS,
        _classes("classifier dense"),
    ),
    "distilbert": hf(
        "DistilBertModel", "DistilBertConfig", _DISTILBERT, TEXT, HIDDEN_STATE, _HEADLESS
    ),
    "distilbert-cls": hf(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        _DISTILBERT,
        TEXT,
        LOGITS,
        _classes("pre-classifier"),
    ),
    "albert": hf(
        "AlbertModel",
        "AlbertConfig",
        {**_BERT, "embedding_size": 16},
        TYPED,
        HIDDEN_STATE + POOLED,
        Nominal(
            (replace(_OPEN, shared=True),),
            (VOCABULARY, POSITION, LATENT, POOLER),
            other={"embedding": 16},
            notes=("all layers are one set of weights: one set of groups",),
        ),
    ),
    "electra": hf(
        "ElectraModel",
        "ElectraConfig",
        {**_BERT, "embedding_size": 16},
        TYPED,
        HIDDEN_STATE,
        replace(_HEADLESS, other={"embedding": 16}),
    ),
    "electra-cls": hf(
        "ElectraForSequenceClassification",
        "ElectraConfig",
        {**_BERT, "embedding_size": HIDDEN},
        TYPED,
        LOGITS,
        _classes("classifier dense"),
    ),
    "mpnet": hf(
        "MPNetModel",
        "MPNetConfig",
        _MPNET,
        TEXT,
        HIDDEN_STATE + POOLED,
        replace(_BASE, towers=(replace(_OPEN, tied_heads=True),), notes=(_ONE_TABLE,)),
    ),
    "deberta-v2": hf(
        "DebertaV2Model",
        "DebertaV2Config",
        _DEBERTA,
        TEXT,
        HIDDEN_STATE,
        replace(
            _HEADLESS,
            notes=(
                "position scores use the projections of queries and keys again, on embeddings of "
                "relative positions: those live in the residual stream",
            ),
        ),
    ),
    "deberta-v2-cls": hf(
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        _DEBERTA,
        TEXT,
        LOGITS,
        _classes("pooler"),
    ),
    "modernbert": hf(
        "ModernBertModel",
        "ModernBertConfig",
        _MODERN,
        TEXT,
        HIDDEN_STATE,
        Nominal((replace(_OPEN, gated=True, rotary=8),), (VOCABULARY, LATENT), notes=(_ROTARY,)),
    ),
    "modernbert-mlm": hf(
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        _MODERN,
        TEXT,
        LOGITS,
        Nominal(
            (replace(_TEXT, gated=True, rotary=8),),
            (VOCABULARY,),
            other={"mlm transform": HIDDEN},
            notes=(_ROTARY, _TIED_DECODER),
        ),
    ),
    "siglip-text": hf(
        "SiglipTextModel",
        "SiglipTextConfig",
        {**SIZES, **TOKENS, "projection_size": 24, "bos_token_id": 1, "eos_token_id": 2},
        TEXT,
        POOLED,
        Nominal((_TEXT,), (VOCABULARY, POSITION, POOLER)),
    ),
    "clip-text": hf(
        "CLIPTextModelWithProjection",
        "CLIPTextConfig",
        {
            **SIZES,
            **TOKENS,
            "projection_dim": 24,
            "bos_token_id": VOCAB - 2,
            "eos_token_id": VOCAB - 1,
        },
        TEXT,
        ("text_embeds",),
        Nominal((_TEXT,), (VOCABULARY, POSITION, "projection axis of the embeddings")),
    ),
    "t5-encoder": hf(
        "T5EncoderModel",
        "T5Config",
        {
            "vocab_size": VOCAB,
            "d_model": HIDDEN,
            "d_kv": 8,
            "d_ff": MLP,
            "num_layers": LAYERS,
            "num_heads": HEADS,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 16,
            "dropout_rate": 0.0,
        },
        TEXT,
        HIDDEN_STATE,
        Nominal((replace(_OPEN, tied_heads=True),), (VOCABULARY, LATENT), notes=(_ONE_TABLE,)),
    ),
}
