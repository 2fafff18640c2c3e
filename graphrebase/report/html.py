"""HTML reports: one self-contained, escaped file without scripts or network."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from graphrebase import __version__
from graphrebase.errors import UsageError
from graphrebase.io import write_file
from graphrebase.report.data import by_reason


def write_html(data: Mapping[str, Any], path: Path, *, kind: str) -> None:
    """Write the report of a command.

    Args:
        data: the command's plain data.
        path: file to write.
        kind: ``inspect`` or ``rebase``.

    Raises:
        UsageError: jinja2 is not installed.
        OutputError: the file cannot be written.
    """
    try:
        import jinja2
    except ImportError as error:
        raise UsageError(
            "HTML reports need jinja2", hint="pip install 'graphrebase[report]'"
        ) from error
    folder = resources.files("graphrebase.report") / "templates"
    sources = {
        item.name: item.read_text("utf-8")
        for item in folder.iterdir()
        if item.name.endswith(".html")
    }
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources), autoescape=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template(f"{kind}.html").render(
        data=data,
        version=__version__,
        bars=_bars(data),
        exceptions=by_reason(data.get("exceptions", ())),
    )
    write_file(path, text.encode())


def _bars(data: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the alignment score of every space as (name, score clipped to 0..1)."""
    scores = (data.get("alignment") or {}).get("space_scores", {})
    return [(name, min(max(float(score), 0.0), 1.0)) for name, score in scores.items()]
