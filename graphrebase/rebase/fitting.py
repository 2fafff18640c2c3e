"""Fit a fine-tuning onto B: models, probes and the closed form brought together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from graphrebase.align import Alignment, Details
from graphrebase.align.activations import Role
from graphrebase.align.body import FloatArray, Linear
from graphrebase.align.fit import find_fit
from graphrebase.align.recipe import FitOptions, Models
from graphrebase.errors import VerificationError
from graphrebase.progress import Progress, silent
from graphrebase.rebase.body import build_body
from graphrebase.rebase.folded import FittedMove, folded_move
from graphrebase.rebase.given import ENOUGH, Given, samples
from graphrebase.rebase.graft import new_heads
from graphrebase.rebase.reader import Reader
from graphrebase.rebase.runs import Runs
from graphrebase.rebase.watched import Watched
from graphrebase.runtime import Session, fills_masks, generate, probe_kind, table_limit, whole
from graphrebase.runtime.batches import taken
from graphrebase.runtime.head_probes import generate_for_head, head_probe_kind
from graphrebase.runtime.probes import SECONDS, Opener, Probes
from graphrebase.runtime.recombined import Recombination
from graphrebase.runtime.signature import Note, declared_inputs, token_input
from graphrebase.runtime.synthetic import looked_up
from graphrebase.runtime.vocabulary import Vocabularies
from graphrebase.structure import Structure

LOG = logging.getLogger(__name__)
GENERATED_IMAGE_KEEP = 0.1
"""Weight of keep probes beside generated images of the task, which say less than real ones."""
SPARE = 0.2
"""Share of generated inputs for a new head that nothing is fitted on."""
NEW_HEAD = FitOptions(ridge=0.003, attention=True, looks=3.0)
"""Under a head that B lacks: there is nothing to forget, and a head that reads one token learns
only through attention what the others hold (small BERT pairs, 256 inputs: .79 and .82 of the gain
with it, .67 and .79 without; a ridge of .003 did better than .01 and .03 by .01 and .04), and
where to look through queries and keys (four pairs, 256 and 64 inputs: .85 and .82 with three times
their moved task vector, .84 and .81 with twice)."""
TEXTS, GIVEN_TEXTS = 1024, 2048
"""Texts under such a head, once those that are there are recombined; the second of given ones, in
the fit that stays, not in those that judge it (four small BERT pairs: .85 of the gain with 256
given and 2048, .83 with 1024; .83 with 64 given, .81; without any, 1024 did better by .03)."""
FEW_TEXTS = 512
"""Texts of given ones from which on the ridge shrinks with their number (four small BERT pairs:
.001 did better than .003 by .005 with 2048 texts, as well with 256, worse by .01 with 90)."""
RECOMBINED = 1e12
"""Weights times tokens, of all texts together, up to which there are as many."""
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Probing:
    """Inputs that a fit looks at.

    Attributes:
        task: unlabelled inputs of the task.
        keep: inputs of B's own domain, where it must stay as it is.
        options: how to fit on them.
        kind: ``text``, ``image`` or ``other``, where any were generated; else empty.
        generated: which of ``task`` and ``keep`` were generated.
        beside: generated sequences that ``task`` holds beside the given ones; None for none.
        recombination: how ``task`` holds more texts than were given or generated; None for none.
        recombined: how many.
        note: how that was done.
        seconds: time that it took.
        spare: generated inputs of the task that nothing is fitted on, to compare results.
    """

    task: Arrays
    keep: Arrays
    options: FitOptions
    kind: str = ""
    generated: frozenset[str] = frozenset()
    beside: Arrays | None = None
    note: str = ""
    seconds: float = 0.0
    spare: Arrays | None = None
    recombination: Recombination | None = None
    recombined: int = 0

    def on(self, task: Arrays | None) -> Probing:
        """Return the same on other inputs of the task; on the same where there are none."""
        if task is None:
            return self
        more = task if self.recombination is None else self.recombination.extended(task)
        found, options = _joined(more, self.beside), self.options
        if self.recombination is not None and not self.generated:
            options = replace(options, ridge=_ridge(samples(more)))
        made = samples(more) - samples(task)
        return replace(self, task=found, options=options, recombined=made)

    @property
    def added(self) -> int:
        """Return how many samples of the task were generated beside given ones."""
        joined = self.beside is not None and _same_form(self.task, self.beside)
        return samples(self.beside) if self.beside is not None and joined else 0


def fit_models(
    structures: Mapping[str, Structure],
    probing: Probing,
    progress: Progress = silent,
    names: Mapping[str, str] | None = None,
    vocabularies: Vocabularies | None = None,
) -> tuple[FittedMove, Details]:
    """Return the changes of B with the maps they rest on, and how well these fit.

    Args:
        structures: of base, finetuned and target.
        probing: the inputs.
        names: A's roles by B's, where the two differ in size.
        vocabularies: of A and B, where they differ.
        progress: told about every step.

    Raises:
        InputError: the inputs do not fit the models.
    """
    base, finetuned, target = (structures[n] for n in ("base", "finetuned", "target"))
    one, other = (base, target) if names is None else (target, base)
    body = build_body(one, other, names=names)
    models: dict[Role, Structure] = {"base": base, "finetuned": finetuned, "target": target}
    options = probing.options
    if names is not None:  # heads of another number have no queries to add to
        options = replace(options, looks=0.0)
    attention = options.attention
    runs = Runs(
        body, models, probing.task, probing.keep, vocabularies=vocabularies, attention=attention
    )
    layers = sum(len(t.solved(attention=attention)) for t in body.towers)
    watched = Watched(runs, runs.batches, layers, progress)

    empty = folded_move(base, finetuned, target, Alignment({}, "fit"), body, names)

    def changed(alignment: Alignment, linears: Iterable[Linear]) -> dict[str, FloatArray]:
        move = replace(empty, alignment=alignment)
        roles = [role for linear in linears for role in (linear.weight, linear.bias)]
        found = {
            role: move.own_change(role)
            for role in roles
            if (role.startswith("head.tokens") or not role.startswith("head."))
            and all(role in s.roles for s in (base, finetuned, target))
            and finetuned.roles[role].view.shape == base.roles[role].view.shape
        }
        return {role: change for role, change in found.items() if change is not None}

    shared = None if vocabularies is None else vocabularies.shared
    fitted = find_fit(
        body,
        Models(Reader(base, names), Reader(finetuned, names), Reader(target), shared),
        watched,
        options,
        changed,
        empty.tied,
    )
    watched.finish()
    moved = replace(empty, alignment=Alignment(fitted.maps, "fit"))
    return FittedMove(_with_same_tensors(fitted.changes, target), moved), fitted.details


def _with_same_tensors(
    changes: Mapping[str, FloatArray], target: Structure
) -> dict[str, FloatArray]:
    """Return changes of B with those of heads that share a changed table's stored tensor.

    The output of a model that fills masks in may read the table of its tokens itself.
    """
    tables = {
        target.roles[name].view.tensor: change
        for name, change in changes.items()
        if name in target.roles and target.roles[name].kind == "embedding"
    }
    same = {
        name: tables[role.view.tensor]
        for name, role in target.roles.items()
        if role.kind == "head" and role.view.tensor in tables
    }
    return same | dict(changes)


@dataclass(slots=True)
class ProbeSource:
    """Finds probes when they are first asked for, once.

    Attributes:
        structures: of base, finetuned and target.
        given: what the user brought.
        seed: of everything random.
        progress: told what is generated.
    """

    structures: Mapping[str, Structure]
    given: Given
    seed: int
    progress: Progress = silent
    _found: Probing | None = None

    def get(self) -> Probing:
        """Return probes, those excepted that are held out.

        Raises:
            UsageError: onnxruntime is not installed.
        """
        if self._found is None:
            self._found = _find_probes(self.structures, self.given, self.seed, self.progress)
        return self._found

    def useful(self) -> bool:
        """Return whether there are probes, or probes worth making.

        Raises:
            UsageError: onnxruntime is not installed.
        """
        return self.given.probes is not None or can_probe(self.structures)

    def masked(self) -> bool:
        """Return whether the models fill masks in, and A_ft has no head that they lack.

        What a masked head reads goes through a layer of its own, and a fit carries over next to
        nothing (two small pairs: -.01 of the gain, .01 with 256 inputs; `anchored` .11).
        """
        finetuned = self.structures["finetuned"]
        session = whole(finetuned.model.path, finetuned.graph)
        try:
            return not _has_new_head(self.structures) and fills_masks(session, finetuned.graph)
        except VerificationError:  # on inputs made up; given ones may be others
            return False

    def without(self, fold: int) -> Probing:
        """Return probes without another part than the first."""
        return self.get().on(self.given.fitted(fold))

    def whole(self) -> Probing:
        """Return probes with those that were held out, and all texts that are made of them."""
        found = self.get()
        if found.recombination is not None:
            found = replace(found, recombination=replace(found.recombination, total=GIVEN_TEXTS))
        return found.on(self.given.probes)


def _find_probes(
    structures: Mapping[str, Structure], given: Given, seed: int, progress: Progress
) -> Probing:
    """Return given probes and keep probes, or generated ones, and options that suit them.

    A few given sequences do better with generated ones beside them (measured on causal models: .51
    of the gain in place of .42 with 16 sequences, no worse with 64); images do not mix.
    """
    if _has_new_head(structures):
        return _find_head_probes(structures, given, seed, progress)
    task, keep, options = given.fitted(), given.keep, FitOptions()
    few = task is not None and samples(task) < ENOUGH and _tokens_per_sample(task)
    if task is not None and keep is not None and not few:
        return Probing(task, keep, options)
    graphs = structures["finetuned"].graph, structures["target"].graph

    def make(opened: Opener, note: Note) -> Probes:
        return generate(opened, *graphs, seed=seed, length=few or None, given=task, note=note)

    made, note, seconds = _generated(structures, make, progress)
    if task is None and made.kind == "image":
        options = replace(options, keep=GENERATED_IMAGE_KEEP)
    generated = frozenset(n for n, x in (("task", task), ("keep", keep)) if x is None)
    beside = made.task if few and made.kind == "text" else None
    if beside is not None:
        note = f"{note}, beside the given ones"
    found = Probing(
        made.task, keep or made.keep, options, made.kind, generated, beside, note, seconds
    )
    return found.on(task)


def _find_head_probes(
    structures: Mapping[str, Structure], given: Given, seed: int, progress: Progress
) -> Probing:
    """Return given probes, or generated ones, for a head that B lacks.

    Nothing is left of what B did itself, so nothing is kept unless it is asked for. Texts are made
    more by recombining them (four small BERT pairs: .79 of the gain in place of .69 with 64 of
    them, .82 in place of .80 with 256, .75 in place of .69 without any).
    """
    texts = GIVEN_TEXTS if given.probes is not None and len(given.folds) < 2 else TEXTS
    keep, recombination = given.keep or {}, _recombination(structures, texts, seed)
    task = given.fitted()
    if task is not None:
        return Probing(task, keep, NEW_HEAD, recombination=recombination).on(task)
    graph, bias = structures["finetuned"].graph, _output_bias(structures["base"])

    def make(opened: Opener, note: Note) -> Probes:
        return generate_for_head(opened, graph, bias=bias, seed=seed, note=note)

    made, note, seconds = _generated(structures, make, progress)
    task, spare = _halved(made.task, SPARE, seed)
    return Probing(
        task, keep, NEW_HEAD, made.kind, frozenset({"task"}), None, note, seconds, spare,
        recombination,
    ).on(task)  # fmt: skip


def _generated(
    structures: Mapping[str, Structure],
    make: Callable[[Opener, Note], Probes],
    progress: Progress,
) -> tuple[Probes, str, float]:
    """Return generated probes, how they were made, and the seconds that it took."""
    progress(f"generating probes, {SECONDS:.0f} s allowed", 0, 0)
    notes: list[str] = []

    def opened(name: str) -> Session:
        return whole(structures[name].model.path, structures[name].graph)

    began = time.perf_counter()
    made = make(opened, notes.append)
    seconds, note = time.perf_counter() - began, "; ".join(notes)
    LOG.info("probes: %s, in %.0f s", note, seconds)
    return made, note, seconds


def _ridge(texts: int) -> float:
    """Return the ridge of a fit on given texts, recombined."""
    return NEW_HEAD.ridge * min(1.0, FEW_TEXTS / max(texts, 1))


def _recombination(
    structures: Mapping[str, Structure], texts: int, seed: int
) -> Recombination | None:
    """Return how inputs for a new head become so many; None where they are no texts."""
    graph = structures["finetuned"].graph
    declared = declared_inputs(graph)
    tokens = token_input(declared)
    looks_up = tokens is not None and tokens in looked_up(graph)
    if tokens is None or not looks_up or any(len(spec.shape) > 2 for spec in declared.values()):
        return None
    weights = max(structure.weights for structure in structures.values())
    return Recombination(tokens, texts, int(RECOMBINED // max(weights, 1)), seed)


def recombined_texts(structures: Mapping[str, Structure]) -> int:
    """Return how many texts a fit under a new head is judged with; 0 where none are recombined."""
    recombined = _has_new_head(structures) and _recombination(structures, TEXTS, 0) is not None
    return TEXTS if recombined else 0


def _tokens_per_sample(inputs: Arrays) -> int:
    """Return the number of tokens of a sample; 0 where inputs are not tokens."""
    tokens = [x for x in inputs.values() if x.dtype.kind in "iu" and x.ndim == 2]
    return tokens[0].shape[1] if len(tokens) == len(inputs) and tokens else 0


def _joined(task: Arrays, beside: Arrays | None) -> Arrays:
    """Return given inputs with generated ones after them, where these fit."""
    if beside is None or not _same_form(task, beside):
        return task
    return {
        name: np.concatenate([array, beside[name].astype(array.dtype)])
        for name, array in task.items()
    }


def _same_form(task: Arrays, other: Arrays) -> bool:
    return all(n in other and other[n].shape[1:] == array.shape[1:] for n, array in task.items())


def _output_bias(base: Structure) -> np.ndarray | None:
    """Return the bias of an output with a value per token of the vocabulary; None without one."""
    rows = table_limit(base.graph)
    found = [
        name
        for name, role in base.roles.items()
        if name.startswith("head.tokens") and name.endswith(".bias") and role.view.shape == (rows,)
    ]
    return base.read(found[-1]) if found else None


def _halved(arrays: Arrays, share: float, seed: int) -> tuple[Arrays, Arrays]:
    """Return arrays without a share of their samples, and these."""
    order = np.random.default_rng(seed).permutation(samples(arrays))
    cut = round(share * len(order))
    parts = np.sort(order[cut:]), np.sort(order[:cut])
    first, second = (taken(arrays, rows) for rows in parts)
    return first, second


def _has_new_head(structures: Mapping[str, Structure]) -> bool:
    """Return whether A_ft has a head that A or B lacks."""
    base, finetuned, target = (structures[n] for n in ("base", "finetuned", "target"))
    return bool(new_heads(finetuned, base) or new_heads(finetuned, target))


def can_probe(structures: Mapping[str, Structure]) -> bool:
    """Return whether useful probes can be made: for language and vision models.

    Raises:
        UsageError: onnxruntime is not installed.
        InputError: onnxruntime refuses the model.
    """
    finetuned = structures["finetuned"]
    session = whole(finetuned.model.path, finetuned.graph)
    if _has_new_head(structures):
        return head_probe_kind(session) != "other"
    return probe_kind(session, finetuned.graph) != "other"
