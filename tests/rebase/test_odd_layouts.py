"""Layouts that once went wrong in silence: no head, one key-value head, a batch of heads' size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import numpy_helper
from planted import plant, planted_map
from zoo_fixture import zoo_model
from zoo_models.modules import Zoo, add_noise

from graphrebase.errors import VerificationError
from graphrebase.io import read_model, structure_difference
from graphrebase.rebase import Settings, rebase
from graphrebase.structure import find_structure
from graphrebase.verify import permute_model

IMAGE, TEXT = ("pixel_values",), ("input_ids", "attention_mask")
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
}


def export(module: Zoo, path: Path, batch: int, *, dynamic: bool) -> Path:
    add_noise(module, 0)
    if module.inputs == IMAGE:
        names, inputs = ["pixel_values"], (torch.randn(batch, 3, 16, 16),)
    else:
        names = ["input_ids", "attention_mask"]
        inputs = (torch.ones(batch, 6).long(), torch.ones(batch, 6).long())
    axes = {n: {0: "batch"} if len(names) == 1 else {0: "batch", 1: "length"} for n in names}
    torch.onnx.export(
        module.eval(), inputs, str(path), dynamo=False, opset_version=17, input_names=names,
        output_names=["out"], dynamic_axes=axes if dynamic else None,
    )  # fmt: skip
    return path


def headless(folder: Path) -> Path:
    """Its only output is the hidden state: the last residual point is read by no weight."""
    config = transformers.ViTConfig(**SIZES, image_size=16, patch_size=4)
    model = transformers.ViTModel(config, add_pooling_layer=False)
    return export(Zoo(model, IMAGE, ("last_hidden_state",)), folder / "a.onnx", 2, dynamic=True)


def multi_query(folder: Path) -> Path:
    """Four query heads on one key-value head."""
    config = transformers.LlamaConfig(
        **SIZES, num_key_value_heads=1, vocab_size=101, use_cache=False
    )
    model = transformers.LlamaForCausalLM(config)
    return export(Zoo(model, TEXT, ("logits",)), folder / "a.onnx", 2, dynamic=True)


def static_batch(folder: Path) -> Path:
    """A static batch of as many samples as there are heads."""
    config = transformers.ViTConfig(**SIZES, image_size=16, patch_size=4)
    model = transformers.ViTForImageClassification(config)
    return export(Zoo(model, IMAGE, ("logits",)), folder / "a.onnx", 4, dynamic=False)


@pytest.mark.parametrize("make", [headless, multi_query, static_batch])
@pytest.mark.parametrize("residual", ["per-point", "shared"])
def test_planted_alignment_is_found(make: object, residual: str, tmp_path: Path) -> None:
    base = make(tmp_path)  # type: ignore[operator]
    pair = plant(base, tmp_path)
    settings = Settings(method="transfusion", residual=residual)
    found = rebase(pair.base, pair.finetuned, pair.target, None, settings).alignment
    points = 5 if residual == "per-point" else 1
    assert sum(name.startswith("residual") for name in found.maps) == points
    assert {n for n in found.maps if "residual" not in n} == {
        n for n in pair.alignment.maps if "residual" not in n
    }
    for space, value in found.maps.items():
        np.testing.assert_array_equal(value, planted_map(pair.alignment, space), err_msg=space)


def test_query_heads_of_one_key_value_head_are_a_space(tmp_path: Path) -> None:
    spaces = find_structure(read_model(multi_query(tmp_path))).spaces
    assert spaces["block.0.head_member"].size == 4 and "block.0.head" not in spaces


def test_permute_refuses_not_a_number(tmp_path: Path) -> None:
    model = onnx.load(zoo_model("gpt2-ts17-eager").path)
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 2)
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(VerificationError, match="NaN"):
        permute_model(tmp_path / "nan.onnx", tmp_path / "out.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["nan.onnx"]


def test_a_changed_index_is_a_difference_of_structure(tmp_path: Path) -> None:
    path = zoo_model("vit-cls-ts17-eager").path
    model = onnx.load(path)
    node = next(
        n
        for n in model.graph.node
        if n.op_type == "Constant" and n.attribute[0].t.data_type == onnx.TensorProto.INT64
    )
    value = numpy_helper.to_array(node.attribute[0].t) + 1
    node.attribute[0].t.CopyFrom(numpy_helper.from_array(value))
    onnx.save(model, tmp_path / "changed.onnx")
    (line,) = structure_difference(read_model(path), read_model(tmp_path / "changed.onnx"))
    assert node.output[0] in line
