"""Attention by Einsum with explicit head axes, as JAX code writes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo_models.modules import Zoo
from zoo_models.sizes import FEATURES, HEAD_DIM, HEADS, HIDDEN, LABELS, LAYERS, MLP


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shape = (HIDDEN, HEADS, HEAD_DIM)
        self.q, self.k, self.v = (nn.Parameter(torch.zeros(shape)) for _ in range(3))
        self.q_bias = nn.Parameter(torch.zeros(HEADS, HEAD_DIM))
        self.out = nn.Parameter(torch.zeros(HEADS, HEAD_DIM, HIDDEN))
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(2))
        self.up, self.down = nn.Linear(HIDDEN, MLP), nn.Linear(MLP, HIDDEN)
        self.fused = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](x)
        q = torch.einsum("bsd,dhk->bhsk", y, self.q) + self.q_bias[:, None]
        k = torch.einsum("bsd,dhk->bhsk", y, self.k)
        v = torch.einsum("bsd,dhk->bhsk", y, self.v)
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            scores = torch.einsum("bhsk,bhtk->bhst", q, k) / HEAD_DIM**0.5
            mixed = torch.einsum("bhst,bhtk->bhsk", scores.softmax(-1), v)
        x = x + torch.einsum("bhsk,hkd->bsd", mixed, self.out)
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


class Einsum(Zoo):
    """Blocks of Einsum attention between a linear embedding and a linear head."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__(nn.ModuleList(_Block() for _ in range(LAYERS)), ("src",), ("logits",))
        self.embed, self.head = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, LABELS)

    def set_attention(self, attention: str) -> None:
        """Choose Einsum for scores and mixing too, or the fused operator."""
        for part in self.modules():
            if isinstance(part, _Block):
                part.fused = attention == "sdpa"

    def forward(self, src: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Run on features `(batch, sequence, 13)`."""
        x = self.embed(src)
        for block in self.model.children():
            x = block(x)
        return (self.head(x),)
