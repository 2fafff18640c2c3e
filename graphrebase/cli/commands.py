"""The sub-commands: options in, one call to the rooms below, one result out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphrebase.cli.options import (
    Device,
    Force,
    Free,
    Intra,
    Json,
    Method,
    ModelFile,
    Output,
    Probes,
    Report,
    Residual,
    Seed,
    Stored,
    Template,
    VocabMap,
    check_outputs,
    kinds,
    numbers,
    show,
)
from graphrebase.cli.progress import shown
from graphrebase.errors import UsageError, VerificationError


def register(app: typer.Typer) -> None:
    """Add every command to the application."""
    for function in (rebase, align, inspect, permute, verify, evaluate, demo):
        app.command()(function)


def rebase(
    base: Annotated[Path, typer.Option("--base", help="A: the old base model.")],
    finetuned: Annotated[Path, typer.Option("--finetuned", help="A_ft: A, fine-tuned.")],
    target: Annotated[Path, typer.Option("--target", help="B: the new base model.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    method: Method = "auto",
    alpha: Annotated[float, typer.Option(help="Scale of the task vector.")] = 1.0,
    residual: Residual = "per-point",
    intra: Intra = "split",
    alignment: Stored = None,
    save_alignment: Annotated[
        Path | None, typer.Option("--save-alignment", help="Store the alignment found.")
    ] = None,
    template: Template = "auto",
    probes: Probes = None,
    keep_data: Annotated[
        Path | None,
        typer.Option("--keep-data", help="npz of inputs of the target's own domain (fit)."),
    ] = None,
    vocab_map: VocabMap = None,
    report: Report = None,
    device: Device = "auto",
    seed: Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan only: write no model.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Move the fine-tuning of an old base model onto a new one."""
    from graphrebase import report as reports
    from graphrebase.align import save
    from graphrebase.rebase import Settings
    from graphrebase.rebase import rebase as run

    if method == "fit" and save_alignment is not None:
        raise UsageError(
            "a fit is of one fine-tuned model and not stored", hint="save one of --method anchored"
        )
    if output is None and not dry_run:
        raise UsageError("no output file given", hint="add -o OUT.onnx, or --dry-run")
    settings = Settings(
        method, alpha, residual, intra, template, device, seed, probes, keep_data, vocab_map
    )
    extra = [p for p in (report, save_alignment) if p]
    check_outputs(extra, force, [base, finetuned, target], also=output)
    with shown() as progress:
        result = run(
            base, finetuned, target, None if dry_run else output, settings,
            alignment=alignment, force=force, progress=progress,
        )  # fmt: skip
    if save_alignment is not None and result.method == "fit":
        typer.echo(
            "warning: a fit is of one fine-tuned model, its alignment is not stored", err=True
        )
    elif save_alignment is not None:
        save(result.alignment, save_alignment, force=force)
    data = reports.rebase_data(result)
    if report is not None:
        reports.write_html(data, report, kind="rebase")
    show(data, json, reports.rebase_tables)


def align(
    base: Annotated[Path, typer.Argument(metavar="A", help="The old base model.")],
    target: Annotated[Path, typer.Argument(metavar="B", help="The new base model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Alignment file to write.")],
    method: Annotated[str, typer.Option(help="transfusion, anchored or naive.")] = "transfusion",
    residual: Residual = "per-point",
    intra: Intra = "split",
    device: Device = "auto",
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Align two releases once, for every model that was fine-tuned on the first."""
    from graphrebase import report as reports
    from graphrebase.align import save
    from graphrebase.rebase import Settings, align_models

    settings = Settings(method, residual=residual, intra=intra, device=device, seed=seed)
    check_outputs([output], force, [base, target])
    found, why = align_models(base, target, settings)
    save(found, output, force=force)
    show(reports.alignment_data(found, why, output), json, reports.alignment_tables)


def inspect(
    model: ModelFile,
    free: Free = "",
    report: Report = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Show blocks, symmetry groups, what is frozen and why."""
    from graphrebase import report as reports
    from graphrebase.io import read_model
    from graphrebase.structure import find_structure, summary

    check_outputs([report] if report else [], force, [model])
    data = summary(find_structure(read_model(model), free=kinds(free)))
    if report is not None:
        reports.write_html(data, report, kind="inspect")
    show(data, json, reports.inspect_tables)


def permute(
    model: ModelFile,
    output: Output,
    random: Annotated[
        bool, typer.Option("--random", help="A random element of each group.")
    ] = False,
    alignment: Annotated[
        Path | None, typer.Option("--alignment", help="The alignment that starts from this model.")
    ] = None,
    free: Free = "",
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write the same function in another basis, and check that it is the same."""
    from graphrebase import report as reports
    from graphrebase.verify import permute_model

    if random == (alignment is not None):
        raise UsageError("say how to permute", hint="give --random or --alignment FILE")
    data = permute_model(
        model, output, alignment=alignment, free=kinds(free), seed=seed, force=force
    )
    show(data, json, reports.permute_tables)


def verify(
    model: ModelFile,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="The model to compare.")],
    inputs: Annotated[Path | None, typer.Option(help="npz with one array per input.")] = None,
    structure: Annotated[
        bool, typer.Option("--structure", help="Compare everything but the weights.")
    ] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Check that two models compute the same, or (--structure) differ in weights only."""
    from graphrebase import report as reports
    from graphrebase.verify import verify_function, verify_structure

    if structure:
        data = verify_structure(model, other)
    else:
        data = verify_function(model, other, inputs=inputs, seed=seed)
    show(data, json, reports.verify_tables)
    if not data["passed"]:
        raise VerificationError(
            "the models differ" + (" in structure" if structure else ""),
            where=f"{model} and {other}",
            hint="the result above says where",
        )


def evaluate(
    data: Annotated[Path, typer.Option("--data", help="npz: one array per input, and 'label'.")],
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="MODEL", help="ONNX files.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="What to show, repeatable: accuracy, cross-entropy, perplexity, top-5, f1-macro, "
            "mean-squared-error or mean-absolute-error."
        ),
    ] = None,
    base: Annotated[
        Path | None, typer.Option("--base", help="A: with the next two, sweep over alpha.")
    ] = None,
    finetuned: Annotated[Path | None, typer.Option("--finetuned", help="A_ft.")] = None,
    target: Annotated[Path | None, typer.Option("--target", help="B.")] = None,
    target_finetuned: Annotated[
        Path | None,
        typer.Option("--target-finetuned", help="B fine-tuned on the task: the upper bound."),
    ] = None,
    alphas: Annotated[
        str, typer.Option(help="Scales of the task vector.")
    ] = "0,0.25,0.5,0.75,1,1.25",
    method: Method = "auto",
    residual: Residual = "per-point",
    intra: Intra = "split",
    alignment: Stored = None,
    template: Template = "auto",
    probes: Probes = None,
    keep_data: Annotated[
        Path | None,
        typer.Option(
            "--keep-data",
            help="npz of the target's own domain, with labels: forgetting is measured on it, "
            "nothing is fitted on it.",
        ),
    ] = None,
    vocab_map: VocabMap = None,
    device: Device = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Measure models on labelled data, side by side; or a rebase at every alpha."""
    from graphrebase import report as reports
    from graphrebase.evaluation import Release, evaluate_models, evaluate_sweep
    from graphrebase.rebase import Settings

    metrics = tuple(metric or ())
    with shown() as progress:
        if base is None and finetuned is None and target is None:
            if not models:
                raise UsageError(
                    "no model to evaluate",
                    hint="give model files, or --base, --finetuned and --target for a sweep",
                )
            if target_finetuned is not None:
                models = [*models, target_finetuned]
            result = evaluate_models(
                models, data, keep_data=keep_data, metrics=metrics, progress=progress
            )
        elif base is None or finetuned is None or target is None:
            raise UsageError(
                "a sweep needs all of --base, --finetuned and --target",
                hint="give the missing ones",
            )
        else:
            result = evaluate_sweep(
                Release(base, finetuned, target, target_finetuned),
                data,
                Settings(
                    method,
                    1.0,
                    residual,
                    intra,
                    template,
                    device,
                    seed,
                    probes,
                    vocab_map=vocab_map,
                ),
                alphas=numbers(alphas),
                others=models or (),
                keep_data=keep_data,
                alignment=alignment,
                metrics=metrics,
                progress=progress,
            )
    show(result, json, reports.evaluate_tables)


def demo(
    keep: Annotated[
        Path | None, typer.Option("--keep", help="Folder for the models that are made.")
    ] = None,
    json: Json = False,
) -> None:
    """Tell the whole story on the example that ships with graphrebase."""
    from graphrebase import report as reports
    from graphrebase.demo import run_demo

    show(run_demo(keep), json, reports.demo_tables)
