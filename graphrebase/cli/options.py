"""Options that several commands share, and what is done with their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from graphrebase.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing output file.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Residual = Annotated[
    str,
    typer.Option("--residual", help="per-point (a permutation at every residual point) or shared."),
]
Intra = Annotated[
    str,
    typer.Option("--intra", help="split ((Q, K) and (V, O) apart) or paper (one for all four)."),
]
VocabMap = Annotated[
    Path | None,
    typer.Option(
        "--vocab-map",
        help="npz of two vectors of row numbers, a and b: these rows of the base's and of the "
        "target's token table mean the same.",
    ),
]
Method = Annotated[str, typer.Option("--method", help="auto, fit, anchored, transfusion or naive.")]
Stored = Annotated[
    Path | None, typer.Option("--alignment", help="A stored alignment of base and target.")
]
Template = Annotated[
    str,
    typer.Option(
        "--template",
        help="Whose graph the output has: finetuned, target, or auto (target where base and target "
        "differ in size or vocabulary).",
    ),
]
Probes = Annotated[
    Path | None, typer.Option("--probes", help="npz of unlabelled inputs of the task (fit).")
]
Free = Annotated[
    str, typer.Option("--free", help="Interface axes that may move: latent, state, or both.")
]
Report = Annotated[Path | None, typer.Option("--report", help="Write an HTML report.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="File to write.")]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]


def numbers(text: str) -> list[float]:
    """Read numbers between commas."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"'{text}' is no list of numbers", hint="for example 0.5,1") from None


def kinds(free: str) -> tuple[str, ...]:
    """Read the interface kinds between commas."""
    from graphrebase.symmetry import FREE_KINDS

    found = tuple(k.strip() for k in free.split(",") if k.strip())
    for kind in found:
        if kind not in FREE_KINDS:
            raise UsageError(f"unknown interface kind '{kind}'", hint="use latent, state or both")
    return found


def check_outputs(
    paths: list[Path], force: bool, inputs: list[Path], also: Path | None = None
) -> None:
    """Refuse outputs that exist, are inputs, or are the same file twice; before any work."""
    from graphrebase.io import check_output

    names = [p.resolve() for p in (*paths, *([also] if also else []))]
    if len(set(names)) < len(names):
        raise UsageError(
            "two outputs have the same name", where=str(names[0]), hint="name them apart"
        )
    for path in paths:
        check_output(path, inputs, force=force)


def show(data: dict[str, Any], as_json: bool, tables: Callable[[dict[str, Any]], Any]) -> None:
    """Print a result: one JSON object, or the tables made of it."""
    from graphrebase import report as reports

    if as_json:
        typer.echo(reports.to_json(data))
    else:
        reports.show(tables(data))
