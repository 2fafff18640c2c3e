"""Decoders as people write them by hand: norms and rotary positions written out, odd attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo_models.modules import Zoo
from zoo_models.sizes import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, MLP, POSITIONS, VOCAB


class _Norm(nn.Module):
    """RMSNorm by division, with a gain around one."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * (1 + self.gain)


def _causal(scores: Tensor) -> Tensor:
    length = scores.shape[-1]
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    return scores.masked_fill(~seen, float("-inf"))


class _Talking(nn.Module):
    """Attention whose scores and weights are mixed over heads, before and after the Softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.before, self.after = (nn.Linear(HEADS, HEADS, bias=False) for _ in range(2))
        self.out = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        packed = self.qkv(x).view(batch, length, 3, HEADS, HEAD_DIM)
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1)) * HEAD_DIM**-0.5
        mixed = self.before(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        weights = _causal(mixed).softmax(-1)
        weights = self.after(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, HIDDEN))


class _Tiled(nn.Module):
    """Grouped attention whose keys are repeated as a whole; halves of a head turned apart."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM]
        self.qkv = nn.Linear(HIDDEN, sum(self.sizes), bias=False)
        self.out = nn.Linear(HIDDEN, HIDDEN, bias=False)
        frequencies = 10000.0 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.outer(torch.arange(POSITIONS), frequencies)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)

    def _turn(self, x: Tensor) -> Tensor:
        assert isinstance(self.cosine, Tensor) and isinstance(self.sine, Tensor)
        cosine, sine = self.cosine[: x.shape[2]], self.sine[: x.shape[2]]
        first, second = x.chunk(2, -1)
        return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        parts = self.qkv(x).split(self.sizes, -1)
        q, k, v = (p.view(batch, length, -1, HEAD_DIM).transpose(1, 2) for p in parts)
        repeats = (1, HEADS // KV_HEADS, 1, 1)
        k, v = self._turn(k).repeat(repeats), v.repeat(repeats)
        scores = _causal((self._turn(q) @ k.transpose(-2, -1)) * HEAD_DIM**-0.5)
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, HIDDEN))


class _Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(HIDDEN, 2 * MLP), nn.Linear(MLP, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.up(x).chunk(2, -1)
        return self.down(nn.functional.silu(gate) * up)


class _Depthwise(nn.Module):
    """An MLP with a convolution over positions inside, one kernel per unit."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(HIDDEN, MLP), nn.Linear(MLP, HIDDEN)
        self.mix = nn.Conv1d(MLP, MLP, 3, padding=1, groups=MLP)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(self.up(x).transpose(1, 2)).transpose(1, 2)
        return self.down(nn.functional.gelu(mixed))


class _Block(nn.Module):
    """A norm before attention and MLP, and one after each."""

    def __init__(self, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.attention, self.mlp = attention, mlp
        self.norms = nn.ModuleList(_Norm() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norms[1](self.attention(self.norms[0](x)))
        return x + self.norms[3](self.mlp(self.norms[2](x)))


class _Decoder(Zoo):
    """Token embeddings, blocks, a norm, a linear head."""

    def __init__(self, attention: type[nn.Module], mlp: type[nn.Module]) -> None:
        blocks = nn.ModuleList(_Block(attention(), mlp()) for _ in range(LAYERS))
        super().__init__(blocks, ("input_ids",), ("logits",))
        self.embed, self.norm = nn.Embedding(VOCAB, HIDDEN), _Norm()
        self.head = nn.Linear(HIDDEN, VOCAB)

    def set_attention(self, attention: str) -> None:
        """Attention is written out either way."""

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Run on ids `(batch, sequence)`."""
        x = self.embed(input_ids)
        for block in self.model.children():
            x = block(x)
        return (self.head(self.norm(x)),)


def talking() -> Zoo:
    """Return a decoder of talking heads and MLPs with a depthwise convolution."""
    return _Decoder(_Talking, _Depthwise)


def tiled() -> Zoo:
    """Return a decoder of grouped attention with tiled keys and packed gated MLPs."""
    return _Decoder(_Tiled, _Gated)
