"""The two models that the speed of analysis is promised for: BERT-base, and a decoder of 7 B.

BERT-base is exported as it is (440 MB on disk). The decoder is exported narrow and then widened:
its dimensions are replaced by those of a Llama of 7 B parameters, its payloads by a hole in a
sparse file. Analysis never reads them, so neither disk nor memory need hold 27 GB.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from quiet_export import quiet

#: Dimensions of the narrow decoder, and those of 7 B that replace them. No other number in the
#: graph is one of the former.
WIDER = {84: 4096, 14: 128, 7: 64, 230: 11008, 101: 32000}
LAYERS = 32
_SMALL_BYTES = 4096


def build(folder: Path) -> tuple[Path, Path]:
    """Return (BERT-base, decoder), exported into ``folder`` where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    bert, decoder = folder / "bert-base.onnx", folder / f"decoder-7b-{LAYERS}-layers.onnx"
    if not bert.exists():
        _export_bert(bert)
    if not decoder.exists():
        narrow = folder / "narrow.onnx"
        _export_decoder(narrow)
        widen(narrow, decoder)
        narrow.unlink()
    return bert, decoder


def _export_bert(path: Path) -> None:
    import transformers

    config = transformers.BertConfig(attn_implementation="eager")
    _export(transformers.BertModel(config), path, lambda found: found.last_hidden_state)


def _export_decoder(path: Path) -> None:
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=84, intermediate_size=230, num_hidden_layers=LAYERS, num_attention_heads=6,
        num_key_value_heads=6, vocab_size=101, attn_implementation="eager", use_cache=False,
    )  # fmt: skip
    _export(transformers.LlamaForCausalLM(config), path, lambda found: found.logits)


def _export(model: Any, path: Path, chosen: Callable[[Any], Any]) -> None:
    import torch

    class Chosen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return chosen(self.model(input_ids=input_ids, attention_mask=attention_mask))

    ids = torch.ones((2, 5), dtype=torch.int64)
    names = ["input_ids", "attention_mask"]
    with quiet():
        torch.onnx.export(
            Chosen(), (ids, ids), str(path), input_names=names, output_names=["output"],
            opset_version=17, dynamo=False,
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in [*names, "output"]},
        )  # fmt: skip


def widen(narrow: Path, wide: Path) -> None:
    """Write a model with its dimensions replaced by ``WIDER``, its payloads a sparse data file."""
    model = onnx.load(narrow)
    data, size = wide.with_suffix(".onnx.data"), 0
    tensors = list(model.graph.initializer)
    tensors += [n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"]
    for tensor in tensors:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            tensor.CopyFrom(_wider_numbers(tensor))
        elif any(n in WIDER for n in tensor.dims):
            size += _hollow(tensor, data.name, size)
    with data.open("wb") as file:
        file.truncate(size)
    onnx.save(model, wide)


def _wider_numbers(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return an integer tensor (Reshape targets, Slice bounds) with its dimensions replaced."""
    values = numpy_helper.to_array(tensor)
    wider = np.array([WIDER.get(int(v), v) for v in values.reshape(-1)], values.dtype)
    return numpy_helper.from_array(wider.reshape(values.shape), tensor.name)


def _hollow(tensor: onnx.TensorProto, data: str, offset: int) -> int:
    """Give a tensor its wider dimensions and no payload; returns the bytes it takes in the file."""
    name, dims = tensor.name, [WIDER.get(n, n) for n in tensor.dims]
    length = 4 * int(np.prod(dims))
    tensor.Clear()
    tensor.name, tensor.data_type = name, onnx.TensorProto.FLOAT
    tensor.dims.extend(dims)
    if length <= _SMALL_BYTES:
        tensor.raw_data = bytes(length)
        return 0
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", data), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return length
