"""Scores of models side by side on the terminal: evaluations, sweeps over alpha, the demo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from graphrebase.report.cells import make_table
from graphrebase.runtime import METRICS

Data = Mapping[str, Any]
_Columns = Mapping[str, Callable[[Data], object]]

#: Title and whether it is a share, by the key of a metric.
_METRICS = {name.replace("-", "_"): metric for name, metric in METRICS.items()}


def evaluate_tables(data: Data) -> list[RenderableType]:
    """Render the scores of several models, and what a sweep says of them."""
    rows = data["models"]
    items: list[RenderableType] = [
        _filled(f"{data['data']} ({rows[0]['samples']} labels)", _task_columns(data), rows)
    ]
    if any(row["domain"] for row in rows):
        items.append(_filled(f"own domain: {data['keep_data']}", _domain_columns(data), rows))
    if data["labels"] != "label":
        items.append(escape(f"labels: {data['labels']}"))
    if "verdict" in data:
        items.append(escape(f"method: {data['method']} ({data['why']})"))
        items.append(
            "recovered, forgotten: as shares of what fine-tuning B itself gains and loses\n"
            "E: recovered, as far as can be told without labels"
        )
    return items


def demo_tables(data: Data) -> list[RenderableType]:
    """Render the story of every example."""
    items: list[RenderableType] = []
    for story in data["stories"]:
        rows = (
            (
                row["name"],
                row["task_loss"],
                f"{row['task_accuracy']:.1%}",
                row["domain_loss"],
                f"{row['domain_accuracy']:.1%}",
                "" if row["recovered"] is None else f"{row['recovered']:.1%}",
            )
            for row in story["rows"]
        )
        columns = ("model", "task loss", "task acc.", "own loss", "own acc.", "recovered")
        items.append(make_table(story["title"], columns, rows))
        items.append(escape(story["summary"]))
        items.append("")
    return items


def _filled(title: str, columns: _Columns, rows: Iterable[Data]) -> Table:
    """Return a table without the columns that no row fills."""
    used = [name for name, make in columns.items() if any(make(row) != "" for row in rows)]
    return make_table(title, used, [[columns[name](row) for name in used] for row in rows])


def _named(data: Data) -> _Columns:
    return {
        "model": lambda row: row["name"] if "verdict" in data else row["model"],
        "alpha": lambda row: "" if row["alpha"] is None else f"{row['alpha']:g}",
    }


def _task_columns(data: Data) -> _Columns:
    scores = {_METRICS[key].title: partial(_metric, key) for key in data["metrics"]}
    recovered = {
        f"recovered\n{_METRICS[key].title}": partial(_recovered, key)
        for key in data["metrics"]
        if _METRICS[key].recovers
    }
    return {
        **_named(data),
        **scores,
        **recovered,
        "E": lambda row: "" if row["evidence"] is None else f"{row['evidence'] + 0.0:.3f}",
    }


def _domain_columns(data: Data) -> _Columns:
    scores = {_METRICS[key].title: partial(_domain, key) for key in data["metrics"]}
    return {**_named(data), **scores, "forgotten": _forgotten}


def _metric(key: str, row: Data) -> object:
    return f"{row[key]:.1%}" if _METRICS[key].share else row[key]


def _domain(key: str, row: Data) -> object:
    found = row["domain"]
    return "" if found is None or key not in found else _metric(key, found)


def _recovered(key: str, row: Data) -> str:
    share = (row["recovered"] or {}).get(key)
    return "" if share is None else f"{share + 0.0:.1%}"


def _forgotten(row: Data) -> str:
    found = row["forgetting"]
    if found is None:
        return ""
    return f"{found['loss']:+.3f}" if found["share"] is None else f"{found['share'] + 0.0:.1%}"
