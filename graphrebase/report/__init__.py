"""Reports: plain data to JSON, terminal tables and HTML. Knows results, computes nothing."""

from graphrebase.report.cells import show
from graphrebase.report.data import alignment_data, rebase_data, to_json
from graphrebase.report.html import write_html
from graphrebase.report.scores import demo_tables, evaluate_tables
from graphrebase.report.terminal import (
    alignment_tables,
    inspect_tables,
    permute_tables,
    rebase_tables,
    verify_tables,
)

__all__ = [
    "alignment_data",
    "alignment_tables",
    "demo_tables",
    "evaluate_tables",
    "inspect_tables",
    "permute_tables",
    "rebase_data",
    "rebase_tables",
    "show",
    "to_json",
    "verify_tables",
    "write_html",
]
