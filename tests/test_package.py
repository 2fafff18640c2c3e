"""The package as a whole: rooms import in one direction, and the wheel works elsewhere."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

import graphrebase

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "graphrebase"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

# Rooms from the ground up; a room may import those listed before it.
ROOMS = (
    "_version", "errors", "progress", "backend", "io", "graph", "patterns", "symmetry", "align",
    "structure", "runtime", "rebase", "evaluation", "verify", "report", "demo", "cli",
)  # fmt: skip
# Heavy or optional libraries, and the only rooms that may name them.
ONLY_IN = {
    "onnxruntime": {"runtime"},
    "cupy": {"backend"},
    "jinja2": {"report"},
    "typer": {"cli"},
    "rich": {"cli", "report"},
}
NEVER = {"torch", "transformers", "pickle", "patterns", "tests", "sklearn"}


@cache
def modules() -> dict[str, Path]:
    """Return the file of every module by its dotted name, folders as they are installed."""
    found = {}
    for folder, name in ((PACKAGE, "graphrebase"), (ROOT / "patterns", "graphrebase.patterns")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((name, *parts)).removesuffix(".__init__")] = path
    return found


def imports(source: str) -> Iterator[str]:
    """Yield the dotted name of everything a source imports, wherever it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


def room(module: str) -> str:
    """Return the room of a dotted name inside the package; `` for the package itself."""
    return [*module.split("."), ""][1]


def offences(module: str, source: str) -> list[str]:
    """Return the imports of a module that the order of rooms forbids."""
    here, found = room(module), []
    for name in imports(source):
        top = name.split(".")[0]
        if top in NEVER or here not in ONLY_IN.get(top, {here}):
            found.append(f"{module} imports {name}")
        inside = top == "graphrebase" and here and room(name) in ROOMS
        if inside and ROOMS.index(room(name)) > ROOMS.index(here):
            found.append(f"{module} imports {name}, which is built on it")
    return found


def test_every_room_has_its_place() -> None:
    assert {room(module) for module in modules()} - {""} <= set(ROOMS)


def test_rooms_import_in_one_direction() -> None:
    found = [line for name, path in modules().items() for line in offences(name, path.read_text())]
    assert not found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("graphrebase.io.reader", "from graphrebase.graph import Graph"),
        ("graphrebase.io.reader", "def f():\n    import onnxruntime"),
        ("graphrebase.align.run", "import importlib; importlib.import_module('cupy')"),
        ("graphrebase.rebase.run", "import torch"),
        ("graphrebase.structure.blocks", "from patterns import PATTERNS"),
    ],
)
def test_control_forbidden_imports_are_noticed(module: str, source: str) -> None:
    assert offences(module, source)


@pytest.mark.parametrize("name", sorted(modules()))
def test_every_module_says_its_subject_and_imports(name: str) -> None:
    importlib.import_module(name)
    assert ast.get_docstring(ast.parse(modules()[name].read_text("utf-8")))


def test_public_names_exist_and_say_what_they_are() -> None:
    for name in modules():
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            thing = getattr(module, public)
            if callable(thing) and getattr(thing, "__module__", "").startswith("graphrebase"):
                assert thing.__doc__, f"{name}.{public}"


def test_versions_agree() -> None:
    assert graphrebase.__version__ == version("graphrebase")
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {graphrebase.__version__}\n" in citation
    assert f"## [{graphrebase.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_importing_stays_light() -> None:
    heavy = ("onnxruntime", "torch", "matplotlib", "jinja2", "cupy", "scipy")
    code = f"import sys, graphrebase, graphrebase.cli; print(*set(sys.modules) & set({heavy}))"
    assert _python(code, ROOT / "tests").strip() == ""


def test_core_requires_no_onnxruntime_and_extras_bring_one_each() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    names = {key: {re.split(r"[^\w-]", item)[0] for item in extras[key]} for key in extras}
    core = {re.split(r"[^\w-]", item)[0] for item in PROJECT["project"]["dependencies"]}
    both = {"onnxruntime", "onnxruntime-gpu"}
    assert not core & both
    assert names["cpu"] & both == {"onnxruntime"}
    assert names["gpu"] & both == {"onnxruntime-gpu"}


def test_every_package_is_listed() -> None:
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert packages == set(PROJECT["tool"]["setuptools"]["packages"])


def test_scripts_are_executable() -> None:
    for script in ("tools/demo", "tools/test", ".ci/run"):
        assert os.access(ROOT / script, os.X_OK), script
        assert (ROOT / script).read_text("utf-8").startswith("#!/usr/bin/env bash\n")


def test_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    _copy_sources(source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path]
    subprocess.run([*command, source], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    shutil.rmtree(source)
    shipped = {path.relative_to(site) for path in site.rglob("*") if path.is_file()}
    for folder in ("example", "report/templates"):
        for path in (PACKAGE / folder).glob("*.*"):
            assert path.relative_to(ROOT) in shipped
    assert {Path("graphrebase/py.typed"), Path("graphrebase/patterns/__init__.py")} <= shipped
    assert not [path for path in shipped if path.parts[0] in ("patterns", "tests", "tools")]
    code = "import graphrebase.patterns as p, graphrebase.cli as c; print(p.__file__, c.__file__)"
    assert _python(code, tmp_path, site).count(str(site)) == 2


def _copy_sources(target: Path) -> None:
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    for name in ("graphrebase", "patterns"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))


def _python(code: str, cwd: Path, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path or "")}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=cwd, env=environment, check=True, capture_output=True, text=True, timeout=120
    ).stdout
