"""Speech models."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoo_models.families.encoders import SIZES
from zoo_models.families.seq2seq import BART
from zoo_models.family import HIDDEN_STATE, LOGITS, Family, hf
from zoo_models.nominal import LATENT, POSITION, VOCABULARY, Nominal, Tower
from zoo_models.sizes import FRAMES, MELS, POSITIONS, VOCAB

WAVES = ("input_values",)
WAV2VEC: Mapping[str, Any] = {
    **SIZES,
    "vocab_size": VOCAB,
    "conv_dim": (24, 24),
    "conv_kernel": (5, 3),
    "conv_stride": (4, 2),
    "num_conv_pos_embeddings": 5,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "layerdrop": 0.0,
}
_ENCODER = Tower("encoder")
_GROUPS = (
    "the position convolution works on 4 groups of channels: the residual stream is permuted "
    "group by group and inside each group",
)

AUDIO: Mapping[str, Family] = {
    "whisper": hf(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            **BART,
            "num_mel_bins": MELS,
            "max_source_positions": FRAMES // 2,
            "max_target_positions": POSITIONS,
        },
        ("input_features", "decoder_input_ids", "decoder_attention_mask"),
        LOGITS,
        Nominal(
            (
                _ENCODER,
                replace(_ENCODER, name="decoder"),
                replace(_ENCODER, name="cross", mlp=0, stream=False),
            ),
            ("mel bands", VOCABULARY, POSITION),
            other={"first convolution": 32},
        ),
    ),
    "wav2vec2": hf(
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        WAV2VEC,
        WAVES,
        LOGITS,
        Nominal((_ENCODER,), (VOCABULARY,), other={"convolutions": 24}, notes=_GROUPS),
    ),
    "hubert": hf(
        "HubertModel",
        "HubertConfig",
        {**WAV2VEC, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
        WAVES,
        HIDDEN_STATE,
        Nominal(
            (replace(_ENCODER, latent=True),), (LATENT,), other={"convolutions": 24}, notes=_GROUPS
        ),
    ),
}
