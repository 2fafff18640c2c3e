"""Texts that lie on every machine with the development tools: the domains of the text pairs.

Documentation, code, licences, C++ headers and package descriptions come from the standard library
and from installed packages, so figures depend a little on their versions. One document in eight is
held out; documents are cut to printable ASCII, one token per character.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
CLS, MASK = len(CHARACTERS), len(CHARACTERS) + 1  # of the masked models
VOCABULARY = len(CHARACTERS) + 2
LARGEST = 1_500_000  # characters of a corpus
DOCUMENT = 20_000  # characters taken of one document
HELD_OUT_EVERY = 8
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_CODES = np.full(256, 255, np.uint8)
_CODES[[ord(c) for c in CHARACTERS]] = np.arange(len(CHARACTERS))

Documents = Iterator[str]


def _sources(*packages: str) -> Iterator[Path]:
    """Yield the Python files of packages in an order that mixes folders; `stdlib` is one."""
    for package in packages:
        if package == "stdlib":
            root = Path(sysconfig.get_path("stdlib"))
            found = [*root.glob("*.py"), *root.glob("[a-z]*/*.py")]
            found = [p for p in found if "-packages" not in str(p) and "test" not in str(p)]
        else:
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:
                continue
            root = Path(spec.origin).parent
            found = [p for p in root.rglob("*.py") if "test" not in str(p.relative_to(root))]
        yield from _mixed(found, root)


def _mixed(paths: list[Path], root: Path) -> list[Path]:
    return sorted(paths, key=lambda path: zlib.crc32(str(path.relative_to(root)).encode()))


def _trees(*packages: str) -> Iterator[ast.Module]:
    for path in _sources(*packages):
        try:
            yield ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, RecursionError):
            continue


def docstrings(*packages: str) -> Documents:
    """Yield the docstrings of each module, one document per module."""
    for tree in _trees(*packages):
        found = [ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, _DOCUMENTED)]
        yield "\n\n".join(text for text in found if text)


def code(*packages: str) -> Documents:
    """Yield Python modules without docstrings and comments."""
    for tree in _trees(*packages):
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node):
                node.body = node.body[1:] or [ast.Pass()]
        yield ast.unparse(tree)


def licences() -> Documents:
    """Yield licences and notices of installed packages; a paragraph appears once only."""
    texts = [
        Path(str(file.locate()))
        for package in metadata.distributions()
        for file in package.files or ()
        if any(w in file.name.upper() for w in ("LICENSE", "LICENCE", "COPYING", "NOTICE"))
    ]
    shared = Path("/usr/share/common-licenses")
    texts += [path for path in shared.glob("*") if not path.is_symlink()]
    seen: set[str] = set()
    for path in sorted(texts, key=lambda path: (path.name, str(path))):
        if path.suffix in (".py", ".pyc") or not path.is_file():
            continue
        paragraphs = path.read_text(encoding="utf-8", errors="ignore").split("\n\n")
        keys = ["".join(p.split()).lower() for p in paragraphs]
        fresh = [p for p, key in zip(paragraphs, keys, strict=True) if key not in seen]
        seen.update(keys)
        for start in range(0, len(fresh), 60):  # of a long file, a document per 60 paragraphs
            yield "\n\n".join(fresh[start : start + 60])


def headers() -> Documents:
    """Yield C++ headers of the packages that ship them."""
    for package in ("torch", "numpy"):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            root = Path(spec.origin).parent
            for path in _mixed(list(root.rglob("*.h")), root):
                yield path.read_text(encoding="utf-8", errors="ignore")


def descriptions() -> Documents:
    """Yield the descriptions (READMEs) of installed packages."""
    for package in sorted(metadata.distributions(), key=lambda p: str(p.metadata["Name"])):
        yield str(package.metadata.get_payload() or "")


CORPORA: dict[str, Callable[[], Documents]] = {
    "docs-python": lambda: docstrings("stdlib", "numpy", "sympy"),
    "docs-science": lambda: docstrings("scipy", "sklearn", "torch"),
    "code": lambda: code("stdlib", "sklearn"),
    "licence": licences,
    "headers": headers,
    "readme": descriptions,
}


def encode(text: str) -> np.ndarray:
    """Return a text as tokens, uint8; what is not printable ASCII is left out."""
    codes = _CODES[np.frombuffer(text.encode("ascii", "ignore"), np.uint8)]
    return codes[codes != 255]


def corpus(name: str, cache: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens for training and the held-out ones of a corpus, uint8 each."""
    path = None if cache is None else cache / f"corpus-{name}.npz"
    if path is not None and path.exists():
        with np.load(path) as stored:
            return stored["train"], stored["test"]
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    size = 0
    for number, document in enumerate(CORPORA[name]()):
        tokens = encode(document[:DOCUMENT])
        parts[number % HELD_OUT_EVERY == 0].append(tokens)
        size += len(tokens)
        if size > LARGEST:
            break
    train, test = (np.concatenate(part) for part in parts)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f"{os.getpid()}-{path.name}")  # several may collect at once
        np.savez_compressed(own, train=train, test=test)
        own.rename(path)
    return train, test
