"""Export of a model to one ONNX file, by the two exporters of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from quiet_export import quiet

from transport_pairs.models import Model

OUTPUT = "logits"
OPSETS = {"ts17": 17, "dy18": 18}


def export(model: Model, path: Path, exporter: str = "ts17") -> None:
    """Write a model with eager attention, weights inside, batch and length dynamic.

    Args:
        model: what to write.
        path: the file.
        exporter: `ts17` (TorchScript, opset 17) or `dy18` (dynamo, opset 18).
    """
    text = model.inputs[0] == "input_ids"
    shape = (2, 8) if text else (2, 1, 16, 16)
    sample = [torch.ones(shape, dtype=torch.long if text else torch.float32) for _ in model.inputs]
    axes = {0: "batch", 1: "sequence"} if text else {0: "batch"}
    options: dict[str, Any] = {"opset_version": OPSETS[exporter]}
    options |= {"input_names": list(model.inputs), "output_names": [OUTPUT]}
    if exporter.startswith("ts"):
        named = {name: axes for name in model.inputs} | {OUTPUT: {0: "batch"}}
        options |= {"dynamo": False, "dynamic_axes": named}
    else:
        shapes = (tuple(axes for _ in model.inputs),)
        options |= {"dynamo": True, "external_data": False, "verbose": False}
        options |= {"dynamic_shapes": shapes}
    net: Any = model.net
    net.set_attn_implementation("eager")
    with quiet():
        torch.onnx.export(model, tuple(sample), str(path), **options)
    net.set_attn_implementation("sdpa")
