"""Export paths that start from an exported model: optimisers, number formats, layouts of files."""

from __future__ import annotations

from collections.abc import Mapping

from zoo_models.paths import files, formats, merged, optimised, quantised, tensorflow
from zoo_models.paths.path import ExportPath

LEGACY, DYNAMO = ("ts17-eager",), ("dy18-sdpa",)
BOTH = LEGACY + DYNAMO

#: By name; an entry is called BASE+NAME.
PATHS: Mapping[str, ExportPath] = {
    "ort-opt": ExportPath(optimised.transformers_optimizer, BOTH, ("onnxruntime",)),
    "ort-mha": ExportPath(optimised.transformers_mha, LEGACY, ("onnxruntime",)),
    "ort-basic": ExportPath(optimised.session_basic, BOTH, ("onnxruntime",)),
    "ort-extended": ExportPath(optimised.session_extended, BOTH, ("onnxruntime",)),
    "slim": ExportPath(optimised.slim, BOTH, ("onnxslim",)),
    "sim": ExportPath(optimised.sim, BOTH, ("onnxsim",)),
    "fp16": ExportPath(formats.float16, BOTH, ("onnxruntime",)),
    "bf16": ExportPath(formats.bfloat16, LEGACY),
    "bf16-stored": ExportPath(formats.stored_bfloat16, LEGACY),
    "file": ExportPath(files.one_file, LEGACY),
    "files": ExportPath(files.many_files, LEGACY),
    "qdq": ExportPath(quantised.static, LEGACY, ("onnxruntime",)),
    "qdq-channel": ExportPath(quantised.static_per_channel, LEGACY, ("onnxruntime",)),
    "int8": ExportPath(quantised.dynamic, LEGACY, ("onnxruntime",)),
    "int8-channel": ExportPath(quantised.dynamic_per_channel, LEGACY, ("onnxruntime",)),
    "nbits": ExportPath(quantised.nbits, LEGACY, ("onnxruntime",)),
    "blocks": ExportPath(quantised.blocks, LEGACY, ("onnxruntime",)),
    "merged": ExportPath(merged.merged, LEGACY, families=("*-cache",), cases=merged.cases),
    "tf2onnx": ExportPath(tensorflow.tf2onnx, LEGACY, families=("bert", "bert-cls")),
    # Nobody writes against these.
    "opset21": ExportPath(formats.newer_opset, LEGACY, held_out=True),
    "static": ExportPath(
        formats.static_shapes,
        LEGACY,
        ("onnxruntime",),
        cases=formats.only_small,
        held_out=True,
    ),
    "fp16-all": ExportPath(formats.float16_all, LEGACY, ("onnxruntime",), held_out=True),
    "qoperator": ExportPath(quantised.operators, LEGACY, ("onnxruntime",), held_out=True),
    "slim-extended": ExportPath(
        optimised.slim_then_extended, LEGACY, ("onnxslim", "onnxruntime"), held_out=True
    ),
}
