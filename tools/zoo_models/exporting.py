"""The exporters of the zoo: legacy and dynamo, several opsets, eager and fused attention."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from zoo_models.entry import EXPORTERS
from zoo_models.modules import (
    FAMILIES,
    SAMPLE,
    Encoder,
    Zoo,
    fixed_sequence,
    sample_inputs,
)

AXES: Mapping[str, Mapping[int, str]] = {
    "input_ids": {0: "batch", 1: "sequence"},
    "attention_mask": {0: "batch", 1: "sequence"},
    "token_type_ids": {0: "batch", 1: "sequence"},
    "pixel_values": {0: "batch"},
    "src": {0: "batch", 1: "sequence"},
}


def dynamic_axes(family: str, exporter: str) -> dict[str, dict[int, str]]:
    """Return the named dynamic axes of each input of a family under an exporter."""
    axes = {name: dict(AXES[name]) for name in FAMILIES[family].inputs}
    if family == "clip":
        axes["pixel_values"] = {0: "images"}
    if family.startswith("encoder-sf"):
        axes["src"] = {0: "sequence", 1: "batch"}
    if fixed_sequence(family, exporter):
        axes = {
            name: {axis: label for axis, label in part.items() if label != "sequence"}
            for name, part in axes.items()
        }
    return axes


def set_attention(module: Zoo, attention: str) -> None:
    """Choose how `module` computes attention: `eager` (MatMul, Softmax) or `sdpa` (fused)."""
    if not isinstance(module, Encoder):
        model: Any = module.model
        model.set_attn_implementation(attention)
        return
    for part in module.modules():
        if isinstance(part, torch.nn.MultiheadAttention):
            attend = type(part).forward.__get__(part)
            chosen = _with_weights(attend) if attention == "eager" else attend
            part.forward = chosen  # type: ignore[method-assign]


def _with_weights(attend: Any) -> Any:
    """Make MultiheadAttention compute its weights: torch then takes the unfused path."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        kwargs["need_weights"] = True
        return attend(*args, **kwargs)

    return forward


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters and keep encoder layers off the fast path they cannot trace."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        torch.backends.mha.set_fastpath_enabled(fastpath)


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
    with _quiet():
        set_attention(module, attention)
        if exporter.startswith("ts"):
            options |= {"dynamo": False, "dynamic_axes": axes}
        else:
            options |= {
                "dynamo": True,
                "external_data": False,
                "verbose": False,
                "dynamic_shapes": tuple(axes.values()),
            }
        torch.onnx.export(module, inputs, str(path), **options)
    return path
