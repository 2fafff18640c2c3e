"""Vision encoders, detectors, and models of images with text."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoo_models.families.encoders import NO_DROPOUT, SIZES, TOKENS
from zoo_models.family import HIDDEN_STATE, LOGITS, PIXELS, POOLED, Family, hand, hf
from zoo_models.nominal import (
    CLASSES,
    LATENT,
    PIXEL_PATCH,
    POOLER,
    POSITION,
    PROJECTED,
    VOCABULARY,
    Nominal,
    Tower,
)
from zoo_models.sizes import (
    END_OF_TEXT,
    HEADS,
    HIDDEN,
    IMAGE,
    LABELS,
    LAYERS,
    MLP,
    PATCH,
    PROJECTION,
)

PICTURE: Mapping[str, int] = {"image_size": IMAGE, "patch_size": PATCH}
VIT: Mapping[str, Any] = {**SIZES, **PICTURE, **NO_DROPOUT, "num_labels": LABELS}
_CLIP_VISION = {**SIZES, **PICTURE, "projection_dim": PROJECTION}
_CLIP_TEXT = {
    **SIZES,
    **TOKENS,
    "projection_dim": PROJECTION,
    "bos_token_id": END_OF_TEXT - 1,
    "eos_token_id": END_OF_TEXT,
}
_CLIP = {
    "text_config": _CLIP_TEXT,
    "vision_config": {**_CLIP_VISION, "hidden_size": 48, "intermediate_size": 112},
    "projection_dim": PROJECTION,
}
_SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": 4,
    "mlp_ratio": 2.5,
    "num_labels": LABELS,
}
_DINO = {**SIZES, **PICTURE, "mlp_ratio": 3, "num_labels": LABELS, "layerscale_value": 0.5}
_SAM = {
    **{k: v for k, v in SIZES.items() if k != "intermediate_size"},
    **PICTURE,
    "output_channels": 12,
    "window_size": 3,
    "global_attn_indexes": [1],
    "mlp_dim": MLP,
}
_DETR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 12],
        "depths": [1, 1],
        "layer_type": "basic",
        "out_features": ["stage2"],
    },
    "d_model": HIDDEN,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": MLP,
    "decoder_ffn_dim": MLP,
    "num_queries": 9,
    "num_labels": LABELS,
    "dropout": 0.0,
}

TOWER = Tower("vision")
OPEN = replace(TOWER, latent=True)
CLASSIFIER = Nominal((TOWER,), (PIXEL_PATCH, POSITION, CLASSES))
ENCODER = Nominal((OPEN,), (PIXEL_PATCH, POSITION, LATENT, POOLER))
_ONE_TABLE = "one table of position biases for all layers: one order of heads for the stack"
_STAGES = (
    Tower("stage 1", heads=2, kv_heads=2, hidden=16, mlp=40),
    Tower("stage 2"),
)
_DECODER = Tower("decoder")
_CROSS = replace(_DECODER, name="cross", mlp=0, stream=False)
_BOXES = ("image channels", CLASSES, "box coordinates")


def _image(model: str, config: str, options: Mapping[str, Any], nominal: Nominal) -> Family:
    head = "Classification" in model
    outputs = LOGITS if head else HIDDEN_STATE + POOLED
    return hf(model, config, options, PIXELS, outputs, nominal)


VISION: Mapping[str, Family] = {
    "vit": _image("ViTModel", "ViTConfig", VIT, ENCODER),
    "vit-cls": _image("ViTForImageClassification", "ViTConfig", VIT, CLASSIFIER),
    "deit": _image("DeiTModel", "DeiTConfig", VIT, ENCODER),
    "deit-cls": _image("DeiTForImageClassification", "DeiTConfig", VIT, CLASSIFIER),
    "beit": _image(
        "BeitForImageClassification",
        "BeitConfig",
        {**VIT, "use_relative_position_bias": True, "drop_path_rate": 0.0},
        replace(CLASSIFIER, notes=("a table of position biases per layer: heads per layer",)),
    ),
    "beit-shared": _image(
        "BeitForImageClassification",
        "BeitConfig",
        {**VIT, "use_shared_relative_position_bias": True, "drop_path_rate": 0.0},
        replace(CLASSIFIER, towers=(replace(TOWER, tied_heads=True),), notes=(_ONE_TABLE,)),
    ),
    "swin": hf(
        "SwinForImageClassification",
        "SwinConfig",
        _SWIN,
        PIXELS,
        LOGITS,
        Nominal(
            _STAGES,
            (PIXEL_PATCH, CLASSES),
            notes=("a stream per stage: merging patches mixes all channels",),
        ),
        shapes={"pixel_values": ("batch", 3, 32, 32)},
    ),
    "dinov2": _image(
        "Dinov2ForImageClassification",
        "Dinov2Config",
        _DINO,
        replace(CLASSIFIER, towers=(replace(TOWER, mlp=96),)),
    ),
    "dinov2-swiglu": _image(
        "Dinov2Model",
        "Dinov2Config",
        {**_DINO, "use_swiglu_ffn": True},
        # two thirds of the plain width, rounded up to a multiple of 8
        replace(ENCODER, towers=(replace(OPEN, gated=True, mlp=64),), notes=("packed gate, up",)),
    ),
    "siglip-vision": _image(
        "SiglipVisionModel",
        "SiglipVisionConfig",
        {**SIZES, **PICTURE},
        replace(
            ENCODER,
            towers=(OPEN, replace(OPEN, name="pooling", layers=1)),
            notes=(
                "pooling is an attention from one learned probe, and an MLP: its output is a "
                "latent stream of its own; the probe shares the packed projection's input axis "
                "with the stream it attends to",
            ),
        ),
    ),
    "clip-vision": hf(
        "CLIPVisionModelWithProjection",
        "CLIPVisionConfig",
        _CLIP_VISION,
        PIXELS,
        ("image_embeds", *HIDDEN_STATE),
        Nominal((OPEN,), (PIXEL_PATCH, POSITION, LATENT, PROJECTED)),
    ),
    "clip": hf(
        "CLIPModel",
        "CLIPConfig",
        _CLIP,
        ("input_ids", "pixel_values", "attention_mask"),
        ("logits_per_image", "text_embeds", "image_embeds"),
        Nominal(
            (replace(TOWER, name="text"), replace(TOWER, head_dim=12, hidden=48, mlp=112)),
            (VOCABULARY, POSITION, PIXEL_PATCH, PROJECTED),
        ),
        shapes={"pixel_values": ("images", 3, IMAGE, IMAGE)},
    ),
    "sam": hf(
        "SamVisionModel",
        "SamVisionConfig",
        _SAM,
        PIXELS,
        HIDDEN_STATE,
        Nominal(
            (TOWER,),
            (PIXEL_PATCH, POSITION, "last_hidden_state axis 1 (latent: the neck's channels)"),
            other={"neck": 12},
            notes=("tables of relative positions are read by all heads: one order of q and k",),
        ),
    ),
    "detr": hf(
        "DetrForObjectDetection",
        "DetrConfig",
        _DETR,
        PIXELS,
        ("logits", "pred_boxes"),
        Nominal(
            (replace(_DECODER, name="encoder", stream=False), _DECODER, _CROSS),
            _BOXES,
            notes=(
                "sine positions are computed in the graph and added to the encoder's stream: it "
                "cannot be permuted",
            ),
        ),
        shapes={"pixel_values": ("batch", 3, 48, 48)},
    ),
    "detr-learned": hf(
        "DetrForObjectDetection",
        "DetrConfig",
        {**_DETR, "position_embedding_type": "learned"},
        PIXELS,
        ("logits", "pred_boxes"),
        Nominal(
            (replace(_DECODER, name="encoder"), _DECODER, _CROSS),
            _BOXES,
            notes=(
                "learned positions are columns beside rows: each half of the encoder's stream is "
                "permuted in itself",
            ),
        ),
        shapes={"pixel_values": ("batch", 3, 48, 48)},
    ),
    "eva": hand(
        "vision",
        "RotaryViT",
        PIXELS,
        replace(
            CLASSIFIER,
            towers=(replace(TOWER, gated=True, rotary=8),),
            notes=("interleaved rotary pairs from one table: no head_qk",),
        ),
    ),
    "conv-mlp": hand(
        "vision", "ConvMlp", PIXELS, replace(CLASSIFIER, notes=("1x1 convolutions as MLP",))
    ),
}
