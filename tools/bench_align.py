"""Time the matcher on synthetic transformer pairs of real sizes, in CPU seconds.

The weights are synthetic (heavy-tailed, with scales per row and column), so objectives mean
nothing beyond this script; assignment times on trained weights differ. Pin the BLAS threads
(`OMP_NUM_THREADS=1`) for comparable figures.

    python tools/bench_align.py --layers 2 --width 768 --heads 12 --mlp 3072
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "align"))

from synthetic_pair import Shape, draw_model, noisy, pair, plant

from graphrebase.align import AlignmentProblem, align


def main() -> None:
    """Build the pairs asked for, align them, and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--mlp", type=int, default=3072)
    parser.add_argument("--vocab", type=int, default=1000)
    parser.add_argument("--shared", action="store_true", help="one residual space")
    parser.add_argument("--intra", choices=("split", "paper"), default="split")
    parser.add_argument("--pairs", nargs="+", default=["planted", "lineage", "independent"])
    parser.add_argument("--shuffled-draws", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    shape = Shape(
        layers=asked.layers,
        width=asked.width,
        heads=asked.heads,
        head_dim=asked.width // (asked.heads * asked.members),
        members=asked.members,
        mlp=asked.mlp,
        vocab=asked.vocab,
        shared=asked.shared,
    )
    for kind in asked.pairs:
        problem, truth = build(shape, kind, asked.intra)
        cpu, wall = time.process_time(), time.perf_counter()
        found = align(
            problem, intra=asked.intra, shuffled_draws=asked.shuffled_draws, device=asked.device
        )
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        exact = truth and all(np.array_equal(found.maps[name], truth[name]) for name in truth)
        assert found.details is not None
        print(
            f"{kind:12s} cpu {cpu:7.1f} s  wall {wall:7.1f} s  start {found.details.start}"
            f"  sweeps {found.details.sweeps}  score {found.details.score:.4f}"
            f"  lineage {found.details.lineage}  exact {exact if truth else '-'}"
        )


def build(
    shape: Shape, kind: str, intra: str
) -> tuple[AlignmentProblem, dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]]:
    """Return a pair of that kind and, for a planted one, the true maps."""
    a = draw_model(shape, 0)
    if kind == "planted":
        return plant(a, 0, intra=intra)
    b = noisy(a, 0.3, 0) if kind == "lineage" else draw_model(shape, 1)
    return pair(a, b), {}


if __name__ == "__main__":
    main()
