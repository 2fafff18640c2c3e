"""Train the release pairs that `bench_transport.py` measures, and describe them.

    python tools/make_transport_pairs.py DIR [--only GLOB ...] [--train quick|full|large]
                                             [--device cuda] [--jobs N] [--no-lineage]

writes a folder per pair with v1, v1_ft, v2, v2_ft (and v2_lineage, v2_lineage_ft) as ONNX,
data.npz, probes.npz, keep.npz and figures.json, and DIR/README.md. What exists is kept. `full`
trains longer; `large` trains models of 10 to 14 M parameters, three times as wide and twice as
deep, which wants a GPU.
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatch
from pathlib import Path

import torch
from transport_pairs.build import PROFILES, Workshop, describe
from transport_pairs.catalogue import pairs
from transport_pairs.workers import train_at_once

README = """# Release pairs

Trained by `tools/make_transport_pairs.py`. Cross-entropy in nats on held-out data, accuracy in
brackets. v1 = A, v2 = B, `_ft` fine-tuned on the task; v2_ft is the upper bound.

"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", type=Path, metavar="DIR")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="names of pairs")
    parser.add_argument("--no-lineage", action="store_true", help="leave v2_lineage out")
    parser.add_argument("--train", choices=PROFILES, default="quick", help="how long")
    parser.add_argument("--device", default="cpu", help="where to train: cpu or cuda")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch, per job")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    workshop = Workshop(options.root, options.train, options.device)
    chosen = [p for p in pairs() if any(fnmatch(p.name, glob) for glob in options.only)]
    if options.no_lineage:
        chosen = [pair for pair in chosen if "v2_lineage" not in pair.models]
    if options.jobs > 1:
        train_at_once(workshop, chosen, options.jobs)
    for pair in chosen:
        workshop.build(pair)
        (options.root / "README.md").write_text(README + describe(options.root) + "\n")
        print(f"{pair.name}: done", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
