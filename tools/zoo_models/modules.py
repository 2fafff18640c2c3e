"""The torch modules of the zoo: one small random transformer per family.

Sizes are distinct wherever the architecture allows, so that axes cannot be confused: hidden 32,
MLP 80, vocabulary 101, positions 40, patches 16, labels 7, projection 24. Every parameter gets
noise after initialisation (no two parameters are equal, none is zero), except in the `-fresh`
families, whose freshly initialised norms and biases are equal-valued on purpose: the legacy
exporter merges such parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

HIDDEN, MLP, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 32, 80, 2, 4, 2, 8
VOCAB, POSITIONS, LABELS, PROJECTION, FEATURES = 101, 40, 7, 24, 13
IMAGE, PATCH = 24, 6
CLIP_VISION_HIDDEN, CLIP_VISION_MLP = 48, 112
END_OF_TEXT = VOCAB - 1
SMALL, LARGE, SAMPLE = (1, 5), (3, 11), (2, 6)  # (batch, sequence)
PADDING = 3  # masked positions at the end of the last row of the large inputs

Arrays = dict[str, np.ndarray]


class Zoo(nn.Module):
    """A model with plain positional inputs and a tuple of tensors as outputs."""

    family: str = ""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...]) -> None:
        """Wrap `model`; `outputs` are the attributes of its result to return, in order."""
        super().__init__()
        self.model = model
        self.outputs = outputs

    def _pick(self, result: Any) -> tuple[Tensor, ...]:
        return tuple(getattr(result, name) for name in self.outputs)


class Text(Zoo):
    """Token ids and a padding mask."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Run on ids and mask, both `(batch, sequence)`."""
        return self._pick(self.model(input_ids=input_ids, attention_mask=attention_mask))


class TypedText(Zoo):
    """Token ids, a padding mask and token types."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, ...]:
        """Run on ids, mask and types, all `(batch, sequence)`."""
        return self._pick(
            self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            )
        )


class Image(Zoo):
    """Pixels."""

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Run on pixels `(batch, 3, height, width)`."""
        return self._pick(self.model(pixel_values=pixel_values))


class ImageText(Zoo):
    """Pixels and captions."""

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, ...]:
        """Run on ids and mask `(texts, sequence)` and pixels `(images, 3, height, width)`."""
        return self._pick(
            self.model(
                input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask
            )
        )


class Encoder(Zoo):
    """torch.nn.TransformerEncoder between a linear embedding and a linear head."""

    def __init__(self, batch_first: bool, norm_first: bool) -> None:
        """Build the encoder; pre-norm uses GELU and a final norm, post-norm ReLU and none."""
        layer = nn.TransformerEncoderLayer(
            HIDDEN,
            HEADS,
            MLP,
            dropout=0.0,
            activation="gelu" if norm_first else "relu",
            batch_first=batch_first,
            norm_first=norm_first,
        )
        norm = nn.LayerNorm(HIDDEN) if norm_first else None
        encoder = nn.TransformerEncoder(layer, LAYERS, norm=norm, enable_nested_tensor=False)
        super().__init__(encoder, ("logits",))
        self.embed = nn.Linear(FEATURES, HIDDEN)
        self.head = nn.Linear(HIDDEN, LABELS)

    def forward(self, src: Tensor) -> tuple[Tensor, ...]:
        """Run on features `(batch, sequence, 13)`, or sequence first."""
        return (self.head(self.model(self.embed(src))),)


@dataclass(frozen=True, slots=True)
class Family:
    """How to build one family and what it reads and returns."""

    make: Callable[[], Zoo]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    noisy: bool = True


TEXT = ("input_ids", "attention_mask")
TYPED = (*TEXT, "token_type_ids")
PIXELS = ("pixel_values",)
BOTH = ("input_ids", "pixel_values", "attention_mask")
NO_DROPOUT: Mapping[str, float] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIZES: Mapping[str, int] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": MLP,
}
TOKENS: Mapping[str, int] = {"vocab_size": VOCAB, "max_position_embeddings": POSITIONS}
PICTURE: Mapping[str, int] = {"image_size": IMAGE, "patch_size": PATCH}


def _hf(
    wrapper: type[Zoo],
    model: str,
    config: str,
    options: Mapping[str, Any],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    *,
    noisy: bool = True,
    **model_options: Any,
) -> Family:
    """Return a family from transformers class names; the classes are looked up when built."""

    def make() -> Zoo:
        settings = getattr(transformers, config)(**options)
        return wrapper(getattr(transformers, model)(settings, **model_options), outputs)

    return Family(make, inputs, outputs, noisy)


def _families() -> dict[str, Family]:
    vit = {**SIZES, **PICTURE, **NO_DROPOUT, "num_labels": LABELS}
    bert = {**SIZES, **TOKENS, **NO_DROPOUT, "type_vocab_size": 2, "num_labels": LABELS}
    roberta = {**bert, "type_vocab_size": 1, "pad_token_id": 1}
    distilbert = {
        "vocab_size": VOCAB,
        "max_position_embeddings": POSITIONS,
        "dim": HIDDEN,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "hidden_dim": MLP,
        "num_labels": LABELS,
    }
    gpt2 = {
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
    llama = {
        **SIZES,
        **TOKENS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "use_cache": False,
        "tie_word_embeddings": False,
    }
    clip_vision = {**SIZES, **PICTURE, "projection_dim": PROJECTION}
    clip_text = {
        **SIZES,
        **TOKENS,
        "projection_dim": PROJECTION,
        "bos_token_id": END_OF_TEXT - 1,
        "eos_token_id": END_OF_TEXT,
    }
    wide = {**clip_vision, "hidden_size": CLIP_VISION_HIDDEN, "intermediate_size": CLIP_VISION_MLP}
    clip = {"text_config": clip_text, "vision_config": wide, "projection_dim": PROJECTION}
    hidden, pooled, logits = ("last_hidden_state",), ("pooler_output",), ("logits",)
    table = {
        "vit": _hf(Image, "ViTModel", "ViTConfig", vit, PIXELS, hidden + pooled),
        "vit-cls": _hf(Image, "ViTForImageClassification", "ViTConfig", vit, PIXELS, logits),
        "deit": _hf(Image, "DeiTModel", "DeiTConfig", vit, PIXELS, hidden + pooled),
        "deit-cls": _hf(Image, "DeiTForImageClassification", "DeiTConfig", vit, PIXELS, logits),
        "clip-vision": _hf(
            Image,
            "CLIPVisionModelWithProjection",
            "CLIPVisionConfig",
            clip_vision,
            PIXELS,
            ("image_embeds", *hidden),
        ),
        "clip-text": _hf(
            Text,
            "CLIPTextModelWithProjection",
            "CLIPTextConfig",
            clip_text,
            TEXT,
            ("text_embeds",),
        ),
        "clip": _hf(
            ImageText,
            "CLIPModel",
            "CLIPConfig",
            clip,
            BOTH,
            ("logits_per_image", "text_embeds", "image_embeds"),
        ),
        "bert": _hf(TypedText, "BertModel", "BertConfig", bert, TYPED, hidden + pooled),
        "bert-mlm": _hf(Text, "BertForMaskedLM", "BertConfig", bert, TEXT, logits),
        "bert-cls": _hf(
            TypedText, "BertForSequenceClassification", "BertConfig", bert, TYPED, logits
        ),
        "roberta": _hf(Text, "RobertaModel", "RobertaConfig", roberta, TEXT, hidden + pooled),
        "roberta-cls": _hf(
            Text, "RobertaForSequenceClassification", "RobertaConfig", roberta, TEXT, logits
        ),
        "distilbert": _hf(Text, "DistilBertModel", "DistilBertConfig", distilbert, TEXT, hidden),
        "distilbert-cls": _hf(
            Text,
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            distilbert,
            TEXT,
            logits,
        ),
        "gpt2": _hf(Text, "GPT2LMHeadModel", "GPT2Config", gpt2, TEXT, logits),
        "llama": _hf(Text, "LlamaForCausalLM", "LlamaConfig", llama, TEXT, logits),
        "llama-tied": _hf(
            Text,
            "LlamaForCausalLM",
            "LlamaConfig",
            {**llama, "tie_word_embeddings": True},
            TEXT,
            logits,
        ),
    }
    for batch_first in (True, False):
        for norm_first in (True, False):
            name = f"encoder-{'bf' if batch_first else 'sf'}-{'pre' if norm_first else 'post'}"
            table[name] = Family(_encoder(batch_first, norm_first), ("src",), logits)
    for name in ("vit-cls", "bert", "gpt2", "llama", "encoder-bf-post"):
        known = table[name]
        table[f"{name}-fresh"] = Family(known.make, known.inputs, known.outputs, noisy=False)
    return table


def _encoder(batch_first: bool, norm_first: bool) -> Callable[[], Zoo]:
    return lambda: Encoder(batch_first, norm_first)


FAMILIES: Mapping[str, Family] = _families()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def add_noise(module: nn.Module, seed: int, scale: float = 1.0) -> None:
    """Add seeded noise in place to every parameter.

    Matrices get `scale / sqrt(last axis)`, vectors and scalars `0.2 * scale`, standard deviation:
    activations stay of order one and a permuted weight is seen in the outputs.
    """
    generator = _generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            width = parameter[0].numel() if parameter.ndim > 2 else parameter.shape[-1:].numel()
            deviation = 1 / math.sqrt(width) if parameter.ndim > 1 else 0.2
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(scale * deviation * noise)


def sample_inputs(family: str, batch: int, sequence: int, *, seed: int = 0, pad: int = 0) -> Arrays:
    """Return random inputs of a family by name, in the order its module takes them.

    Token ids lie in the vocabulary and end with the end-of-text token. The last `pad` positions
    of the last row are masked out (the end-of-text token moves before them).
    """
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, END_OF_TEXT - 1, (batch, sequence), dtype=np.int64)
    mask = np.ones((batch, sequence), np.int64)
    ids[:, -1] = END_OF_TEXT
    if pad:
        ids[-1, -1 - pad], ids[-1, -pad:], mask[-1, -pad:] = END_OF_TEXT, 1, 0
    images = batch + 1 if family == "clip" else batch  # not as many images as texts
    features = (sequence, batch) if family.startswith("encoder-sf") else (batch, sequence)
    types = np.zeros((batch, sequence), np.int64)
    types[:, sequence // 2 :] = 1
    known: Arrays = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": types,
        "pixel_values": rng.standard_normal((images, 3, IMAGE, IMAGE)).astype(np.float32),
        "src": rng.standard_normal((*features, FEATURES)).astype(np.float32),
    }
    return {name: known[name] for name in FAMILIES[family].inputs}


def fixed_sequence(family: str, exporter: str) -> int:
    """Return the sequence length that an exporter bakes into a family, 0 if it stays dynamic.

    The legacy exporter takes `k.shape[0]` inside MultiheadAttention for a constant.
    """
    return SAMPLE[1] if family.startswith("encoder") and exporter.startswith("ts") else 0


def make_module(family: str, seed: int = 0) -> tuple[Zoo, Arrays, tuple[str, ...]]:
    """Return a family's module in eval mode, sample inputs by name, and its output names.

    Raises:
        KeyError: the family is not in `FAMILIES`.
    """
    known = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = known.make().eval()
    module.family = family
    if known.noisy:
        add_noise(module, seed + 1)
    batch, sequence = SAMPLE
    return module, sample_inputs(family, batch, sequence), known.outputs
