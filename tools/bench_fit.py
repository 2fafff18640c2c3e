"""Cost of `graphrebase rebase --method fit` on models of 12 layers and width 768, random weights.

An image classifier (vit), a causal language model (gpt; gpt2 has the published vocabulary) and a
classifier whose head the bases lack (bert). CPU seconds and peak memory of the whole command, given
64 images or 16 sequences of 128 tokens, and with generated probes; beside them, as the baseline,
what it costs to run the three models once on the given probes, and the size of one model. The
weights are random: what is fitted means nothing. Run with OMP_NUM_THREADS=1; the models take 3 GB
of disk. Some: python tools/bench_fit.py vit
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from command_cost import apart, command
from quiet_export import quiet

ROOT = Path(__file__).resolve().parent.parent
ROLES = ("base", "finetuned", "target")
SECONDS, MEMORY = 600.0, 4096.0
"""Budget with given probes: CPU seconds, MiB."""
VOCABULARY = {"gpt": 8000, "gpt2": 50257, "bert": 8000}


@dataclass(frozen=True, slots=True)
class Trio:
    """Three models and probes.

    Attributes:
        models: base, finetuned and target.
        probes: npz of given inputs.
    """

    models: tuple[Path, ...]
    probes: Path

    @property
    def arguments(self) -> list[str]:
        """Return the options of the command line."""
        return [x for role, path in zip(ROLES, self.models, strict=True)
                for x in (f"--{role}", str(path))]  # fmt: skip


def build(kind: str, folder: Path) -> Trio:
    """Return a trio, exported into ``folder`` where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    found = Trio(tuple(folder / f"{kind}-{role}.onnx" for role in ROLES), folder / f"{kind}.npz")
    if all(path.exists() for path in (*found.models, found.probes)):
        return found
    import torch

    torch.manual_seed(0)
    base = _model(kind)
    _export(kind, base, found.models[0])
    tuned = _classifier(base) if kind == "bert" else base
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.ndim > 1:
                weight += 0.1 * weight.std() * torch.randn_like(weight)
    _export(kind, tuned, found.models[1])
    torch.manual_seed(5)
    _export(kind, _model(kind), found.models[2])
    np.savez(found.probes, **_probes(kind))
    return found


def _model(kind: str) -> Any:
    import transformers

    if kind == "vit":
        return transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
    if kind == "bert":
        return transformers.BertForMaskedLM(_bert())
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY[kind], bos_token_id=0, eos_token_id=0, use_cache=False
    )
    return transformers.GPT2LMHeadModel(config)


def _bert() -> Any:
    import transformers

    return transformers.BertConfig(
        vocab_size=VOCABULARY["bert"], num_labels=6, attn_implementation="eager"
    )


def _classifier(base: Any) -> Any:
    """Return the encoder of ``base`` under a head that reads its first token."""
    import transformers

    model = transformers.BertForSequenceClassification(_bert())
    model.bert.load_state_dict(base.bert.state_dict(), strict=False)
    return model


def _probes(kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    if kind == "vit":
        return {"pixel_values": rng.standard_normal((64, 3, 224, 224)).astype(np.float32)}
    ids = rng.integers(0, VOCABULARY[kind], (16, 128))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _export(kind: str, model: Any, path: Path) -> None:
    import torch

    class Logits(torch.nn.Module):
        def __init__(self, names: list[str]) -> None:
            super().__init__()
            self.model, self.names = model, names

        def forward(self, *inputs: Any) -> Any:
            return self.model(**dict(zip(self.names, inputs, strict=True))).logits

    inputs = {name: torch.from_numpy(array[:2]) for name, array in _probes(kind).items()}
    axes = {0: "batch"} if kind == "vit" else {0: "batch", 1: "sequence"}
    with quiet():
        torch.onnx.export(
            Logits(list(inputs)).eval(), tuple(inputs.values()), str(path), dynamo=False,
            input_names=list(inputs), output_names=["logits"], opset_version=17,
            dynamic_axes=dict.fromkeys(inputs, axes),
        )  # fmt: skip


def passes(trio: Trio) -> float:
    """Return the CPU seconds of running the three models once on the given probes."""
    from graphrebase.runtime import Session, load_npz
    from graphrebase.runtime.batches import predict

    probes, seconds = load_npz(trio.probes), 0.0
    for path in trio.models:
        session = Session(path)
        began = time.process_time()
        predict(session, probes, 0, min(map(len, probes.values())), 4)
        seconds += time.process_time() - began
        session.close()
    return seconds


def main() -> None:
    """Print a table; exit with 1 where a budget is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "kinds", nargs="*", choices=("vit", "gpt", "gpt2", "bert"), default=["vit", "gpt", "bert"]
    )
    parser.add_argument("--folder", type=Path, default=ROOT / ".zoo" / "fit")
    asked = parser.parse_args()
    print(f"| {'model':5} | {'probes':9} | CPU s | passes | MiB | models | generating, s |")
    print("|---|---|---|---|---|---|---|")
    kept = True
    for kind in asked.kinds:
        trio = apart(build, kind, asked.folder)
        once, size = apart(passes, trio), trio.models[0].stat().st_size / (1 << 20)
        for given in (True, False):
            output = asked.folder / f"{kind}-output.onnx"
            cost = command([
                "rebase", *trio.arguments, *(["--probes", str(trio.probes)] if given else []),
                "--method", "fit", "-o", str(output), "--force", "--json",
            ])  # fmt: skip
            probes = json.loads(cost.printed)["probes"]
            print(
                f"| {kind:5} | {'given' if given else 'generated'} | {cost.seconds:.0f} | "
                f"{cost.seconds / once:.0f} | {cost.mebibytes:.0f} | {cost.mebibytes / size:.1f} | "
                f"{probes['seconds_taken'] or 0:.0f} of {probes['seconds_allowed'] or 0:.0f} |",
                flush=True,
            )
            output.unlink()
            within = cost.seconds <= SECONDS and cost.mebibytes <= MEMORY
            kept &= within or not given or kind == "gpt2"
    sys.exit(not kept)


if __name__ == "__main__":
    main()
