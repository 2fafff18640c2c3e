"""The exporters of the zoo: legacy and dynamo, several opsets, eager and fused attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from quiet_export import quiet

from zoo_models.entry import EXPORTERS
from zoo_models.families import FAMILIES
from zoo_models.modules import Zoo, sample_inputs
from zoo_models.sizes import SAMPLE


def dynamic_axes(family: str, exporter: str) -> dict[str, dict[int, str]]:
    """Return the named dynamic axes of each input of a family under an exporter."""
    known = FAMILIES[family]
    baked = known.baked if exporter.startswith("ts") else ()
    return {
        name: {
            axis: label
            for axis, label in enumerate(known.shape(name))
            if isinstance(label, str) and label not in baked
        }
        for name in known.inputs
    }


def _dynamic_shapes(module: Zoo, axes: dict[str, dict[int, str]]) -> tuple[Any, ...]:
    """Return the axes as torch.export wants them: nested where `forward` takes `*arrays`."""
    shapes = tuple(axes.values())
    return (shapes,) if type(module).forward is Zoo.forward else shapes


def export(module: Zoo, path: Path, exporter: str = "ts17", attention: str = "eager") -> Path:
    """Export a module of `make_module` to ONNX with dynamic batch and sequence.

    Weights are stored inside the file.

    Raises:
        KeyError: the exporter is not in `EXPORTERS`.
        Exception: whatever the exporter raises on a model it cannot express.
    """
    family = module.family
    known, opset = FAMILIES[family], EXPORTERS[exporter]
    batch, sequence = SAMPLE
    arrays = sample_inputs(family, batch, sequence)
    inputs = tuple(torch.from_numpy(array) for array in arrays.values())
    axes = dynamic_axes(family, exporter)
    options: dict[str, Any] = {
        "input_names": list(known.inputs),
        "output_names": list(known.outputs),
        "opset_version": opset,
    }
    with quiet():
        module.set_attention(attention)
        if exporter.startswith("ts"):
            options |= {"dynamo": False, "dynamic_axes": axes}
        else:
            options |= {
                "dynamo": True,
                "external_data": False,
                "verbose": False,
                "dynamic_shapes": _dynamic_shapes(module, axes),
            }
        torch.onnx.export(module, inputs, str(path), **options)
    return path
