"""Evidence without labels: exact where it must be, silent where it says nothing."""

from __future__ import annotations

import numpy as np
import pytest
from runtime.runtime_models import linear

from graphrebase.runtime import Session
from graphrebase.runtime.verdict import Goal, Tally, Verdict, ask, compare, conclude, judged

RNG = np.random.default_rng(0)
BASE, TARGET = RNG.standard_normal((2, 4, 5))
TUNED = BASE + 0.5 * RNG.standard_normal((4, 5))
X = {"x": RNG.standard_normal((40, 4)).astype(np.float32)}


def opened(weight: np.ndarray, **options: str) -> Session:
    return Session(linear(weight, **options))


def measured(
    tuned: Session,
    target: Session,
    base: Session | None,
    new: Session,
    probes: dict[str, np.ndarray] = X,
) -> Tally:
    said = (None if model is None else ask(model, probes) for model in (tuned, target, base))
    finetuned, reference, old = said
    assert finetuned is not None and reference is not None
    return compare(Goal(finetuned, reference, old), ask(new, probes), probes)


def verdict(
    weight: np.ndarray, tuned: np.ndarray = TUNED, output: str = "logits", new_head: bool = False
) -> Verdict:
    base = None if new_head else opened(BASE, output=output)
    models = (opened(w, output=output) for w in (tuned, TARGET))
    return conclude(measured(*models, base, opened(weight, output=output)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def test_evidence_is_that_of_the_definition() -> None:
    new = TARGET + 0.3 * (TUNED - BASE)
    x = X["x"].astype(np.float64)
    p, q, b = (softmax(x @ w) for w in (TARGET + TUNED - BASE, new, TARGET))
    lost, start = ((p * np.log(p / y)).sum() for y in (q, b))
    found = verdict(new)
    assert found.evidence == pytest.approx(1 - lost / start, abs=1e-5)
    chosen = (x @ TUNED).argmax(-1) == (x @ (TARGET + TUNED - BASE)).argmax(-1)
    assert found.agreement == pytest.approx(chosen.mean())
    assert found.samples == found.scored == 40


def test_law_tallies_of_parts_add_up() -> None:
    models = [opened(w) for w in (TUNED, TARGET, BASE, TARGET + 0.3 * (TUNED - BASE))]
    whole, one, two = (measured(*models, {"x": X["x"][part]}) for part in (
        slice(0, 40), slice(0, 25), slice(25, 40)))  # fmt: skip
    total = one + two
    assert (total.samples, total.scored, total.agreed) == (40, 40, whole.agreed)
    assert total.evidence == pytest.approx(whole.evidence)
    assert one.evidence != pytest.approx(whole.evidence)
    assert conclude(one, {"two": two}).rivals == {"two": two.evidence}


def test_the_ends_of_the_scale() -> None:
    whole, nothing = verdict(TARGET + TUNED - BASE), verdict(TARGET)
    assert whole.evidence == pytest.approx(1, abs=1e-6) and whole.verdict == "worth deploying"
    assert nothing.evidence == pytest.approx(0, abs=1e-6) and nothing.verdict == "do not use"
    harmful = verdict(TARGET - (TUNED - BASE)).evidence
    assert harmful is not None and harmful < 0


@pytest.mark.parametrize(
    ("score", "name"),
    [
        (0.7, "worth deploying"),
        (0.69, "usable"),
        (0.5, "usable"),
        (0.3, "weak"),
        (0.29, "do not use"),
    ],
)
def test_levels(score: float, name: str) -> None:
    assert judged(score) == name


def test_loss_may_recover_without_accuracy() -> None:
    other = BASE + 0.05 * (TUNED - BASE)
    loud = 20 * TARGET  # B's own opinion outweighs what fine-tuning adds
    found = conclude(measured(*(opened(w) for w in (other, loud, BASE, loud + other - BASE))))
    assert found.evidence == pytest.approx(1, abs=1e-4)
    assert found.loss_only
    assert not verdict(TARGET + TUNED - BASE, tuned=BASE + 20 * (TUNED - BASE)).loss_only


def test_a_new_head_is_measured_by_the_finetuned_model_itself() -> None:
    assert verdict(TUNED, new_head=True).evidence == pytest.approx(1, abs=1e-6)
    assert verdict(TUNED).evidence != pytest.approx(1, abs=1e-2)
    assert verdict(TUNED, new_head=True).agreement is None


def test_masked_positions_do_not_count() -> None:
    from onnx import helper
    from runtime.runtime_models import FLOAT, INT64, model

    def tokens(weight: np.ndarray) -> Session:
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["logits"]),
            helper.make_node("Identity", ["attention_mask"], ["mask"]),
        ]
        inputs = [("x", FLOAT, ["n", "s", 4]), ("attention_mask", INT64, ["n", "s"])]
        outputs = [("logits", FLOAT, ["n", "s", 5]), ("mask", INT64, ["n", "s"])]
        weights = {"w": weight.astype(np.float32)}
        return Session(model(nodes, inputs, outputs, weights).SerializeToString())

    models = [tokens(w) for w in (TUNED, TARGET, BASE, TARGET + 0.3 * (TUNED - BASE))]
    probes = {"x": X["x"].reshape(8, 5, 4), "attention_mask": np.ones((8, 5), np.int64)}
    whole = measured(*models, probes)
    assert whole.scored == 40 and whole.evidence == pytest.approx(
        verdict(TARGET + 0.3 * (TUNED - BASE)).evidence, abs=1e-6
    )
    probes["attention_mask"][:, 3:] = 0
    part = measured(*models, probes)
    assert part.scored == 24
    assert part.evidence != pytest.approx(whole.evidence, abs=1e-6)


def test_of_many_scores_the_first_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [opened(w) for w in (TUNED, TARGET, BASE, TARGET + 0.3 * (TUNED - BASE))]
    first = measured(*models, {"x": X["x"][:8]})
    monkeypatch.setattr("graphrebase.runtime.verdict.MOST_SCORES", 40)
    found = measured(*models)
    assert (found.samples, found.scored) == (8, 8)
    assert found.evidence == pytest.approx(first.evidence)


@pytest.mark.parametrize(
    ("weight", "output", "fault"),
    [
        (TARGET, "image_embeds", "not class scores"),
        (TARGET[:, :3], "logits", "different shapes"),
    ],
)
def test_what_says_nothing_is_unverified(weight: np.ndarray, output: str, fault: str) -> None:
    found = verdict(weight, output=output)
    assert (found.verdict, found.evidence) == ("unverified", None)
    assert fault in found.reason


def test_logits_between_0_and_1_by_chance_are_no_shares() -> None:
    """Batches are small: only what lies there on all probes is taken for a sigmoid's."""
    weights = np.array([[0.2, 0.4, 0.3], [0.5, 0.1, 0.2], [0.3, 0.3, 0.1], [0.1, 0.2, 0.6]])
    base, tuned, target = (opened(weights + c) for c in (0.0, 0.05 * np.eye(4, 3), 0.02))
    small = {"x": np.full((16, 4), 0.5, np.float32)}
    small["x"][:, 1] = np.linspace(0, 1, 16)
    found = conclude(measured(tuned, target, base, tuned, small))
    assert found.reason.endswith("not class scores")
    both = {"x": np.concatenate([small["x"], 3 * small["x"]])}
    found = conclude(measured(tuned, target, base, tuned, both))
    assert found.evidence is not None and found.evidence > 0.9


def test_a_regression_and_an_idle_finetuning_are_unverified() -> None:
    one = [opened(w[:, :1]) for w in (TUNED, TARGET, BASE)]
    single = conclude(measured(*one, one[1]))
    assert (single.verdict, single.evidence) == ("unverified", None)
    idle = verdict(TARGET, tuned=BASE)
    assert idle.evidence is None and "changes nothing" in idle.reason
