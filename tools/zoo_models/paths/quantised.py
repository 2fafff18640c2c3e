"""Quantised forms that onnxruntime's tools write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter

from zoo_models.paths.path import Source

OPERATORS = ["MatMul", "Gemm", "Conv"]
BLOCK = 16


class _Calibration:
    """The inputs of an entry, one size after the other."""

    def __init__(self, source: Source) -> None:
        self.inputs: Iterator[dict[str, np.ndarray]] = iter(
            [dict(arrays) for arrays in source.inputs.values()]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next inputs, None at the end."""
        return next(self.inputs, None)


def _static(source: Source, output: Path, **options: Any) -> None:
    from onnxruntime.quantization import quantize_static

    quantize_static(
        str(source.path),
        str(output),
        _Calibration(source),
        op_types_to_quantize=OPERATORS,
        **options,
    )


def static(source: Source, output: Path) -> None:
    """Quantise statically, QuantizeLinear and DequantizeLinear, one scale per tensor."""
    _static(source, output)


def static_per_channel(source: Source, output: Path) -> None:
    """Quantise statically, one scale per output channel of a weight."""
    _static(source, output, per_channel=True)


def operators(source: Source, output: Path) -> None:
    """Quantise statically to operators that compute in integers (QLinearMatMul)."""
    from onnxruntime.quantization import QuantFormat

    _static(source, output, quant_format=QuantFormat.QOperator)


def dynamic(source: Source, output: Path) -> None:
    """Quantise weights to int8, activations when the model runs."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(source.path), str(output))


def dynamic_per_channel(source: Source, output: Path) -> None:
    """Quantise weights to int8, one scale per output channel."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(source.path), str(output), per_channel=True)


def _four_bits(source: Source, output: Path, opset: int = 0, **options: Any) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source.path)
    if opset:
        model = version_converter.convert_version(model, opset)
    quantizer = MatMulNBitsQuantizer(model, bits=4, block_size=BLOCK, **options)
    quantizer.process()
    onnx.save(quantizer.model.model, output)


def nbits(source: Source, output: Path) -> None:
    """Quantise weights to blocks of 16 numbers of 4 bits, MatMulNBits."""
    _four_bits(source, output)


def blocks(source: Source, output: Path) -> None:
    """Quantise weights to 4 bits in blocks, DequantizeLinear with `block_size`."""
    from onnxruntime.quantization import QuantFormat

    _four_bits(source, output, opset=21, quant_format=QuantFormat.QDQ)
