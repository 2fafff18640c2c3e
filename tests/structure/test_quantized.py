"""A quantised export has the blocks of the float one, and its groups where scales allow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnxruntime.quantization import (  # type: ignore[import-untyped]
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import (  # type: ignore[import-untyped]
    MatMulNBitsQuantizer,
)
from onnxruntime.transformers.float16 import (  # type: ignore[import-untyped]
    convert_float_to_float16,
)
from onnxruntime.transformers.optimizer import optimize_model  # type: ignore[import-untyped]
from zoo_fixture import ZooEntry, zoo_model

from graphrebase.errors import MismatchError
from graphrebase.io import read_model
from graphrebase.rebase.pairing import check_architecture
from graphrebase.structure import find_structure, summary
from graphrebase.verify import permute_model

FAMILIES = ("bert-ts17-eager", "gpt2-ts17-eager", "llama-ts17-eager", "vit-cls-ts17-eager")
#: Scales per channel or tensor: nothing is lost.
EXACT = ("dynamic", "qdq", "qoperator")


class Once(CalibrationDataReader):  # type: ignore[misc]
    """Calibration on one batch."""

    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self.feeds = iter([feed])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the batch, then None."""
        return next(self.feeds, None)


def quantize(entry: ZooEntry, how: str, path: Path) -> Path:
    """Quantise a zoo entry per channel, or in blocks of 16."""
    if how == "dynamic":
        quantize_dynamic(entry.path, path, per_channel=True, weight_type=QuantType.QInt8)
    elif how == "4 bits":
        made = MatMulNBitsQuantizer(onnx.load(entry.path), block_size=16, is_symmetric=False)
        made.process()
        onnx.save(made.model.model, path)
    else:
        with np.load(entry.path.with_suffix(".inputs.npz")) as stored:
            named = {k.removeprefix("large/"): stored[k] for k in stored if k.startswith("large/")}
        inputs = [v.name for v in onnx.load(entry.path, load_external_data=False).graph.input]
        form = QuantFormat.QDQ if how == "qdq" else QuantFormat.QOperator
        reader = Once({name: named[name] for name in inputs})
        quantize_static(
            entry.path, path, reader, quant_format=form, per_channel=True,
            weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
        )  # fmt: skip
    return path


def blocks(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what `inspect` says of the blocks, without the names of nodes."""
    return [{k: v for k, v in block.items() if k != "node"} for block in found["blocks"]]


def kinds(found: dict[str, Any]) -> Counter[tuple[str, int, int]]:
    """Return how many groups there are of each kind, size and count."""
    return Counter((g["kind"], g["size"], g["count"]) for g in found["groups"])


@pytest.mark.parametrize("how", [*EXACT, "4 bits"])
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_those_of_the_float_model(tmp_path: Path, family: str, how: str) -> None:
    entry = zoo_model(family)
    path = quantize(entry, how, tmp_path / "model.onnx")
    plain = summary(find_structure(read_model(entry.path)))
    found = summary(find_structure(read_model(path)))
    assert blocks(found) == blocks(plain)
    assert found["near_misses"] == [] and found["coverage"] > 0.95
    kinds = [
        Counter((g["kind"], g["size"], g["count"]) for g in s["groups"]) for s in (found, plain)
    ]
    if how in EXACT:
        assert kinds[0] == kinds[1]
    else:
        named = {f["axis"]: f["reason"] for f in found["frozen"]}
        assert "share a byte" in named["residual"]


def test_whole_blocks_that_move_have_the_name_of_what_they_are_blocks_of(tmp_path: Path) -> None:
    """Width 32 and 80 hidden units in blocks of 16; two heads of 8 share one."""
    model = onnx.load(zoo_model(FAMILIES[0]).path)
    made = MatMulNBitsQuantizer(model, block_size=16, is_symmetric=True)
    made.process()
    onnx.save(made.model.model, tmp_path / "model.onnx")
    found = summary(find_structure(read_model(tmp_path / "model.onnx")))
    sizes = {(g["name"], g["kind"], g["size"]) for g in found["groups"]}
    assert {("residual", "residual", 2), ("block.0.mlp", "mlp", 5)} <= sizes
    assert "head_vo" not in {kind for _, kind, _ in sizes}
    reasons = {f["axis"]: f["reason"] for f in found["frozen"]}
    assert "block of 16 with one scale" in reasons["residual"]


@pytest.mark.parametrize("keeps", [False, True])
def test_an_activation_that_quantisation_stands_for_is_seen(tmp_path: Path, keeps: bool) -> None:
    """The session leaves a Relu out where numbers below zero have no place."""
    entry = zoo_model("t5-encoder-ts17-eager")
    quantize(entry, "qdq", tmp_path / "qdq.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "model.onnx")
    kept = ["QDQFinalCleanupTransformer", "QDQSelectorActionTransformer"] if keeps else []
    onnxruntime.InferenceSession(tmp_path / "qdq.onnx", options, disabled_optimizers=kept)
    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "Relu" not in operators and ("QLinearMatMul" in operators) is not keeps
    found = summary(find_structure(read_model(tmp_path / "model.onnx")))
    assert blocks(found) == blocks(summary(find_structure(read_model(entry.path))))


@pytest.mark.parametrize("family", ["mixtral-ts17-eager", "bert-ts17-eager"])
def test_blocks_are_those_of_the_float_model_where_some_nodes_stay_in_float32(
    tmp_path: Path, family: str
) -> None:
    entry = zoo_model(family)
    model = onnx.load(entry.path)
    maps = [node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    half = convert_float_to_float16(model, keep_io_types=True, node_block_list=maps[::2])
    onnx.save(half, tmp_path / "model.onnx")
    plain = summary(find_structure(read_model(entry.path)))
    found = summary(find_structure(read_model(tmp_path / "model.onnx")))
    assert blocks(found) == blocks(plain) and kinds(found) == kinds(plain)


def test_a_cache_that_is_quantised_as_it_comes_moves_with_the_heads(tmp_path: Path) -> None:
    entry = zoo_model("llama-cache-ts17-eager")
    options = {"MatMulConstBOnly": False}  # keys and values are quantised too
    quantize_dynamic(entry.path, tmp_path / "model.onnx", extra_options=options)
    free = ("latent", "state")
    plain = summary(find_structure(read_model(entry.path), free=free))
    found = summary(find_structure(read_model(tmp_path / "model.onnx"), free=free))
    assert kinds(found) == kinds(plain)
    moved = permute_model(tmp_path / "model.onnx", tmp_path / "other.onnx", free=free)
    assert moved["groups_permuted"]["head"] == 2 and moved["checked"]


def test_fused_attention_of_8_bits_is_seen(tmp_path: Path) -> None:
    entry = zoo_model(FAMILIES[0])
    fused = optimize_model(str(entry.path), "bert", num_heads=4, hidden_size=32, opt_level=0)
    fused.save_model_to_file(str(tmp_path / "fused.onnx"))
    quantize_dynamic(
        tmp_path / "fused.onnx", tmp_path / "model.onnx",
        op_types_to_quantize=["MatMul", "Gemm", "Attention", "EmbedLayerNormalization"],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )  # fmt: skip
    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert {"QAttention", "QEmbedLayerNormalization"} <= operators
    found = summary(find_structure(read_model(tmp_path / "model.onnx")))
    plain = summary(find_structure(read_model(entry.path)))
    assert kinds(found) == kinds(plain) and found["coverage"] == 1
    assert [b["kind"] for b in found["blocks"]] == [b["kind"] for b in plain["blocks"]]
    assert permute_model(tmp_path / "model.onnx", tmp_path / "same.onnx")["not_seen"] == []


def test_integers_are_not_rebased(tmp_path: Path) -> None:
    entry = zoo_model(FAMILIES[0])
    plain = find_structure(read_model(entry.path))
    quantized = find_structure(read_model(quantize(entry, "dynamic", tmp_path / "model.onnx")))
    assert quantized.quantized and not plain.quantized
    check_architecture(plain, plain, ("base", "target"))
    with pytest.raises(MismatchError, match=r"target model is quantised.*embedding.input_ids"):
        check_architecture(plain, quantized, ("base", "target"))
