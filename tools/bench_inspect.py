"""Time the analysis of exported models, stage by stage, against onnx-graphsurgeon's import.

CPU seconds of this process and their ratio to the baseline of the same run; the baseline is the
import of the same weightless ModelProto by onnx-graphsurgeon (installed for this script only).
Run with OMP_NUM_THREADS=1. Example: python tools/bench_inspect.py .zoo/bert-ts17-eager.onnx
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphrebase.graph import build_graph, infer_shapes
from graphrebase.io import read_model
from graphrebase.structure import find_structure
from graphrebase.symmetry import find_symmetry


def cpu(function: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """Return a function's result and the least CPU seconds of several calls."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return result, best


def main() -> None:
    """Print one table per model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    for path in arguments.models:
        bench(path, arguments.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process: {peak:.0f} MiB")


def bench(path: Path, repeats: int) -> None:
    """Print CPU seconds of every stage for one model."""
    model, reading = cpu(lambda: read_model(path), repeats)
    graph, view = cpu(lambda: build_graph(model), repeats)
    shapes, inference = cpu(lambda: infer_shapes(graph), repeats)
    _, algebra = cpu(lambda: find_symmetry(graph, shapes), repeats)
    _, whole = cpu(lambda: find_structure(model, residual="per-point"), repeats)
    rows = [
        ("read without weights", reading),
        ("graph view", view),
        ("shapes", inference),
        ("axis algebra", algebra),
        ("all, as `rebase` does it", whole),
    ]
    baseline = graphsurgeon(model.proto, repeats)
    if baseline is not None:
        rows.append(("onnx-graphsurgeon import", baseline))
    print(f"\n{path} ({len(graph.nodes)} nodes)")
    print(f"{'stage':28}{'CPU s':>10}{'ratio':>10}")
    for name, seconds in rows:
        ratio = f"{seconds / baseline:10.2f}" if baseline else ""
        print(f"{name:28}{seconds:10.3f}{ratio}")


def graphsurgeon(proto: Any, repeats: int) -> float | None:
    """Return the CPU seconds of onnx-graphsurgeon's import, None where it is not installed."""
    try:
        import onnx_graphsurgeon
    except ImportError:
        print("onnx-graphsurgeon is not installed: no baseline")
        return None
    return cpu(lambda: onnx_graphsurgeon.import_onnx(proto).toposort(), repeats)[1]


if __name__ == "__main__":
    main()
