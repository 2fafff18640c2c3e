"""Vision transformers with rotary positions from a table, and with 1x1 convolutions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo_models.modules import Zoo
from zoo_models.sizes import HEAD_DIM, HEADS, HIDDEN, IMAGE, LABELS, LAYERS, MLP, PATCH

PATCHES = (IMAGE // PATCH) ** 2


class _Attention(nn.Module):
    """Attention with q/k/v packed as (3, heads, head_dim); `table` (patches, 2 d) turns q and k."""

    def __init__(self, table: Tensor | None) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.register_buffer("table", table)
        self.fused = False

    def _turn(self, x: Tensor) -> Tensor:
        """Turn interleaved pairs of the patch tokens; the class token passes by."""
        assert isinstance(self.table, Tensor)
        sine, cosine = self.table.chunk(2, -1)
        patches = x[:, :, 1:]
        turned = torch.stack([-patches[..., 1::2], patches[..., ::2]], -1).reshape(patches.shape)
        return torch.cat([x[:, :, :1], patches * cosine + turned * sine], 2)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        packed = self.qkv(x).reshape(batch, tokens, 3, HEADS, HEAD_DIM)
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
        if self.table is not None:
            q, k = self._turn(q), self._turn(k)
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q * HEAD_DIM**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, HIDDEN))


class _Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(HIDDEN, MLP), nn.Linear(HIDDEN, MLP)
        self.norm, self.down = nn.LayerNorm(MLP), nn.Linear(MLP, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(nn.functional.silu(self.gate(x)) * self.up(x)))


class _Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv1d(HIDDEN, MLP, 1), nn.Conv1d(MLP, HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.gelu(self.up(x.transpose(1, 2)))).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, table: Tensor | None, mlp: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.attention, self.mlp = _Attention(table), mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _ViT(Zoo):
    """Patches, a class token, learned positions, blocks, mean of the patches, a linear head."""

    def __init__(self, table: Tensor | None, mlp: Callable[[], nn.Module]) -> None:
        blocks = nn.ModuleList(_Block(table, mlp) for _ in range(LAYERS))
        super().__init__(blocks, ("pixel_values",), ("logits",))
        self.patches = nn.Conv2d(3, HIDDEN, PATCH, PATCH)
        self.token = nn.Parameter(torch.zeros(1, 1, HIDDEN))
        self.positions = nn.Parameter(torch.zeros(1, PATCHES + 1, HIDDEN))
        self.norm, self.head = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, LABELS)

    def set_attention(self, attention: str) -> None:
        """Choose MatMul and Softmax, or the fused operator."""
        for part in self.modules():
            if isinstance(part, _Attention):
                part.fused = attention == "sdpa"

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Run on pixels `(batch, 3, 24, 24)`."""
        x = self.patches(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for block in self.model.children():
            x = block(x)
        return (self.head(self.norm(x[:, 1:].mean(1))),)


class RotaryViT(_ViT):
    """Rotary positions from one table, gated MLP with a norm inside, as EVA-02."""

    def __init__(self) -> None:
        """Build it."""
        side = IMAGE // PATCH
        frequencies = 10000.0 ** (-torch.arange(0, HEAD_DIM, 4) / HEAD_DIM)
        line = torch.arange(side)[:, None] * frequencies
        grid = torch.cat(
            [line[:, None].expand(side, side, -1), line[None].expand(side, side, -1)], -1
        )
        angles = grid.reshape(PATCHES, -1).repeat_interleave(2, -1)
        super().__init__(torch.cat([angles.sin(), angles.cos()], -1), _Gated)


class ConvMlp(_ViT):
    """MLPs made of two 1x1 convolutions over transposed tokens."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__(None, _Convolved)
