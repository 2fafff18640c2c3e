"""Encoder-decoders over text."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoo_models.family import LOGITS, Family, hf
from zoo_models.nominal import POSITION, VOCABULARY, Nominal, Tower
from zoo_models.sizes import HEADS, HIDDEN, LAYERS, MLP, POSITIONS, VOCAB

BOTH_TEXTS = ("input_ids", "attention_mask", "decoder_input_ids")
_T5: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": HIDDEN,
    "d_kv": 8,
    "d_ff": MLP,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
    "use_cache": False,
}
BART: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "max_position_embeddings": POSITIONS,
    "d_model": HIDDEN,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": MLP,
    "decoder_ffn_dim": MLP,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "use_cache": False,
}

# One embedding serves both stacks: their streams are one space, counted at the encoder.
ENCODER = Tower("encoder")
DECODER = replace(ENCODER, name="decoder", stream=False)
CROSS = replace(DECODER, name="cross", mlp=0)
ONE_STREAM = "one embedding for encoder and decoder: one residual space for both"
_TABLES = "one table of position biases per stack: one order of heads for each"
_T5_TOWERS = (replace(ENCODER, tied_heads=True), replace(DECODER, tied_heads=True), CROSS)

SEQ2SEQ: Mapping[str, Family] = {
    "t5": hf(
        "T5ForConditionalGeneration",
        "T5Config",
        _T5,
        BOTH_TEXTS,
        LOGITS,
        Nominal(_T5_TOWERS, (VOCABULARY,), notes=(ONE_STREAM, _TABLES)),
    ),
    "t5-gated": hf(
        "T5ForConditionalGeneration",
        "T5Config",
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        BOTH_TEXTS,
        LOGITS,
        Nominal(
            tuple(replace(tower, gated=bool(tower.mlp)) for tower in _T5_TOWERS),
            (VOCABULARY,),
            notes=(ONE_STREAM, _TABLES),
        ),
    ),
    "bart": hf(
        "BartForConditionalGeneration",
        "BartConfig",
        BART,
        BOTH_TEXTS,
        LOGITS,
        Nominal((ENCODER, DECODER, CROSS), (VOCABULARY, POSITION), notes=(ONE_STREAM,)),
    ),
}
