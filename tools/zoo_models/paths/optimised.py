"""Graph optimisers: of onnxruntime (transformers, sessions), onnxslim, onnxsim."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from zoo_models.families import FAMILIES
from zoo_models.paths.path import Source

#: Model type of onnxruntime's transformers optimizer by the start of a family's name.
MODEL_TYPES: Mapping[str, str] = {
    "gpt-neox": "gpt_neox",
    "gpt": "gpt2",
    "opt": "gpt2",
    "bloom": "gpt2",
    "llama": "gpt2",
    "mistral": "gpt2",
    "qwen3": "qwen3",
    "phi": "gpt2",  # type phi expects the functions of an old dynamo export
    "t5": "t5",
    "bart": "bart",
    "whisper": "bart",
    "vit": "vit",
    "deit": "vit",
    "beit": "vit",
    "dinov2": "vit",
    "eva": "vit",
    "swin": "swin",
    "clip": "clip",
    "siglip": "clip",
}


def transformers_optimizer(source: Source, output: Path) -> None:
    """Fuse with onnxruntime.transformers.optimizer."""
    _optimize(source, output, mha=False)


def transformers_mha(source: Source, output: Path) -> None:
    """Fuse with MultiHeadAttention in the place of Attention."""
    _optimize(source, output, mha=True)


def _optimize(source: Source, output: Path, *, mha: bool) -> None:
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    kind = next((t for k, t in MODEL_TYPES.items() if source.family.startswith(k)), "bert")
    sizes = {(t.heads, t.hidden) for t in FAMILIES[source.family].nominal.towers}
    heads, hidden = sizes.pop() if len(sizes) == 1 else (0, 0)
    options = FusionOptions(kind)
    options.use_multi_head_attention = mha
    found = optimizer.optimize_model(
        str(source.path),
        model_type=kind,
        num_heads=heads,
        hidden_size=hidden,
        optimization_options=options,
        opt_level=0,
    )
    found.save_model_to_file(str(output))


def session_basic(source: Source, output: Path) -> None:
    """Save what a session makes of the model at level basic."""
    _session(source.path, output, "ORT_ENABLE_BASIC")


def session_extended(source: Source, output: Path) -> None:
    """Save what a session makes of the model at level extended."""
    _session(source.path, output, "ORT_ENABLE_EXTENDED")


def _session(model: Path, output: Path, level: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(output)
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def slim(source: Source, output: Path) -> None:
    """Simplify with onnxslim."""
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(source.path)), output)


def sim(source: Source, output: Path) -> None:
    """Simplify with onnxsim."""
    import onnxsim

    simplified, _ = onnxsim.simplify(onnx.load(source.path))
    onnx.save(simplified, output)


def slim_then_extended(source: Source, output: Path) -> None:
    """Simplify with onnxslim, then optimise in a session at level extended."""
    between = output.with_suffix(".slim.onnx")
    slim(source, between)
    _session(between, output, "ORT_ENABLE_EXTENDED")
    between.unlink()
