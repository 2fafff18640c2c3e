"""Transformers of torch.nn and hand-written attention."""

from collections.abc import Mapping
from dataclasses import replace

from zoo_models.family import Family, hand
from zoo_models.nominal import CLASSES, VOCABULARY, Nominal, Tower
from zoo_models.sizes import HEAD_DIM, KV_HEADS

# Inside MultiheadAttention the legacy exporter takes `k.shape[0]` for a constant.
BAKED = ("sequence", "target")
_FEATURES = ("input features", CLASSES)
_PACKED = ("packed q/k/v in one MatMul",)
_ENCODER = Nominal((Tower("encoder"),), _FEATURES, notes=_PACKED)
_ATTENTION = Nominal((Tower("attention", mlp=0),), _FEATURES, notes=_PACKED)
_CROSS = replace(
    _ATTENTION,
    other={"memory": 32},
    notes=(
        "one packed weight reads both streams: where it is one tensor, the memory's order is tied "
        "to the stream's",
    ),
)

_STACKS = Nominal(
    (Tower("encoder"), Tower("decoder"), Tower("cross", mlp=0, stream=False)),
    _FEATURES,
    notes=("the decoder's layers of cross attention write to the decoder's stream",),
)

PLAIN: Mapping[str, Family] = {
    **{
        f"encoder-{'bf' if first else 'sf'}-{'pre' if norm else 'post'}": hand(
            "torch_nn",
            "Encoder",
            ("src",),
            _ENCODER,
            first,
            norm,
            shapes={} if first else {"src": ("sequence", "batch", 13)},
            baked=BAKED,
        )
        for first in (True, False)
        for norm in (True, False)
    },
    "encoder-decoder": hand("torch_nn", "EncoderDecoder", ("src", "memory"), _STACKS, baked=BAKED),
    "mha-self": hand("torch_nn", "SelfAttention", ("src",), _ATTENTION, baked=BAKED),
    "mha-cross": hand("torch_nn", "CrossAttention", ("src", "memory"), _CROSS, True, baked=BAKED),
    "mha-cross-dims": hand(
        "torch_nn",
        "CrossAttention",
        ("src", "memory"),
        replace(_ATTENTION, notes=("keys and values are read from the input itself",)),
        False,
        baked=BAKED,
    ),
    "einsum": hand(
        "einsum",
        "Einsum",
        ("src",),
        replace(_ENCODER, notes=("projections are Einsum with explicit head axes",)),
    ),
    "hand-talking": hand(
        "variants",
        "talking",
        ("input_ids",),
        Nominal(
            (Tower("text"),),
            (VOCABULARY,),
            other={"heads of the queries": 4, "heads of the weights": 4},
            notes=("heads are mixed twice: three orders of heads, of which one is the values'",),
        ),
    ),
    "hand-tiled": hand(
        "variants",
        "tiled",
        ("input_ids",),
        Nominal(
            (Tower("text", kv_heads=KV_HEADS, gated=True, rotary=HEAD_DIM // 2),),
            (VOCABULARY,),
            notes=(
                "keys are repeated as a whole: one order of the members for all heads",
                "cosines and sines are tables: their columns move with the halves of a head",
            ),
            exceptions={"*": {"head_qk": 1}},
        ),
    ),
}
