"""What an architecture has is found: blocks, widths, symmetry groups, by nominal tables."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from zoo_fixture import zoo_model

from graphrebase.io import read_model
from graphrebase.structure import find_structure, summary

MODELS = [
    *("vit-ts17-eager", "vit-cls-ts14-sdpa", "deit-cls-ts17-sdpa", "clip-vision-ts17-eager"),
    *("clip-text-ts14-eager", "clip-ts17-sdpa", "bert-ts14-eager", "bert-mlm-ts17-sdpa"),
    *("bert-cls-dy18-sdpa", "roberta-cls-ts17-eager", "distilbert-ts14-sdpa", "gpt2-ts17-eager"),
    *("gpt2-dy23-sdpa", "llama-ts17-sdpa", "llama-tied-ts14-eager", "llama-dy23-sdpa"),
    *("encoder-bf-pre-ts17-eager", "encoder-sf-post-ts14-sdpa", "vit-cls-dy18-eager"),
    *("albert-ts17-eager", "electra-cls-ts14-eager", "mpnet-ts17-eager", "deberta-v2-ts17-eager"),
    *("modernbert-mlm-ts17-sdpa", "gpt-neox-ts17-eager", "gpt-j-ts14-eager", "opt-ts17-sdpa"),
    *("bloom-ts17-eager", "falcon-ts17-sdpa", "falcon-new-dy18-sdpa", "phi-ts14-sdpa"),
    *("phi3-ts17-eager", "gemma2-ts17-eager", "gemma3-ts14-sdpa", "qwen3-ts17-sdpa"),
    *("mixtral-ts17-eager", "mixtral-dy18-sdpa", "hand-talking-ts17-eager"),
]


@pytest.mark.parametrize("name", MODELS)
def test_groups_are_the_nominal_ones(name: str) -> None:
    entry = zoo_model(name)
    found = summary(find_structure(read_model(entry.path)))
    kinds = Counter(group["kind"] for group in found["groups"])
    expected = dict(entry.nominal.groups)
    expected["residual"] += entry.nominal.latent_residuals
    assert {k: kinds[k] for k in expected} == expected


@pytest.mark.parametrize("name", MODELS)
def test_blocks_have_the_nominal_widths(name: str) -> None:
    entry = zoo_model(name)
    found = summary(find_structure(read_model(entry.path), free=()))
    layers = sum(tower.layers for tower in entry.nominal.towers)
    attention = [b for b in found["blocks"] if b["kind"] == "attention"]
    mlps = [b for b in found["blocks"] if b["kind"] == "mlp"]
    assert len(attention) == len(mlps) == layers
    assert Counter(
        (b["heads"], b["kv_heads"], b["head_dim"], b["hidden"]) for b in attention
    ) == Counter(
        {(t.heads, t.kv_heads, t.head_dim, t.hidden): t.layers for t in entry.nominal.towers}
    )
    assert Counter((b["width"], b["hidden"], b["gated"]) for b in mlps) == Counter(
        {(t.mlp, t.hidden, t.gated): t.layers for t in entry.nominal.towers}
    )
    assert all(block["residual"] for block in found["blocks"])
    assert found["near_misses"] == [] and found["coverage"] > 0.9


@pytest.mark.parametrize("name", [m for m in MODELS if m.startswith("llama")])
def test_rotary_pairs_are_frozen_and_said(name: str) -> None:
    found = summary(find_structure(read_model(zoo_model(name).path)))
    reasons = {f["axis"]: f["reason"] for f in found["frozen"]}
    for layer in range(2):
        assert "rotary" in reasons[f"block.{layer}.head_qk"]


def test_an_exposed_hidden_state_freezes_the_stream_and_is_said() -> None:
    path: Path = zoo_model("bert-ts14-eager").path
    kept = summary(find_structure(read_model(path), free=()))
    assert "residual" not in {g["kind"] for g in kept["groups"]}
    reasons = {f["axis"]: f["reason"] for f in kept["frozen"]}
    assert reasons["residual"] == "output 'last_hidden_state'"
