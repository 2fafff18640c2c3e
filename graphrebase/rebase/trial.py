"""Results on trial: written to temporary files, run, and judged without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from graphrebase.io import scratch_folder, write_model
from graphrebase.progress import Progress, silent
from graphrebase.rebase.feeds import complete
from graphrebase.rebase.folded import FittedMove
from graphrebase.rebase.plan import CARRIED, Entry, Heads, TaskVector, replacements
from graphrebase.runtime import Session, whole
from graphrebase.runtime.verdict import Answers, Goal, Tally, ask, compare
from graphrebase.runtime.vocabulary import Vocabularies
from graphrebase.structure import Structure

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A result that can be written, at any scale of the task vector.

    Attributes:
        vector: the task vector on B.
        plan: what happens to every role of the template.
        holder: the template: whose graph the result has.
    """

    vector: TaskVector
    plan: tuple[Entry, ...]
    holder: Structure

    def at(self, alpha: float) -> Candidate:
        """Return the same with the task vector scaled otherwise."""
        return replace(self, vector=replace(self.vector, alpha=alpha))

    @property
    def new_head(self) -> bool:
        """Whether the result has a head that B lacks."""
        return any(e.kind == "head" and e.action == CARRIED for e in self.plan)

    def untouched(self) -> Candidate:
        """Return B as it is, with the moved head of A_ft where B has none."""
        folded, heads = self.vector.folded, self.vector.heads
        if isinstance(folded, FittedMove):
            folded = replace(folded, changes={})
        if heads is not None:
            heads = Heads(heads.moved)
        return replace(self, vector=replace(self.vector, alpha=0.0, folded=folded, heads=heads))

    def write(
        self,
        output: Path,
        metadata: Mapping[str, str],
        *,
        force: bool = False,
        protected: Iterable[Path] = (),
    ) -> None:
        """Write the result, streamed, all or nothing."""
        write_model(
            self.holder.model, output, replacements(self.vector, self.plan, self.holder), metadata,
            force=force, protected=list(protected),
        )  # fmt: skip

    @contextmanager
    def running(self, beside: Path | None = None) -> Iterator[Session]:
        """Open a session of the result; arguments as `written`."""
        with self.written(beside) as path:
            yield _opened(self.holder, path)

    @contextmanager
    def written(self, beside: Path | None = None) -> Iterator[Path]:
        """Write the result to a file that is gone afterwards.

        Args:
            beside: a file in whose folder there is room for it; the system's folder by default.
        """
        with scratch_folder(beside) as folder:
            path = Path(folder) / "trial.onnx"
            self.write(path, {})
            yield path


def judge(
    candidates: Mapping[str, Candidate],
    probes: Arrays,
    *,
    beside: Path | None = None,
    progress: Progress = silent,
    vocabularies: Vocabularies | None = None,
) -> dict[str, Tally]:
    """Return what every candidate of one task lacks, on real inputs that none has seen.

    Args:
        candidates: results by name.
        probes: the inputs, axis 0 the samples.
        beside: a file in whose folder there is room for a model.
        progress: told about every step.
        vocabularies: of A and B, where they differ; the probes are in A's.

    Raises:
        UsageError: onnxruntime is not installed.
        InputError: the probes do not fit, or onnxruntime refuses a model.
        VerificationError: a model does not run on the probes.
    """
    goal = goal_of(next(iter(candidates.values())), probes, beside, vocabularies)
    found = {}
    for number, (name, candidate) in enumerate(candidates.items()):
        progress("judging on held-out probes", number, len(candidates))
        with candidate.running(beside) as session:
            found[name] = compare(goal, answers(session, probes, vocabularies), probes)
    return found


def _opened(structure: Structure, path: Path | None = None) -> Session:
    """Return a session of a model, or of a file with the same graph."""
    return whole(path or structure.model.path, structure.graph)


def goal_of(
    candidate: Candidate,
    probes: Arrays,
    beside: Path | None = None,
    vocabularies: Vocabularies | None = None,
) -> Goal:
    """Return what is wanted of a result; models are opened one after the other.

    Args:
        candidate: the result.
        probes: inputs of A_ft, axis 0 the samples.
        beside: a file in whose folder there is room for a model.
        vocabularies: of A and B, where they differ.

    Raises:
        InputError: the probes do not fit a model.
        VerificationError: a model does not run on them.
    """
    vector = candidate.vector
    known = None if vocabularies is None else vocabularies.to_new(probes)[1]
    finetuned = answers(_opened(vector.finetuned), probes, vocabularies, new=False)
    if candidate.new_head:
        with candidate.untouched().running(beside) as untouched:
            return Goal(finetuned, answers(untouched, probes, vocabularies), counted=known)
    reference = answers(_opened(vector.target), probes, vocabularies)
    base = answers(_opened(vector.base), probes, vocabularies, new=False)
    return Goal(finetuned, reference, base, known)


def answers(
    session: Session, probes: Arrays, vocabularies: Vocabularies | None = None, *, new: bool = True
) -> Answers:
    """Return what a model says of probes, masks and positions filled in.

    Args:
        session: the model.
        probes: inputs of A_ft, axis 0 the samples.
        vocabularies: of A and B, where they differ; only what both have is kept.
        new: whether the model has B's.

    Raises:
        InputError: the probes do not fit.
        VerificationError: the model does not run on them.
    """
    if vocabularies is not None and new:
        probes = vocabularies.to_new(probes)[0]
    found = ask(session, complete(session, probes))
    if vocabularies is None or found.scores is None:
        return found
    return Answers(vocabularies.common(found.scores, new=new))
