"""Running models on onnxruntime: equivalence checks, probes, evaluation, verdicts."""

from graphrebase.runtime.comparison import (
    Comparison,
    compare,
    equivalent,
    model_tolerance,
    tolerance,
)
from graphrebase.runtime.data import cast_inputs, check_inputs, load_npz, split_labels
from graphrebase.runtime.exposed import exposed, whole
from graphrebase.runtime.labels import Labelled, read_labelled
from graphrebase.runtime.metrics import METRICS
from graphrebase.runtime.probes import Probes, fills_masks, generate, probe_kind
from graphrebase.runtime.scores import Scores, evaluate
from graphrebase.runtime.session import InputSpec, NoKernelError, Session
from graphrebase.runtime.signature import declared_inputs
from graphrebase.runtime.synthetic import length_limit, synthetic_inputs, table_limit, two_sizes

__all__ = [
    "METRICS",
    "Comparison",
    "InputSpec",
    "Labelled",
    "NoKernelError",
    "Probes",
    "Scores",
    "Session",
    "cast_inputs",
    "check_inputs",
    "compare",
    "declared_inputs",
    "equivalent",
    "evaluate",
    "exposed",
    "fills_masks",
    "generate",
    "length_limit",
    "load_npz",
    "model_tolerance",
    "probe_kind",
    "read_labelled",
    "split_labels",
    "synthetic_inputs",
    "table_limit",
    "tolerance",
    "two_sizes",
    "whole",
]
