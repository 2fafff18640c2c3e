"""Reading and writing ONNX files without holding their weights in memory."""

from __future__ import annotations

from graphrebase.io.compare import structure_difference
from graphrebase.io.paths import check_output
from graphrebase.io.reader import Model, read_model
from graphrebase.io.scopes import branch_scope, scoped_graphs
from graphrebase.io.staging import scratch_folder, write_file
from graphrebase.io.tensors import TensorRef, is_float
from graphrebase.io.writer import write_model

__all__ = [
    "Model",
    "TensorRef",
    "branch_scope",
    "check_output",
    "is_float",
    "read_model",
    "scoped_graphs",
    "scratch_folder",
    "structure_difference",
    "write_file",
    "write_model",
]
