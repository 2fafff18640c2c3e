"""Time `graphrebase inspect`, the whole command, on BERT-base and on a 32-layer decoder of 7 B.

CPU seconds and peak memory of the command, imports included, are compared with the budget; below,
the same stage by stage in this process, against onnx-graphsurgeon's import of the same weightless
ModelProto (installed for this script only) where there is one.
Run with OMP_NUM_THREADS=1. Other models: python tools/bench_inspect.py .zoo/bert-ts17-eager.onnx
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from command_cost import apart, command

from graphrebase.graph import build_graph, infer_shapes
from graphrebase.io import read_model
from graphrebase.structure import find_structure
from graphrebase.symmetry import find_symmetry

ROOT = Path(__file__).resolve().parent.parent
#: CPU seconds that `inspect` may take on the two models of ``inspect_models``.
BUDGETS = (2.0, 6.0)
MEMORY_BUDGET = 1024  # MiB


def cpu(function: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """Return a function's result and the least CPU seconds of several calls."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return result, best


def main() -> None:
    """Print one table per model; exit with 1 where a budget is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, help="the two promised ones by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / ".zoo" / "inspect")
    parser.add_argument("--stages", action="store_true", help="also stage by stage")
    arguments = parser.parse_args()
    models, budgets = arguments.models, [None] * len(arguments.models)
    if not models:
        from inspect_models import build

        models = apart(build, arguments.folder)
        budgets = list(BUDGETS)
    print(f"{'`graphrebase inspect`':40}{'CPU s':>8}{'budget':>8}{'MiB':>8}{'budget':>8}")
    kept = True
    for path, budget in zip(models, budgets, strict=True):
        costs = [command(["inspect", str(path), "--json"]) for _ in range(arguments.repeats)]
        seconds, memory = min(c.seconds for c in costs), max(c.mebibytes for c in costs)
        limit = "" if budget is None else f"{budget:.1f}"
        print(f"{path.name:40}{seconds:8.2f}{limit:>8}{memory:8.0f}{MEMORY_BUDGET:8}")
        kept &= budget is None or (seconds < budget and memory < MEMORY_BUDGET)
    if arguments.stages:
        for path in models:
            stages(path, arguments.repeats)
    sys.exit(not kept)


def stages(path: Path, repeats: int) -> None:
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
    print(f"\n{path.name} ({len(graph.nodes)} nodes)")
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
