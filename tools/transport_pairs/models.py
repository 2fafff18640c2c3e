"""The architectures of the pairs: small transformers of transformers' own classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from transport_pairs.corpora import CHARACTERS, VOCABULARY
from transport_pairs.domains import IMAGE_CLASSES, SPECIMENS
from transport_pairs.glyphs import IMAGE

POSITIONS = 96


class Model(nn.Module):
    """A network with plain inputs and one output, the logits."""

    def __init__(self, net: nn.Module, inputs: tuple[str, ...]) -> None:
        """Wrap `net`; `inputs` are the names of what it reads, in order."""
        super().__init__()
        self.net, self.inputs = net, inputs

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map pixels or token ids (and a mask) to logits `(n, .., classes)`."""
        result = self.net(**dict(zip(self.inputs, inputs, strict=False)))
        logits: Tensor = result.logits
        return logits


class MeanClassifier(nn.Module):
    """BERT with a linear classifier on the mean of the last hidden state, no pooler."""

    def __init__(self, config: BertConfig) -> None:
        """Initialise at random."""
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def set_attn_implementation(self, name: str) -> None:
        """Choose how attention is computed."""
        self.bert.set_attn_implementation(name)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        """Return an object with `logits` `(n, classes)`."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return _Logits(self.classifier(hidden.mean(1)))


@dataclass(frozen=True, slots=True)
class _Logits:
    logits: Tensor


@dataclass(frozen=True, slots=True)
class Architecture:
    """A family and its sizes."""

    family: str
    width: int
    depth: int
    heads: int
    mlp: int
    kv_heads: int = 0


ARCHITECTURES = {
    "vit": Architecture("vit", 96, 5, 4, 384),
    "vit-wide": Architecture("vit", 128, 5, 4, 512),
    "vit-deep": Architecture("vit", 96, 7, 4, 384),
    "gpt": Architecture("gpt", 128, 4, 4, 512),
    "gpt-wide": Architecture("gpt", 160, 4, 4, 640),
    "gpt-deep": Architecture("gpt", 128, 6, 4, 512),
    "llama": Architecture("llama", 128, 4, 8, 320, kv_heads=4),
    "bert": Architecture("bert", 112, 4, 4, 448),
    "masked": Architecture("bert", 112, 4, 4, 448),
    "bert-cls": Architecture("bert-cls", 112, 4, 4, 448),
    "bert-mean": Architecture("bert-mean", 112, 4, 4, 448),
    "tiny": Architecture("vit", 16, 1, 2, 32),
}


def _sizes(a: Architecture) -> dict[str, Any]:
    return dict(
        hidden_size=a.width,
        num_hidden_layers=a.depth,
        num_attention_heads=a.heads,
        intermediate_size=a.mlp,
        initializer_range=0.05,
    )


def _vit(a: Architecture) -> Model:
    config = ViTConfig(
        **_sizes(a), image_size=IMAGE, patch_size=4, num_channels=1, num_labels=IMAGE_CLASSES
    )
    return Model(ViTForImageClassification(config), ("pixel_values",))


def _gpt(a: Architecture) -> Model:
    config = GPT2Config(
        vocab_size=len(CHARACTERS),
        n_positions=POSITIONS,
        n_embd=a.width,
        n_layer=a.depth,
        n_head=a.heads,
        n_inner=a.mlp,
        activation_function="gelu_pytorch_tanh",
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        initializer_range=0.05,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    return Model(GPT2LMHeadModel(config), ("input_ids", "attention_mask"))


def _llama(a: Architecture) -> Model:
    config = LlamaConfig(
        **_sizes(a),
        vocab_size=len(CHARACTERS),
        max_position_embeddings=POSITIONS,
        num_key_value_heads=a.kv_heads,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return Model(LlamaForCausalLM(config), ("input_ids", "attention_mask"))


def _bert_config(a: Architecture) -> BertConfig:
    return BertConfig(
        **_sizes(a),
        vocab_size=VOCABULARY,
        max_position_embeddings=POSITIONS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=len(SPECIMENS),
    )


def _bert(make: Callable[[BertConfig], Any]) -> Callable[[Architecture], Model]:
    def build(a: Architecture) -> Model:
        net = make(_bert_config(a))
        _start_with_waves(net.bert.embeddings.position_embeddings.weight)
        return Model(net, ("input_ids", "attention_mask"))

    return build


def _start_with_waves(positions: Tensor, size: float = 0.1, longest: float = 200.0) -> None:
    """Fill a table (P, D) with sines and cosines, from which it is trained on.

    Neighbours then differ by a rotation, so a small masked model finds out about them in hundreds
    of steps; from random positions it knew letter frequencies only after 1500.
    """
    count, width = positions.shape
    rates = longest ** (-torch.arange(width // 2) / (width // 2))
    angles = torch.arange(count)[:, None] * rates
    with torch.no_grad():
        positions.copy_(size * torch.cat((angles.sin(), angles.cos()), 1))


FAMILIES: dict[str, Callable[[Architecture], Model]] = {
    "vit": _vit,
    "gpt": _gpt,
    "llama": _llama,
    "bert": _bert(BertForMaskedLM),
    "bert-cls": _bert(BertForSequenceClassification),
    "bert-mean": _bert(MeanClassifier),
}


def make_model(name: str, width: int = 1, depth: int = 1) -> Model:
    """Return a model of `ARCHITECTURES` with random weights, from torch's global generator.

    Args:
        name: of the architecture.
        width: factor of its width, and of heads and MLP with it.
        depth: factor of its number of blocks.
    """
    small = ARCHITECTURES[name]
    sizes = {size: width * getattr(small, size) for size in ("width", "heads", "mlp", "kv_heads")}
    return FAMILIES[small.family](replace(small, depth=depth * small.depth, **sizes))


def continue_from(model: Model, old: Model) -> None:
    """Copy every weight that both have, by name and shape; the others keep their values."""
    weights = {k: v for k, v in old.state_dict().items() if k in model.state_dict()}
    if not weights:
        raise ValueError("the models share no weight")
    model.load_state_dict(weights, strict=False)


def parameter_count(model: Model) -> int:
    """Return the number of parameters, shared ones once."""
    return sum(weight.numel() for weight in model.parameters())
