"""Attention written with Einsum: heads are axes of the weights, in any order of the axes."""

from __future__ import annotations

from pathlib import Path

import pytest
from graph_models import save, weight
from onnx import helper

from graphrebase.io import read_model
from graphrebase.structure import find_structure, summary

FORMS = {
    "heads first": ("bsd,dhk->bhsk", "bhqk,bhsk->bhqs", "bhqs,bhsk->bhqk", "bhqk,hkd->bqd"),
    "heads last": ("bsd,dhk->bshk", "bqhk,bshk->bhqs", "bhqs,bshk->bqhk", "bqhk,hkd->bqd"),
}


def save_attention(folder: Path, form: str) -> Path:
    """Save x + attention(x): 6 features, 2 heads of 3."""
    into, scores, mix, out = FORMS[form]
    nodes = [helper.make_node("Einsum", ["x", f"w{p}"], [p], equation=into) for p in "qkv"]
    nodes += [
        helper.make_node("Einsum", ["q", "k"], ["scores"], equation=scores),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("Einsum", ["weights", "v"], ["heads"], equation=mix),
        helper.make_node("Einsum", ["heads", "wo"], ["branch"], equation=out),
        helper.make_node("Add", ["x", "branch"], ["y"]),
    ]
    weights = {f"w{p}": weight(6, 2, 3, seed=i) for i, p in enumerate("qkv")}
    weights["wo"] = weight(2, 3, 6, seed=4)
    return save(folder, nodes, {"x": ["B", "S", 6]}, ["y"], weights)


@pytest.mark.parametrize("form", FORMS)
def test_blocks_and_groups(tmp_path: Path, form: str) -> None:
    structure = find_structure(read_model(save_attention(tmp_path, form)), free=())
    found = summary(structure)
    (block,) = found["blocks"]
    assert (block["heads"], block["head_dim"], block["hidden"]) == (2, 3, 6)
    assert block["residual"] and not block["cross"]
    kinds = {group["kind"]: (group["size"], group["count"]) for group in found["groups"]}
    assert kinds == {"head": (2, 1), "head_qk": (3, 2), "head_vo": (3, 2)}
    # The role of a head is its slice of the weight.
    stored = weight(6, 2, 3)
    read = structure.read("block.0.attention.q.weight")
    assert read.shape == (2, 3, 6) and (read == stored.transpose(1, 2, 0)).all()
