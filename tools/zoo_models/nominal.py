"""The structure each family has by its architecture, written by hand and not found by a tool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Tower:
    """One stack of transformer blocks over one residual stream.

    `latent` says that the residual stream is a graph output: its permutation is then visible
    outside and free only when latent outputs may change basis. `rotary` positions tie the
    dimensions of queries and keys to frequencies and leave no freedom inside a head's QK.
    """

    name: str
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 8
    hidden: int = 32
    mlp: int = 80
    gated: bool = False
    rotary: bool = False
    latent: bool = False


@dataclass(frozen=True, slots=True)
class Nominal:
    """What a correct analysis finds in every export of a family.

    `other` are free spaces outside blocks and residual streams, by name, with their size.
    `interface` are the axes that cannot be permuted because the outside world reads them.
    """

    towers: tuple[Tower, ...]
    interface: tuple[str, ...]
    other: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> dict[str, int]:
        """Number of symmetry groups by kind, latent residual streams not counted as free.

        One `head` per attention, one `head_member` per attention whose query heads share keys,
        one `head_qk` and one `head_vo` per attention (the inner permutations of all its heads
        together), one `mlp` per block.
        """
        blocks = sum(tower.layers for tower in self.towers)
        return {
            "residual": sum(not tower.latent for tower in self.towers),
            "head": blocks,
            "head_member": sum(t.layers for t in self.towers if t.kv_heads < t.heads),
            "head_qk": sum(t.layers for t in self.towers if not t.rotary),
            "head_vo": blocks,
            "mlp": blocks,
        }

    @property
    def latent_residuals(self) -> int:
        """Number of residual streams that are free only when latent outputs may change basis."""
        return sum(tower.latent for tower in self.towers)


_LATENT = "last_hidden_state axis 2 (latent: the residual stream)"
_POOLER = "pooler_output axis 1: the pooler's output axis"
_VOCABULARY = "vocabulary"
_LABELS = "labels"
_POSITIONS = "positions"
_PATCH = "image channels and patch pixels"
_PROJECTION = "projection axis of the embeddings"

_VISION = Tower("vision")
_TEXT = Tower("text")
_LLAMA = replace(_TEXT, kv_heads=2, gated=True, rotary=True)
_ENCODER = Tower("encoder")

_VIT_CLS = Nominal((_VISION,), (_PATCH, _POSITIONS, _LABELS))
_BERT = Nominal((replace(_TEXT, latent=True),), (_VOCABULARY, _POSITIONS, _LATENT, _POOLER))
_GPT2 = Nominal(
    (_TEXT,),
    (_VOCABULARY, _POSITIONS),
    notes=("packed q/k/v in one Gemm", "tied head: a second, transposed copy of the embedding"),
)
_LM = Nominal((_LLAMA,), (_VOCABULARY,), notes=("rotary pairs: no head_qk",))
_VIT = Nominal((replace(_VISION, latent=True),), (_PATCH, _POSITIONS, _LATENT, _POOLER))
_ENCODERS = Nominal(
    (_ENCODER,),
    ("input features", _LABELS),
    notes=("packed q/k/v in one MatMul",),
)

NOMINAL: Mapping[str, Nominal] = {
    "vit": _VIT,
    "vit-cls": _VIT_CLS,
    "deit": _VIT,
    "deit-cls": _VIT_CLS,
    "clip-vision": Nominal(
        (replace(_VISION, latent=True),),
        (_PATCH, _POSITIONS, _LATENT, _PROJECTION),
    ),
    "clip-text": Nominal((_TEXT,), (_VOCABULARY, _POSITIONS, _PROJECTION)),
    "clip": Nominal(
        (_TEXT, replace(_VISION, head_dim=12, hidden=48, mlp=112)),
        (_VOCABULARY, _POSITIONS, _PATCH, _PROJECTION),
    ),
    "bert": _BERT,
    "bert-mlm": Nominal(
        (_TEXT,),
        (_VOCABULARY, _POSITIONS),
        other={"mlm transform": 32},
        notes=(
            "tied decoder: where the export holds a second copy of the embedding, the transform's "
            "output is a space of its own; where one tensor serves both, it is the residual",
        ),
    ),
    "bert-cls": Nominal((_TEXT,), (_VOCABULARY, _POSITIONS, _LABELS), other={"pooler": 32}),
    "roberta": _BERT,
    "roberta-cls": Nominal(
        (_TEXT,), (_VOCABULARY, _POSITIONS, _LABELS), other={"classifier dense": 32}
    ),
    "distilbert": Nominal((replace(_TEXT, latent=True),), (_VOCABULARY, _POSITIONS, _LATENT)),
    "distilbert-cls": Nominal(
        (_TEXT,), (_VOCABULARY, _POSITIONS, _LABELS), other={"pre-classifier": 32}
    ),
    "gpt2": _GPT2,
    "llama": _LM,
    "llama-tied": replace(
        _LM, notes=(*_LM.notes, "tied head: a second, transposed copy of the embedding")
    ),
    "encoder-bf-pre": _ENCODERS,
    "encoder-bf-post": _ENCODERS,
    "encoder-sf-pre": _ENCODERS,
    "encoder-sf-post": _ENCODERS,
    "vit-cls-fresh": _VIT_CLS,
    "bert-fresh": _BERT,
    "gpt2-fresh": _GPT2,
    "llama-fresh": _LM,
    "encoder-bf-post-fresh": _ENCODERS,
}
