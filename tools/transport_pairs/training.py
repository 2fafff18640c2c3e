"""Training of small models: AdamW, warm-up and a cosine, cross-entropy on whatever has labels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transport_pairs.glyphs import Batch


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits `(n, .., classes)`; labels of -100 are ignored."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def train(
    model: nn.Module, batches: Iterator[Batch], steps: int, rate: float, device: str = "cpu"
) -> None:
    """Minimise the cross-entropy with AdamW: linear warm-up, then a cosine down to zero.

    Args:
        model: changed in place; on the processor afterwards.
        batches: inputs and labels without end.
        steps: of the optimizer.
        rate: peak learning rate.
        device: where to compute.
    """
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")  # three times as fast, and near enough
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05, fused=True)
    warm_up = max(1, steps // 10)
    factors = [
        min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for step in range(steps + 1)
    ]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors.__getitem__)
    for _ in range(steps):
        inputs, labels = (part.to(device) for part in next(batches))
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(model(inputs), labels))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    model.to("cpu").eval()


def judge(model: nn.Module, data: Batch) -> tuple[float, float]:
    """Return cross-entropy (nats) and accuracy on labelled data."""
    with torch.no_grad():
        logits = torch.cat([model(part) for part in torch.split(data[0], 100)])
    kept = data[1] != -100
    right = (logits.argmax(-1) == data[1])[kept].float().mean().item()
    return loss_of(logits, data[1]).item(), right
