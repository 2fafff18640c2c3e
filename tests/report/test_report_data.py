"""JSON is strict and complete; HTML escapes what files say and needs no network."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphrebase.errors import OutputError, UsageError
from graphrebase.report import inspect_tables, rebase_tables, show, to_json, write_html

EVIL = "<script>alert(1)</script>[bold]x[/bold] & \"y\" 'z'"

INSPECT: Mapping[str, Any] = {
    "model": EVIL,
    "opset": 17,
    "nodes": 9,
    "parameters": 1234,
    "coverage": 0.5,
    "blocks": [
        {"name": EVIL, "kind": "attention", "heads": 4, "kv_heads": 2, "head_dim": 8,
         "packed": True, "hidden": 32, "node": EVIL},
        {"name": "block.0.mlp", "kind": "mlp", "width": 80, "hidden": 32, "gated": True,
         "node": EVIL},
    ],
    "groups": [{"name": EVIL, "kind": "residual", "size": 32, "count": 1,
                "members": [{"tensor": EVIL, "axis": 0}]}],
    "frozen": [{"axis": EVIL, "size": 3, "reason": EVIL},
               {"axis": "w[1]", "size": 3, "reason": EVIL}],
    "near_misses": [{"pattern": EVIL, "node": EVIL, "reason": EVIL}],
    "operators_without_rule": {EVIL: 2},
}  # fmt: skip

REBASE: Mapping[str, Any] = {
    "output": EVIL,
    "method": "transfusion",
    "why": EVIL,
    "lineage": "independent",
    "alignment": {"score": 0.25, "beyond_chance": 0.02, "z": 3.0,
                  "space_scores": {EVIL: 0.3, "low": -1.0, "high": 2.0}},
    "identity_share": 0.1,
    "alpha": 1.0,
    "template": "finetuned",
    "outlook": EVIL,
    "roles": {EVIL: {"moved": 1, "carried": 0, "copied": 0, "refused": 2}},
    "exceptions": [{"role": EVIL, "action": "refused", "reason": EVIL}],
    "files": {EVIL: EVIL},
    "sha256": {EVIL: "00ff"},
    "verdict": {"verdict": "usable", "evidence": 0.6, "reason": EVIL, "agreement": 0.4,
                "loss_only": True, "held_out": 16, "predictions": 16, "rivals": {EVIL: -0.1}},
    "probes": {"task": 48, "added": 8, "recombined": 4, "keep": 9, "held_out": 16, "refitted": True,
               "generated": ["keep"],
               "kind": "image", "seconds_allowed": 60.0,
               "seconds_taken": 9.0, "note": EVIL},
    "new_head": {"heads": [EVIL], "refitted": True, "reason": "", "probes": 48, "lost": 0.125,
                 "moved": 0.5, "control": 0.375, "control_moved": 0.75, "kept": "method",
                 "by": EVIL},
}  # fmt: skip

KINDS = {"inspect": INSPECT, "rebase": REBASE}


@dataclass(frozen=True)
class Point:
    """Any plain result."""

    x: np.int64
    path: Path


def test_json_holds_plain_values_only() -> None:
    text = to_json(
        {
            "count": np.int64(3),
            "share": np.float32(0.5),
            "bad": [float("nan"), float("inf"), np.float64("-inf")],
            "array": np.arange(3),
            "point": Point(np.int64(1), Path("m.onnx")),
            "nested": {1: (True, None)},
        }
    )
    assert json.loads(text) == {
        "schema_version": 1,
        "count": 3,
        "share": 0.5,
        "bad": [None, None, None],
        "array": [0, 1, 2],
        "point": {"x": 1, "path": "m.onnx"},
        "nested": {"1": [True, None]},
    }
    assert isinstance(json.loads(text)["count"], int)


_LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), _TREES, max_size=4))
def test_law_json_is_strict_and_says_its_schema(data: dict[str, Any]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(to_json(data), parse_constant=refuse)
    assert set(found) == {"schema_version", *data}


class _Page(HTMLParser):
    """Collects the tags, the visible text and every address of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("kind", KINDS)
def test_html_shows_hostile_names_as_text(kind: str, tmp_path: Path) -> None:
    write_html(KINDS[kind], tmp_path / "r.html", kind=kind)
    page = _Page((tmp_path / "r.html").read_text("utf-8"))
    assert EVIL in page.text
    assert "script" not in page.tags and "bold" not in page.tags
    control = _Page(f"<p>{EVIL}</p>")
    assert "script" in control.tags and EVIL not in control.text


@pytest.mark.parametrize("kind", KINDS)
def test_html_needs_no_network(kind: str, tmp_path: Path) -> None:
    write_html(KINDS[kind], tmp_path / "r.html", kind=kind)
    text = (tmp_path / "r.html").read_text("utf-8")
    assert not _Page(text).addresses
    assert not re.search(r"https?:|url\(|@import", text)


def test_html_bars_stay_inside_their_frame(tmp_path: Path) -> None:
    write_html(REBASE, tmp_path / "r.html", kind="rebase")
    widths = re.findall(r'<i style="width:([\d.-]+)%', (tmp_path / "r.html").read_text("utf-8"))
    assert [float(width) for width in widths] == [60.0, 60.0, 0.0, 30.0, 0.0, 100.0]


def test_html_says_what_is_known_without_labels(tmp_path: Path) -> None:
    unknown = {**REBASE["verdict"], "verdict": "unverified", "evidence": None, "loss_only": False}
    texts = []
    for verdict in (REBASE["verdict"], unknown):
        write_html({**REBASE, "verdict": verdict}, tmp_path / "r.html", kind="rebase")
        texts.append(_Page((tmp_path / "r.html").read_text("utf-8")).text)
    for said in ("E = 0.60", "without accuracy", "16 held-out probes"):
        assert said in texts[0] and said not in texts[1]
    assert "unverified" in texts[1] and "unverified" not in texts[0]
    write_html({**REBASE, "probes": None}, tmp_path / "r.html", kind="rebase")
    assert "fitted on" in texts[0]
    assert "What it was fitted on" not in (tmp_path / "r.html").read_text("utf-8")


def test_a_new_head_stands_beside_its_control(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = REBASE["new_head"]
    only_moved = {**head, "refitted": False, "reason": "no runtime"}
    pages, tables = [], []
    for found in (head, only_moved, None):
        data = {**REBASE, "new_head": found}
        write_html(data, tmp_path / "r.html", kind="rebase")
        pages.append(_Page((tmp_path / "r.html").read_text("utf-8")).text)
        show(rebase_tables(data))
        tables.append(capsys.readouterr().out)
    for said in (pages, tables):
        assert all(number in said[0] for number in ("0.125", "0.375"))
        assert "no runtime" in said[1] and "0.375" not in said[1]
        assert "new head" not in said[2].lower()


def test_html_for_a_run_without_alignment(tmp_path: Path) -> None:
    naive = {**REBASE, "alignment": None, "output": None, "exceptions": []}
    write_html(naive, tmp_path / "r.html", kind="rebase")
    assert "dry run" in (tmp_path / "r.html").read_text("utf-8")


def test_html_failures_are_user_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write_html(REBASE, tmp_path / "missing" / "r.html", kind="rebase")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError) as caught:
        write_html(REBASE, tmp_path / "r.html", kind="rebase")
    assert "graphrebase[report]" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_terminal_shows_markup_as_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    show(inspect_tables(INSPECT))
    show(rebase_tables(REBASE))
    out, err = capsys.readouterr()
    # model, block, group, frozen axis and reasons, near miss, operator; then the rebase
    assert out.count("[bold]x[/bold]") >= 12
    assert "4 heads on 2 key-value heads" in out and "50.0% of 1,234" in out
    assert not err
