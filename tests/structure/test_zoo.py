"""Families and export paths of the zoo: nominal groups and blocks, every group sound and needed.

A representative part; `python tools/zoo_report.py` checks the whole.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from zoo_fixture import zoo_model
from zoo_models.checking import Finding, examine, wrong_blocks
from zoo_models.entry import export_path
from zoo_models.reporting import render

from graphrebase.io import read_model
from graphrebase.structure import find_structure, summary

MODELS = [
    *("t5-ts17-eager", "bart-ts17-eager", "whisper-ts17-eager", "dinov2-swiglu-ts17-eager"),
    *("beit-ts17-eager", "mha-cross-ts17-eager", "llama-cache-ts17-eager"),
    *("gpt2-cache-ts17-eager+merged", "bert-ts17-eager+ort-opt", "gpt2-ts17-eager+ort-extended"),
    *("llama-ts17-eager+fp16", "vit-cls-ts17-eager+bf16-stored", "bert-ts17-eager+files"),
    *("llama-ts17-eager+qdq-channel", "bert-ts17-eager+int8", "bert-ts17-eager+tf2onnx"),
    *("swin-dy18-sdpa", "encoder-decoder-ts17-eager", "mixtral-ts17-eager+bf16-stored"),
    *("gpt2-cache-ts17-eager+qoperator", "mha-cross-dy18-sdpa+fp16"),
]


@pytest.mark.parametrize("name", MODELS)
def test_structure_is_nominal_and_every_group_sound(name: str) -> None:
    finding = examine(zoo_model(name), export_path(name))
    assert finding.missing == {} and finding.blocks == ""
    assert finding.error is not None and finding.sound, finding.guilty
    assert finding.silent == () and finding.idle == ()


def test_learned_positions_part_the_stream_and_queries_of_zeros_leave_weights_idle() -> None:
    entry = zoo_model("detr-learned-ts17-eager")
    finding = examine(entry, "ts17-eager")
    assert finding.missing == {} and finding.blocks == ""
    assert finding.sound and finding.silent == ()
    assert finding.idle == ("block.2.head_qk",)
    told = summary(find_structure(read_model(entry.path)))
    streams = [group["name"] for group in told["groups"] if group["kind"] == "residual"]
    assert streams == ["residual.0.part.0", "residual.0.part.1", "residual.1"]


@pytest.mark.parametrize("path", ["nbits", "blocks"])
def test_blocks_of_numbers_that_share_a_scale_keep_the_function(path: str) -> None:
    finding = examine(zoo_model(f"bert-ts17-eager+{path}"), f"ts17-eager+{path}")
    assert finding.sound and finding.error is not None and finding.silent == ()


def test_control_blocks_of_another_architecture_are_noticed() -> None:
    entry = zoo_model("bert-ts17-eager")
    blocks = summary(find_structure(read_model(entry.path)))["blocks"]
    assert wrong_blocks(blocks, entry.nominal) == ""
    tower = entry.nominal.towers[0]
    for other in (replace(tower, heads=2), replace(tower, mlp=81), replace(tower, layers=3)):
        assert wrong_blocks(blocks, replace(entry.nominal, towers=(other,)))


def test_report_tells_what_is_missing_and_what_is_unsound() -> None:
    fine = Finding("bert-ts17-eager", {"head": (2, 2)}, error=1e-7, frozen={"output 'x'": 1})
    short = replace(fine, name="gpt2-ts17-eager", groups={"head": (1, 2)})
    wrong = replace(fine, name="vit-ts17-eager", guilty=("residual (1.0e+00)",), error=1.0)
    gone = Finding("glm-ts17-eager", failure="not exported: no")
    text = render([fine, short, wrong, gone])
    assert "head 1/2" in text and "**UNSOUND**" in text and "| glm-ts17-eager | no |" in text
    assert "models: 2 of 3 reach nominal, 2 of 3 sound" in text


def test_control_inputs_of_two_sizes_are_checked() -> None:
    sizes = zoo_model("bert-ts17-eager").inputs
    assert {np.shape(arrays["input_ids"]) for arrays in sizes.values()} == {(1, 5), (3, 11)}
