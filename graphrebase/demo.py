"""The story told by ``graphrebase demo``: two release pairs that ship with the package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from graphrebase.errors import InputError
from graphrebase.rebase import Settings, rebase
from graphrebase.runtime import Session, evaluate, load_npz, split_labels

Arrays = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Story:
    title: str
    target: str
    finetuned_target: str


STORIES = (
    _Story("independent release: v2 trained from scratch", "v2", "v2_ft"),
    _Story("same lineage: v2 continued from v1", "v2_lineage", "v2_lineage_ft"),
)


def example_folder() -> Path:
    """Return the folder of the example that ships.

    Raises:
        InputError: the installation lacks it.
    """
    folder = Path(str(resources.files("graphrebase") / "example"))
    if not (folder / "v1.onnx").is_file():
        raise InputError(
            "the example models are missing",
            where=str(folder),
            hint="install graphrebase again, or rebuild them with tools/make_release_pair.py",
        )
    return folder


def run_demo(keep: Path | None = None) -> dict[str, Any]:
    """Rebase the shipped examples and measure everything; returns plain data.

    Args:
        keep: folder for the models that are made; a temporary one if not given.
    """
    folder = example_folder()
    with ExitStack() as stack:
        if keep is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            keep.mkdir(parents=True, exist_ok=True)
            work = keep
        stories = [_tell(story, folder, work) for story in STORIES]
    return {"example": str(folder), "stories": stories}


def _tell(story: _Story, folder: Path, work: Path) -> dict[str, Any]:
    paths = {name: folder / f"{name}.onnx" for name in ("v1", "v1_ft")}
    target = folder / f"{story.target}.onnx"
    made: dict[str, tuple[Path, str]] = {}
    for method in ("naive", "transfusion", "anchored", "auto"):
        output = work / f"{story.target}_{method}.onnx"
        result = rebase(
            paths["v1"], paths["v1_ft"], target, output, Settings(method=method), force=True
        )
        made[method] = (output, result.method)
    task, domain = (_data(folder / f"{name}.npz") for name in ("task", "domain"))
    bound = folder / f"{story.finetuned_target}.onnx"
    models = [
        ("v2", target),
        ("v2 + naive", made["naive"][0]),
        ("v2 + transfusion", made["transfusion"][0]),
        ("v2 + anchored", made["anchored"][0]),
        ("v2 + auto", made["auto"][0]),
        ("v2 fine-tuned", bound),
    ]
    rows = [_row(name, path, task, domain) for name, path in models]
    start, best = rows[0]["task_loss"], rows[-1]["task_loss"]
    for row in rows:
        row["recovered"] = (start - row["task_loss"]) / (start - best) if start != best else None
    return {
        "title": story.title,
        "rows": rows,
        "summary": (
            f"auto chose {made['auto'][1]}: it recovers {rows[-2]['recovered']:.1%} of the "
            "task loss that fine-tuning v2 itself gains"
        ),
    }


def _row(
    name: str, path: Path, task: Callable[[Session], Any], domain: Callable[[Session], Any]
) -> dict[str, Any]:
    session = Session(path)
    on_task, on_domain = task(session), domain(session)
    return {
        "name": name,
        "task_loss": on_task.cross_entropy,
        "task_accuracy": on_task.accuracy,
        "domain_loss": on_domain.cross_entropy,
        "domain_accuracy": on_domain.accuracy,
        "recovered": None,
    }


def _data(path: Path) -> Callable[[Session], Any]:
    inputs, labels = split_labels(load_npz(path))
    if labels is None:
        raise InputError("the example data has no labels", where=str(path))
    return lambda session: evaluate(session, inputs, labels)
