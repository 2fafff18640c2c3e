"""Activations for `fit`: three models on probes, their hidden states exposed as outputs.

The updated B runs block by block: a session of one block starts from the stream that the block
before it left, kept in a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.activations import Role
from graphrebase.align.body import Body, FloatArray
from graphrebase.errors import InputError, MismatchError
from graphrebase.rebase.feeds import (
    BATCH,
    Arrays,
    affordable_batch,
    common_batch,
    complete,
    fitting_inputs,
    in_both_vocabularies,
)
from graphrebase.rebase.places import head_token, layer_places, place
from graphrebase.runtime import exposed, whole
from graphrebase.runtime.batches import sample_count, taken
from graphrebase.runtime.vocabulary import Vocabularies
from graphrebase.structure import Structure

OTHER_TOKENS = 0.1
"""Weight, in the last block, of tokens that a head which reads one token does not see."""
_HINT = "export the models the same way, or use --method anchored"


@dataclass(frozen=True, slots=True)
class Layout:
    """How tokens lie in the rows of a hidden state: (samples, tokens, ..) or seq-first."""

    samples: int
    tokens: int
    sequence_first: bool

    def rows(self, per_token: np.ndarray) -> FloatArray:
        """Return an array (samples, tokens) in the order of the rows."""
        ordered = per_token.T if self.sequence_first else per_token
        return np.asarray(ordered, np.float64).reshape(-1)


class Runs:
    """Implements `Activations` with onnxruntime.

    Raises:
        MismatchError: the models' hidden states have different shapes on the same inputs.
        InputError: a model cannot be run on the probes.
    """

    def __init__(
        self,
        body: Body,
        models: Mapping[Role, Structure],
        probes: Arrays,
        keep: Arrays | None,
        *,
        vocabularies: Vocabularies | None = None,
        batch: int = BATCH,
        attention: bool = False,
    ) -> None:
        """Open a session per model.

        Args:
            body: what the models have in common.
            models: structures of base, finetuned and target.
            probes: inputs of A_ft, one array per input, axis 0 the samples.
            keep: inputs of B, of its own domain; None for none.
            vocabularies: of A and B, where they differ.
            batch: samples per run.
            attention: whether attention layers are asked for too.
        """
        self._models = models
        self._mixtures = {role: place(body, s) for role, s in models.items()}
        self._sessions = {
            role: exposed(models[role].model, list(dict.fromkeys(v for m in x.values() for v in m)))
            for role, x in self._mixtures.items()
        }
        target = self._sessions["target"]
        self._layers = layer_places(models["target"])
        self._vocabularies = vocabularies
        self._data: dict[bool, dict[Role, dict[str, np.ndarray]]] = {}
        self._known: dict[bool, np.ndarray | None] = {}
        for kept, arrays in ((False, probes), (True, keep or {})):
            old, new, self._known[kept] = in_both_vocabularies(arrays, vocabularies, new=kept)
            self._data[kept] = {
                role: complete(session, new if role == "target" else old)
                for role, session in self._sessions.items()
            }
        if not self._data[False]["target"]:
            raise InputError("there are no probes", hint="give at least one sample per input")
        own = self._data[False]
        fixed = common_batch([(s, own[role]) for role, s in self._sessions.items()])
        self._partial = fixed is None
        self._batch = fixed or affordable_batch(target, own["target"], batch)
        self._layouts = {k: self._find_layouts(k) for k, x in self._data.items() if x["target"]}
        self._token = head_token(models["finetuned"])
        self._folder = tempfile.TemporaryDirectory(prefix="graphrebase-")
        solved = [(n, x) for n, t in enumerate(body.towers) for x in t.solved(attention=attention)]
        self._towers = {x.writer.stem: n for n, x in solved}
        self._order = list(self._towers)

    def streams(self, model: Role, *, kept: bool) -> Iterator[Mapping[str, FloatArray]]:
        """Yield the residual stream at every point, (tokens, D), per mini-batch."""
        session = self._sessions[model]
        for inputs, _ in self._batches(kept, model):
            yield _Streams(session.run(fitting_inputs(session, inputs)), self._mixtures[model])

    def release(self) -> None:
        """Close the sessions of whole models: from here on B runs in parts."""
        for session in self._sessions.values():
            session.close()

    def updated(
        self, layer: str, changes: Mapping[str, FloatArray], *, kept: bool
    ) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield the input of a layer's last map and the stream after it, in a changed B."""
        place = self._order.index(layer)
        place_of = self._layers[layer]
        hidden, after = place_of.value, place_of.after
        starts, settled = self._starts(place), self._settled(place)
        structure = self._models["target"]
        wanted = list(dict.fromkeys([hidden, after, *settled]))
        given = {value: self._types[value] for value in starts}
        weights = StoredWeights(structure, changes)
        session = exposed(structure.model, wanted, weights, given=given)
        for number, (inputs, _) in enumerate(self._batches(kept)):
            feed = inputs | {v: np.load(self._file(p, number, kept)) for v, p in starts.items()}
            found = session.run(fitting_inputs(session, feed))
            for value, done in settled.items():
                np.save(self._file(done, number, kept), found[value])
            yield place_of.rows(found[hidden]), _rows(found[after])

    def _starts(self, place: int) -> dict[str, int]:
        """Return the streams that the block can start from, one per tower, and their layers."""
        latest = {self._towers[name]: p for p, name in enumerate(self._order[: max(place - 1, 0)])}
        return {self._layers[self._order[p]].after: p for p in latest.values()}

    def _settled(self, place: int) -> dict[str, int]:
        """Return the stream after the layer before, which has its final weights only now."""
        return {self._layers[self._order[place - 1]].after: place - 1} if place else {}

    def _file(self, place: int, number: int, kept: bool) -> Path:
        return Path(self._folder.name) / f"{place}.{number}.{int(kept)}.npy"

    def read_rows(self, point: str, *, kept: bool) -> Iterator[NDArray[np.int64]]:
        """Yield the tokens that a head reads."""
        layout = self._layouts[kept][point]
        for _, valid in self._batches(kept):
            samples = valid if self._partial else layout.samples
            table = np.zeros((samples, layout.tokens))
            table[:valid, slice(None) if self._token is None else self._token] = 1.0
            found = Layout(samples, layout.tokens, layout.sequence_first).rows(table)
            yield np.flatnonzero(found)

    def logits(self, model: Role, point: str, rows: NDArray[np.int64]) -> FloatArray | None:
        """Return logits of the first mini-batch; zeros for tokens that A lacks."""
        session = whole(self._models[model].model.path, self._models[model].graph)
        part, valid = next(self._batches(False, model))
        layout, read = self._layouts[False][point], next(self.read_rows(point, kept=False))
        if self._partial and not layout.sequence_first:  # logits over a vocabulary take memory
            valid = int(read[rows].max()) // layout.tokens + 1
            part = taken(part, slice(valid))
            read = read[read < valid * layout.tokens]
        inputs = complete(session, part)
        name = "logits" if "logits" in session.outputs else session.outputs[0]
        found = session.run(fitting_inputs(session, inputs), outputs=[name])[name]
        if found.ndim < 2 or found.dtype.kind != "f":
            return None
        if not layout.sequence_first:
            found = found[:valid]
        found = found.reshape(-1, found.shape[-1])
        if len(found) != len(read):
            return None
        found = np.asarray(found[rows], np.float64)
        if self._vocabularies is not None and model != "target":
            found = self._vocabularies.in_new_columns(found)
        return found

    def weights(self, *, kept: bool, last: bool) -> Iterator[Mapping[str, FloatArray]]:
        """Yield the weight of every token by point: 0 for padding, less for what no head reads."""
        for number, (inputs, valid) in enumerate(self._batches(kept)):
            make = partial(self._weight, inputs, valid, number, kept, last)
            yield _PerPoint(self._layouts[kept], make)

    def _weight(
        self,
        inputs: Arrays,
        valid: int,
        number: int,
        kept: bool,
        last: bool,
        layout: Layout,
    ) -> FloatArray:
        """Return the weights of one mini-batch for streams of one layout."""
        known = self._known[kept]
        table = np.zeros((layout.samples, layout.tokens))
        table[:valid] = 1.0
        if known is not None and known.shape[1] == layout.tokens:
            table[:valid] *= known[number * self._batch :][:valid]
        for name, array in inputs.items():
            if "mask" in name and array.shape == table.shape:
                table *= array != 0
        if last and self._token is not None:
            share = np.full(layout.tokens, OTHER_TOKENS)
            share[self._token] = 1.0
            table *= share
        if valid < layout.samples and self._partial:
            return Layout(valid, layout.tokens, layout.sequence_first).rows(table[:valid])
        return layout.rows(table)

    @property
    def batches(self) -> dict[bool, int]:
        """Return the number of mini-batches of the probes (False) and the keep probes (True)."""
        return {kept: -(-self._count(kept) // self._batch) for kept in self._data}

    def _count(self, kept: bool) -> int:
        return sample_count(self._data[kept]["target"])

    def _batches(
        self, kept: bool, model: Role = "target"
    ) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """Yield inputs and the number of samples that count (fixed batches are filled up)."""
        data, count = self._data[kept][model], self._count(kept)
        for start in range(0, count, self._batch):
            rows = np.arange(start, min(start + self._batch, count))
            valid = len(rows)
            if valid < self._batch and not self._partial:
                rows = np.concatenate([rows, np.repeat(rows[-1:], self._batch - valid)])
            yield taken(data, rows), valid

    def _find_layouts(self, kept: bool) -> dict[str, Layout]:
        """Return how tokens lie in the stream at every point, the same in all three models."""
        shapes: dict[Role, dict[str, tuple[int, ...]]] = {}
        for role, session in self._sessions.items():
            inputs, valid = next(self._batches(kept, role))
            found = session.run(fitting_inputs(session, inputs))
            mixtures = self._mixtures[role]
            shapes[role] = {p: _common_shape(found, mixtures[p]) for p in mixtures}
            if role == "target":
                self._types = {name: array.dtype for name, array in found.items()}
        samples = len(next(iter(inputs.values())))
        counted = self._batch if valid == self._batch else samples
        layouts = {}
        for point, shape in shapes["target"].items():
            if len({by_point[point][:-1] for by_point in shapes.values()}) > 1:
                seen = sorted({by_point[point] for by_point in shapes.values()})
                raise MismatchError(f"hidden states have different layouts: {seen}", hint=_HINT)
            tokens = int(np.prod(shape[:-1])) // samples
            first = len(shape) == 3 and shape[0] != samples and shape[1] == samples
            layouts[point] = Layout(counted, tokens, first)
        return layouts


def _common_shape(found: Arrays, mixture: Mapping[str, float]) -> tuple[int, ...]:
    """Return the shape of the values that stand for a point."""
    shape, *others = (found[value].shape for value in mixture)
    if any(other != shape for other in others):
        raise MismatchError(
            f"a stream changes its shape on the way: {shape} and {others[0]}", hint=_HINT
        )
    return shape


class _PerPoint(Mapping[str, FloatArray]):
    """An array by point, made once for all points of one layout."""

    def __init__(self, layouts: Mapping[str, Layout], make: Callable[[Layout], FloatArray]) -> None:
        """Take the layouts, and what makes the array of one."""
        self._layouts, self._make = layouts, make
        self._made: dict[Layout, FloatArray] = {}

    def __getitem__(self, point: str) -> FloatArray:
        layout = self._layouts[point]
        if layout not in self._made:
            self._made[layout] = self._make(layout)
        return self._made[layout]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layouts)

    def __len__(self) -> int:
        return len(self._layouts)


class _Streams(Mapping[str, FloatArray]):
    """The stream at every point, made when it is asked for: all in double precision are large."""

    def __init__(
        self, values: Mapping[str, np.ndarray], mixtures: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Take what a model showed, and the values and shares that stand for every point."""
        self._values, self._mixtures = values, mixtures

    def __getitem__(self, point: str) -> FloatArray:
        (first, share), *rest = self._mixtures[point].items()
        total = _rows(self._values[first])
        if rest:
            total = share * total
        for value, part in rest:
            total = total + part * _rows(self._values[value])
        return total

    def __iter__(self) -> Iterator[str]:
        return iter(self._mixtures)

    def __len__(self) -> int:
        return len(self._mixtures)


def _rows(array: np.ndarray) -> FloatArray:
    return np.asarray(array.reshape(-1, array.shape[-1]), np.float64)


class StoredWeights(Mapping[str, np.ndarray]):
    """The constants of a model with some roles replaced, by name, made when they are asked for.

    Args:
        structure: the model.
        changes: new arrays by role.
    """

    def __init__(self, structure: Structure, changes: Mapping[str, FloatArray]) -> None:
        """Find the constants that hold the roles."""
        self._structure, self._changes = structure, changes
        self._roles: dict[str, list[str]] = {}
        for role in changes:
            self._roles.setdefault(structure.roles[role].view.tensor, []).append(role)

    def __getitem__(self, tensor: str) -> np.ndarray:
        roles = self._roles[tensor]
        stored = np.array(self._structure.model.tensors[tensor].load(), np.float64)
        for role in roles:
            self._structure.roles[role].view.write(stored, self._changes[role])
        return stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._roles)

    def __len__(self) -> int:
        return len(self._roles)
