"""Transformers made of torch.nn: TransformerEncoder, Transformer and MultiheadAttention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo_models.modules import Zoo
from zoo_models.sizes import FEATURES, HEADS, HIDDEN, LABELS, LAYERS, MEMORY, MLP


class _Plain(Zoo):
    """A linear embedding of features, a stack over it, a linear head."""

    def __init__(self, stack: nn.Module, inputs: tuple[str, ...]) -> None:
        super().__init__(stack, inputs, ("logits",))
        self.embed = nn.Linear(FEATURES, HIDDEN)
        self.head = nn.Linear(HIDDEN, LABELS)

    def set_attention(self, attention: str) -> None:
        """Make MultiheadAttention compute its weights for `eager`: it then is not fused."""
        for part in self.modules():
            if isinstance(part, nn.MultiheadAttention):
                attend = type(part).forward.__get__(part)
                chosen = _with_weights(attend) if attention == "eager" else attend
                part.forward = chosen  # type: ignore[method-assign]


def _with_weights(attend: Any) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        kwargs["need_weights"] = True
        return attend(*args, **kwargs)

    return forward


class Encoder(_Plain):
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
        super().__init__(
            nn.TransformerEncoder(layer, LAYERS, norm=norm, enable_nested_tensor=False), ("src",)
        )

    def forward(self, src: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Run on features `(batch, sequence, 13)`, or sequence first."""
        return (self.head(self.model(self.embed(src))),)


class EncoderDecoder(_Plain):
    """torch.nn.Transformer between linear embeddings and a linear head."""

    def __init__(self) -> None:
        """Build it, post-norm with ReLU, as torch does by default."""
        stacks = nn.Transformer(HIDDEN, HEADS, LAYERS, LAYERS, MLP, dropout=0.0, batch_first=True)
        super().__init__(stacks, ("src", "memory"))
        self.remember = nn.Linear(MEMORY, HIDDEN)

    def forward(self, src: Tensor, memory: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Run on features `(batch, sequence, 13)` and memory `(batch, target, 11)` to encode."""
        return (self.head(self.model(self.remember(memory), self.embed(src))),)


class _Layers(nn.Module):
    """Layers of one MultiheadAttention and one norm each."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True, **options) for _ in range(LAYERS)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(LAYERS))

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        for attend, norm in zip(self.attention, self.norms, strict=True):
            source = x if memory is None else memory
            x = norm(x + attend(x, source, source, need_weights=False)[0])
        return x


class SelfAttention(_Plain):
    """torch.nn.MultiheadAttention over its own input, with residual connections."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__(_Layers(), ("src",))

    def forward(self, src: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Run on features `(batch, sequence, 13)`."""
        return (self.head(self.model(self.embed(src))),)


class CrossAttention(_Plain):
    """torch.nn.MultiheadAttention from one sequence to another."""

    def __init__(self, packed: bool) -> None:
        """Build it; not packed: keys and values are projected from the memory's own width."""
        options = {} if packed else {"kdim": MEMORY, "vdim": MEMORY}
        super().__init__(_Layers(**options), ("src", "memory"))
        self.remember = nn.Linear(MEMORY, HIDDEN) if packed else nn.Identity()

    def forward(self, src: Tensor, memory: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Run on features `(batch, sequence, 13)` and memory `(batch, target, 11)`."""
        x = self.model(self.embed(src), self.remember(memory))
        return (self.head(torch.relu(x)),)
