"""One model in one onnxruntime session; the only module that imports onnxruntime."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

from graphrebase.errors import InputError, UsageError, VerificationError
from graphrebase.runtime.widened import widened

_PROVIDERS = ["CPUExecutionProvider"]
# Channels in blocks speed large convolutions up, but this step of onnxruntime ends the process on
# some float16 models.
_DISABLED = ["NchwcTransformer"]
_MESSAGE_LENGTH = 300
_ERRORS_ONLY = 3
_FATAL_ONLY = 4  # a failing run is raised here, onnxruntime need not print it too

#: numpy type of each onnxruntime element type.
_DTYPES: Mapping[str, Any] = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "bool": np.bool_,
    "string": np.object_,
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model declares about one input.

    Attributes:
        shape: a size per axis, or the symbol of a dynamic one; unnamed ones get a unique symbol.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


class NoKernelError(InputError):
    """The model is sound, but onnxruntime cannot run one of its operators on the CPU."""


class Session:
    """A model loaded on the CPU.

    A bfloat16 model that onnxruntime has no kernels for runs as float32, inputs and outputs too.

    Args:
        model: an ONNX file, with its external data beside it, or a serialized model.
        threads: threads of one operator; 1 makes runs repeatable.
        weights: values of initializers that the model declares as external data.

    Attributes:
        inputs: the declared inputs by name, in graph order.
        outputs: the output names, in graph order.
        widened: whether it runs as float32.
        batch: samples that every run must have, where a trial has shown that it takes no others.
        counts: inputs that count tokens, and what to add to the number of all tokens, where known.

    Raises:
        UsageError: onnxruntime is not installed, or ``threads`` is below 1.
        NoKernelError: onnxruntime has no kernel for an operator.
        InputError: the file is missing, or onnxruntime refuses the model.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int = 1,
        weights: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._where = str(model) if isinstance(model, Path) else None
        self._weights = dict(weights or {})
        self.batch: int | None = None
        self.counts: Mapping[str, int] = {}
        self._session, self.widened = _open_as_it_can(model, threads, self._weights)
        if self._weights and _copies_weights():
            self._weights = {}
        specs = [_spec(value, self._where) for value in self._session.get_inputs()]
        self.inputs: Mapping[str, InputSpec] = {spec.name: spec for spec in specs}
        self._bound: dict[str, np.ndarray] = {}
        self.outputs: tuple[str, ...] = tuple(v.name for v in self._session.get_outputs())
        types = [
            value.type for value in (*self._session.get_inputs(), *self._session.get_outputs())
        ]
        self._plain = all(_element(t) in _DTYPES and _dtype(t).isbuiltin == 1 for t in types)

    def run(
        self, inputs: Mapping[str, np.ndarray], *, outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the outputs by name.

        Args:
            inputs: one array per declared input.
            outputs: names of the outputs wanted; all by default.

        Raises:
            InputError: an input is missing, is not the model's, or an output does not exist.
            VerificationError: the model fails on these inputs.
        """
        self._check_names(inputs)
        wanted = self.outputs if outputs is None else tuple(outputs)
        unknown = [name for name in wanted if name not in self.outputs]
        if unknown:
            raise InputError(
                f"the model has no output '{unknown[0]}'; its outputs: {_list(self.outputs)}",
                where=self._where,
            )
        try:
            arrays = self._run(inputs, wanted)
        except Exception as error:  # onnxruntime's errors share no base class
            shapes = ", ".join(f"{n} {tuple(np.shape(inputs[n]))}" for n in self.inputs)
            raise VerificationError(
                f"the model does not run with the inputs {shapes}: {_shorten(error)}",
                where=self._where,
                hint="check that indices are inside their tables and sequences not too long; some "
                "exports bake a size in although they declare it dynamic",
            ) from error
        return dict(zip(wanted, arrays, strict=True))

    def bind(self, values: Mapping[str, np.ndarray]) -> None:
        """Set inputs for all runs to come; ``inputs`` has them no more."""
        self._bound |= values
        self.inputs = {name: spec for name, spec in self.inputs.items() if name not in values}

    def close(self) -> None:
        """Give the model's memory back; what it declares is still known, but it runs no more."""
        self._session, self._weights = None, {}

    def _check_names(self, inputs: Mapping[str, np.ndarray]) -> None:
        missing = [name for name in self.inputs if name not in inputs]
        unexpected = [name for name in inputs if name not in self.inputs]
        if missing or unexpected:
            faults = [f"missing: {_list(missing)}"] if missing else []
            faults += [f"not inputs of the model: {_list(unexpected)}"] if unexpected else []
            raise InputError(
                f"the inputs do not fit the model ({'; '.join(faults)})",
                where=self._where,
                hint=f"give exactly {_list(self.inputs)}",
            )

    def _run(self, inputs: Mapping[str, np.ndarray], wanted: Sequence[str]) -> list[np.ndarray]:
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.log_severity_level = _FATAL_ONLY
        feed = {name: np.ascontiguousarray(inputs[name]) for name in self.inputs}
        # ascontiguousarray turns a scalar into a vector
        feed = {name: array.reshape(np.shape(inputs[name])) for name, array in feed.items()}
        feed |= self._bound
        if self._plain:
            arrays: list[np.ndarray] = self._session.run(list(wanted), feed, options)
            return arrays
        values = {name: _to_value(array) for name, array in feed.items()}
        found = self._session.run_with_ort_values(list(wanted), values, options)
        return [_from_value(value) for value in found]


def _open_as_it_can(
    model: Path | bytes, threads: int, weights: Mapping[str, np.ndarray]
) -> tuple[Any, bool]:
    """Return a session, and whether the model had to be widened to float32 for it."""
    try:
        return _open(model, threads, weights), False
    except InputError:
        wider = widened(model)
        if wider is None:
            raise
        return _open(wider, threads, weights), True


@cache
def _copies_weights() -> bool:
    """Return whether onnxruntime copies the weights given beside a model, found by trial.

    Some releases read them in place for as long as a session lives; others have no more use for
    them once it is open.
    """
    count = 1 << 12
    weight = np.zeros(count, np.float32)
    declared = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [count])
    node = helper.make_node("Add", ["x", "w"], ["y"])
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [count])
    graph = helper.make_graph([node], "trial", [given], [declared], [declared_outside("w", weight)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = _open(model.SerializeToString(), 1, {"w": weight})
    weight += 1.0
    return not session.run(["y"], {"x": np.zeros(count, np.float32)})[0].any()


def declared_outside(name: str, array: np.ndarray) -> onnx.TensorProto:
    """Return an initializer whose values are given to the session beside the model."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="in memory")
    return tensor


def _open(model: Path | bytes, threads: int, weights: Mapping[str, np.ndarray]) -> Any:
    if threads < 1:
        raise UsageError(f"threads is {threads}", hint="use 1 or more")
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "running a model needs onnxruntime, which is not installed",
            hint="pip install 'graphrebase[cpu]'",
        ) from error
    if isinstance(model, Path) and not model.is_file():
        raise InputError("there is no such model file", where=str(model))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Blocks of 4 bits are multiplied in float: rounding activations would hide a wrong weight.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    # Packed copies of all weights would double the memory of a large model, to save little time.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False  # it keeps what the largest run needed, doubled
    if weights:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
    try:
        return onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model,
            options,
            providers=_PROVIDERS,
            disabled_optimizers=_DISABLED,
        )
    except Exception as error:  # onnxruntime's errors share no base class
        lacking = _lacks_kernel(error)
        raise (NoKernelError if lacking else InputError)(
            f"onnxruntime refuses the model: {_shorten(error)}",
            where=str(model) if isinstance(model, Path) else None,
            hint="this onnxruntime cannot run one of its operators on the CPU"
            if lacking
            else "check it with onnx.checker",
        ) from error


def _lacks_kernel(error: Exception) -> bool:
    """Tell whether onnxruntime misses an operator, not whether the model is broken."""
    return type(error).__name__ == "NotImplemented" or "not a registered function/op" in str(error)


def _spec(value: Any, where: str | None) -> InputSpec:
    if _element(value.type) not in _DTYPES:
        raise InputError(f"input '{value.name}' is a {value.type}, not supported", where=where)
    shape = tuple(
        d if d and isinstance(d, str | int) else (0 if d == 0 else f"{value.name}.{axis}")
        for axis, d in enumerate(value.shape or ())
    )
    return InputSpec(value.name, _dtype(value.type), shape)


def _element(declared: str) -> str:
    """Return ``float16`` of ``tensor(float16)``; what is no tensor is returned as it is."""
    is_tensor = declared.startswith("tensor(") and declared.endswith(")")
    return declared[len("tensor(") : -1] if is_tensor else declared


def _dtype(declared: str) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(_DTYPES[_element(declared)])
    return dtype


def _to_value(array: np.ndarray) -> Any:
    import onnxruntime

    if array.dtype.isbuiltin == 1:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
        array, helper.np_dtype_to_tensor_dtype(array.dtype)
    )


def _from_value(value: Any) -> np.ndarray:
    """Return a copy of a value; onnxruntime itself has no numpy type for bfloat16 and float8."""
    if not value.is_tensor():
        raise TypeError(f"an output is a {value.data_type()}, not a tensor")
    if value.data_type() == "tensor(string)":
        return np.asarray(value.numpy())
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.element_type()))
    if dtype.isbuiltin == 1:
        return np.asarray(value.numpy())
    shape = tuple(value.shape())
    data = ctypes.string_at(value.data_ptr(), math.prod(shape) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape)


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _shorten(error: Exception) -> str:
    """Return the first line of an error of onnxruntime, without its prefix and source paths."""
    text = " ".join(str(error).split())
    text = text.removeprefix("[ONNXRuntimeError] : ")
    return text if len(text) <= _MESSAGE_LENGTH else text[: _MESSAGE_LENGTH - 2] + " …"
