"""Tables and facts on the terminal; what comes out of files is made harmless."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table


def show(items: Iterable[RenderableType]) -> None:
    """Print renderable items to stdout."""
    console = Console(highlight=False, soft_wrap=False)
    for item in items:
        console.print(item)


def make_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    """Return a table; columns of numbers are aligned to the right."""
    cells = [[clean(cell) for cell in row] for row in rows]
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        values = [row[number] for row in cells if row[number]]
        numeric = all(value[-1:].isdigit() or value.endswith("%") for value in values)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(escape, row))
    return table


def make_facts(title: str, facts: Iterable[tuple[str, object]]) -> Table:
    """Return names with what there is to say of each."""
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for name, value in facts:
        table.add_row(f"[bold]{escape(name)}[/]", escape(clean(value)))
    return table


def clean(value: object) -> str:
    """Return text that may be shown: a list line by line, short numbers, no control characters."""
    if isinstance(value, list):
        return "\n".join(map(clean, value))
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e-3 and value else f"{value:.3f}"
    # Names come out of files: control characters must not reach the terminal.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
