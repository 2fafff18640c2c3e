"""Modules of the zoo: the wrapper that exporters see, seeded noise and inputs.

Every parameter gets noise after initialisation (no two parameters are equal, none is zero), except
in the `-fresh` families, whose freshly initialised norms and biases are equal-valued on purpose:
the legacy exporter merges such parameters.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_models.families import FAMILIES
from zoo_models.sizes import END_OF_TEXT, SAMPLE, VOCAB, dimensions

Arrays = dict[str, np.ndarray]


class Zoo(nn.Module):
    """A model with plain positional inputs and a tuple of tensors as outputs."""

    family: str = ""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        """Wrap `model`; `outputs` are the attributes of its result to return, in order."""
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.outputs = outputs

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """Run on the inputs in their order."""
        result = self.model(**dict(zip(self.inputs, arrays, strict=True)))
        return tuple(getattr(result, name) for name in self.outputs)

    def set_attention(self, attention: str) -> None:
        """Choose how attention is computed: `eager` (MatMul, Softmax) or `sdpa` (fused)."""
        model: Any = self.model
        model.set_attn_implementation(attention)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def add_noise(module: nn.Module, seed: int, scale: float = 1.0) -> None:
    """Add seeded noise in place to every parameter.

    Matrices get `scale / sqrt(inputs)`, vectors and scalars `0.2 * scale`, standard deviation:
    activations stay of order one and a permuted weight is seen in the outputs.
    """
    generator = _generator(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            width = parameter.shape[-1:].numel()
            if parameter.ndim > 2 and "experts" not in name:
                width = parameter[0].numel()
            deviation = 1 / math.sqrt(width) if parameter.ndim > 1 else 0.2
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(scale * deviation * noise)


def sample_inputs(family: str, batch: int, sequence: int, *, seed: int = 0, pad: int = 0) -> Arrays:
    """Return random inputs of a family by name, in the order its module takes them.

    Token ids lie in the vocabulary and end with the end-of-text token. The last `pad` positions
    of the last row are masked out (the end-of-text token moves before them).
    """
    rng = np.random.default_rng(seed)
    known, sizes = FAMILIES[family], dimensions(batch, sequence)
    arrays: Arrays = {}
    for name in known.inputs:
        shape = tuple(sizes[n] if isinstance(n, str) else n for n in known.shape(name))
        if name.endswith("attention_mask"):
            arrays[name] = np.ones(shape, np.int64)
        elif name == "token_type_ids":
            arrays[name] = np.zeros(shape, np.int64)
            arrays[name][:, shape[1] // 2 :] = 1
        elif name.endswith("input_ids"):
            arrays[name] = rng.integers(3, VOCAB - 2, shape, dtype=np.int64)
        elif name == "noise":
            arrays[name] = rng.random(shape).astype(np.float32)
        else:
            arrays[name] = rng.standard_normal(shape).astype(np.float32)
    if "input_ids" in arrays:
        _end(arrays, pad)
    return arrays


def _end(arrays: Arrays, pad: int) -> None:
    """Close every row with the end-of-text token and mask the padding."""
    ids, mask = arrays["input_ids"], arrays.get("attention_mask")
    ids[:, -1] = END_OF_TEXT
    if pad and mask is not None:
        ids[-1, -1 - pad], ids[-1, -pad:], mask[-1, -pad:] = END_OF_TEXT, 1, 0


def make_module(family: str, seed: int = 0) -> tuple[Zoo, Arrays, tuple[str, ...]]:
    """Return a family's module in eval mode, sample inputs by name, and its output names.

    Raises:
        KeyError: the family is not in `FAMILIES`.
    """
    known = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: Zoo = known.make().eval()
    module.family = family
    if known.noisy:
        add_noise(module, seed + 1)
    return module, sample_inputs(family, *SAMPLE), known.outputs
