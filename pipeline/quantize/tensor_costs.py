"""Estimate what rounding each tensor to each type costs, in nats a token, from samples of its rows.

A tensor's error E costs half of sum_ij F_ij E_ij^2, with the Fisher information F of its weights: the second
order of the KL divergence. F is given by column, which is its exact sum over the rows. Errors that undo the
tuning itself are no noise and add up over the layers; they cost the square of the share that they undo.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufio.ggml import GGMLType, ggml_type, ggml_type_named, type_name
from ggufio.ggml_reader import GgufFile, GgufTensors, TensorLocation, padded
from pipeline.quantize.allocation import Option
from pipeline.quantize.imatrix_file import ImportanceWeights
from pipeline.quantize.k_quants import has_kernel
from pipeline.quantize.rounding import not_finite, rounded_rows
from pipeline.quantize.types import GGML_TYPES, NEEDS_IMATRIX, TensorTypes, regex

Floats = NDArray[np.float32]
_SAMPLE = 2**16  # numbers of a tensor
_MIN_ROWS = 16
_ENERGY = 0.1
"""Nats that a matrix of a block costs as a whole where nothing was measured; typical of tuned chat models."""
_HEAD_ENERGY = 10 * _ENERGY
_HEAD = ("token_embd.weight", "output.weight")


@dataclass(frozen=True)
class Sensitivity:
    """How much errors of the weights matter: arrays by tensor name; empty where it was not measured.

    `columns` are the Fisher information of each column, summed over its rows, in nats a token: [width].
    `down` [rank, width] and `up` [rows, rank] are the factors of the tuning's change of a tensor, and
    `change` is the tuning's KL divergence from the base in nats a token.
    """

    columns: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    down: Mapping[str, Floats] = field(default_factory=dict)
    up: Mapping[str, Floats] = field(default_factory=dict)
    change: float = 0.0

    def save(self, path: Path) -> None:
        """Write it to a NumPy archive."""
        parts: dict[str, Mapping[str, Any]] = {"columns": self.columns, "down": self.down, "up": self.up}
        arrays: dict[str, Any] = {
            f"{part}/{name}": value for part, found in parts.items() for name, value in found.items()
        }
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, change=np.float64(self.change), **arrays)

    @classmethod
    def load(cls, path: Path) -> Sensitivity:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            parts: dict[str, dict[str, Any]] = {"columns": {}, "down": {}, "up": {}}
            for key in stored.files:
                part, _, name = key.partition("/")
                if name:
                    parts[part][name] = stored[key]
            return cls(parts["columns"], parts["down"], parts["up"], float(stored["change"]))


@dataclass(frozen=True)
class TensorCosts:
    """The options of each tensor that has a choice, and the types of the `others`, in the file's order.

    `header` and `rest` are the bytes of the header and of the other tensors; `weights` are all numbers.
    """

    options: dict[str, tuple[Option, ...]]
    others: dict[str, str]
    header: int
    rest: int
    weights: int


@dataclass(frozen=True)
class CostInputs:
    """A full-precision GGUF, the types of llama.cpp's dry run for it, and what to weigh its errors by."""

    source: Path
    planned: Mapping[str, int]
    fixed: TensorTypes
    weights: ImportanceWeights
    sensitivity: Sensitivity
    threads: int


def tensor_costs(inputs: CostInputs, advance: Callable[[int], None]) -> TensorCosts:
    """Measure all tensors, calling `advance` with the number of those that are done. Raises InputError."""
    tensors, header = _layout(inputs)
    free = [name for name in tensors if _is_free(name, inputs, "output.weight" in tensors)]
    file = GgufTensors(inputs.source)
    importance = inputs.weights.importance
    for dtype, weighted in {
        (one.number, name in importance)
        for name in free
        for one in _offered(tensors[name], weighed=name in importance)
    }:
        has_kernel(dtype, weighted=weighted)  # compiled and tested once, before the threads start
    with ThreadPoolExecutor(inputs.threads) as pool:
        jobs = {pool.submit(_measure, file, tensors[name], inputs): name for name in free}
        measured = {}
        for done, job in enumerate(as_completed(jobs), 1):
            measured[jobs[job]] = job.result()
            advance(done)
    options = _options({name: measured[name] for name in free}, inputs.sensitivity.change)
    return _with_sizes(inputs, tensors, header, options)


def smallest_file(inputs: CostInputs) -> TensorCosts:
    """Return the smallest option of each tensor, without its cost, and all other sizes."""
    tensors, header = _layout(inputs)
    has_output, importance = "output.weight" in tensors, inputs.weights.importance
    options: dict[str, tuple[Option, ...]] = {
        name: (min(_sizes(tensor, name in importance), key=lambda one: one.size),)
        for name, tensor in tensors.items()
        if _is_free(name, inputs, has_output)
    }
    return _with_sizes(inputs, tensors, header, options)


def _sizes(tensor: TensorLocation, weighed: bool) -> list[Option]:
    return [Option(one.name, padded(_bytes(tensor, one)), 0.0) for one in _offered(tensor, weighed=weighed)]


def _with_sizes(
    inputs: CostInputs,
    tensors: Mapping[str, TensorLocation],
    header: int,
    options: dict[str, tuple[Option, ...]],
) -> TensorCosts:
    others = {name: type_name(inputs.planned[name]) for name in tensors if name not in options}
    rest = sum(padded(_bytes(tensors[name], ggml_type_named(dtype))) for name, dtype in others.items())
    weights = sum(tensor.rows * tensor.width for tensor in tensors.values())
    return TensorCosts(options, others, header, rest, weights)


def _layout(inputs: CostInputs) -> tuple[dict[str, TensorLocation], int]:
    """Return the tensors in the quantized file's order, of the source's types, and the header's bytes."""
    opened = GgufFile(inputs.source)
    try:
        header, _ = opened.quantized(inputs.planned, 0, notes=inputs.weights.notes)
        found = opened.tensors()
    finally:
        opened.close()
    return {name: found[name] for name in inputs.planned}, len(header)


def _is_free(name: str, inputs: CostInputs, has_output: bool) -> bool:
    """Return whether llama.cpp quantizes the tensor and the user chose no type for it."""
    dtype, fixed = ggml_type(inputs.planned[name]), inputs.fixed
    if dtype is None or not dtype.quantized:
        return False
    if fixed.output and name == ("output.weight" if has_output else "token_embd.weight"):
        return False
    if name in ("token_embd.weight", "per_layer_token_embd.weight") and fixed.embedding:
        return False
    return not any(re.search(regex(pattern), name) for pattern, _ in fixed.overrides)


@dataclass(frozen=True)
class _Measured:
    """A tensor's errors by type, as shares of its `energy`: the cost of losing it as a whole, in nats.

    `energy` is None where it was not measured. `size` are the bytes, `undone` the shares of the tuning's
    change that are undone, `change` the cost of losing that change.
    """

    name: str
    size: dict[str, int]
    errors: dict[str, float]
    undone: dict[str, float]
    energy: float | None
    change: float


def _measure(file: GgufTensors, tensor: TensorLocation, inputs: CostInputs) -> _Measured:
    name, found = tensor.name, inputs.sensitivity
    count = min(tensor.rows, max(_MIN_ROWS, _SAMPLE // tensor.width))
    rows = np.unique(np.linspace(0, tensor.rows - 1, count).astype(np.int64))
    values = np.concatenate([file.read(name, int(row), 1) for row in rows])
    if not np.isfinite(values).all():
        raise not_finite(name)
    importance = inputs.weights.importance.get(name)
    change = found.up[name][rows] @ found.down[name] if name in found.up else None
    columns = _column_weights(tensor, found.columns.get(name), importance)
    whole = float(_mean_square(values) @ columns) or 1.0
    energy = float(change is not None and (change**2).sum())
    size, errors, undone = {}, {}, {}
    for dtype in _offered(tensor, weighed=importance is not None):
        error = _rounded(values, dtype, rows // tensor.height, importance) - values
        size[dtype.name] = padded(_bytes(tensor, dtype))
        errors[dtype.name] = float(_mean_square(error) @ columns) / whole
        undone[dtype.name] = float((error * change).sum()) / energy if change is not None and energy else 0.0
    measured = name in found.columns
    return _Measured(
        name,
        size,
        errors,
        undone,
        whole / 2 if measured else None,
        float(_mean_square(change) @ columns) if measured and change is not None else 0.0,
    )


def _column_weights(
    tensor: TensorLocation, fisher: NDArray[np.float64] | None, importance: Floats | None
) -> NDArray[np.float64]:
    """Return each column's weight: the Fisher information, or the mean square of its inputs, or one."""
    if fisher is not None:
        return fisher
    if importance is not None:
        means: NDArray[np.float64] = importance.mean(axis=0, dtype=np.float64)
        return means
    return np.ones(tensor.width)


def _offered(tensor: TensorLocation, *, weighed: bool) -> list[GGMLType]:
    """Return the types that fit the tensor's rows, and its own."""
    names = [*GGML_TYPES[: GGML_TYPES.index("F16")], *(sorted(NEEDS_IMATRIX) if weighed else ())]
    types = [ggml_type_named(name) for name in names]
    own = ggml_type(tensor.type)
    assert own is not None
    return [*(dtype for dtype in types if tensor.width % dtype.block == 0), own]


def _rounded(
    values: Floats, dtype: GGMLType, matrices: NDArray[np.int64], importance: Floats | None
) -> Floats:
    """Return the rows as they are after quantizing; `matrices` are the rows' numbers of importance."""
    if not dtype.quantized:
        return values
    rounded = np.empty_like(values)
    for matrix in np.unique(matrices) if importance is not None else [0]:
        mine = matrices == matrix if importance is not None else np.ones(len(values), np.bool_)
        rows = np.ascontiguousarray(values[mine])
        weights = None if importance is None else np.ascontiguousarray(importance[matrix])
        rounded[mine] = rounded_rows(rows, dtype.number, weights)
    return rounded


def _mean_square(rows: Floats) -> NDArray[np.float64]:
    """Return the mean square of each column: [width]."""
    means: NDArray[np.float64] = np.square(rows, dtype=np.float64).mean(axis=0)
    return means


def _bytes(tensor: TensorLocation, dtype: GGMLType) -> int:
    return tensor.rows * (tensor.width // dtype.block) * dtype.size


def _options(measured: Mapping[str, _Measured], change: float) -> dict[str, tuple[Option, ...]]:
    """Return the options with their costs in nats; `change` is the tuning's as a whole."""
    known = [one.energy for one in measured.values() if one.energy is not None and one.name not in _HEAD]
    typical = statistics.median(known) if known else _ENERGY
    changes = sum(one.change for one in measured.values())
    return {
        name: tuple(
            Option(
                dtype, one.size[dtype], _cost(one, dtype, typical, change * _share(one, changes, measured))
            )
            for dtype in one.size
        )
        for name, one in measured.items()
    }


def _share(one: _Measured, changes: float, measured: Mapping[str, _Measured]) -> float:
    """Return the tensor's share of the tuning's change; equal ones where nothing was measured."""
    if changes:
        return one.change / changes
    changed = sum(any(other.undone.values()) for other in measured.values())
    return 1 / changed if any(one.undone.values()) else 0.0


def _cost(one: _Measured, dtype: str, typical: float, change: float) -> float:
    energy = one.energy
    if energy is None:
        energy = typical * (_HEAD_ENERGY / _ENERGY if one.name in _HEAD else 1)
    return energy * one.errors[dtype] + change * one.undone[dtype] ** 2


def total_cost(costs: TensorCosts, types: Mapping[str, str]) -> float:
    """Return the estimate for a file with these types, in nats a token."""
    return sum(_option(choices, types[name]).cost for name, choices in costs.options.items())


def file_size(costs: TensorCosts, types: Mapping[str, str]) -> int:
    """Return the exact bytes of a file with these types of the tensors that have a choice."""
    tensors = (_option(choices, types[name]).size for name, choices in costs.options.items())
    return costs.header + costs.rest + sum(tensors)


def _option(choices: Iterable[Option], dtype: str) -> Option:
    return next(one for one in choices if one.type == dtype)
