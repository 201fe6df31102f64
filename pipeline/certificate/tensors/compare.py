"""Compare each tensor of the tuned model with the GGUF's, holding one in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np

from engine.llama.model import Model
from ggufio.ggml import BF16, F16, F32, dequantize, ggml_type, quantize, type_name
from ggufio.ggml_reader import UNQUANTIZED, Array, GgufTensors, rounded_to
from pipeline.certificate.subject import Subject, text_config
from pipeline.certificate.tensors.expected import expected_tensors
from pipeline.certificate.tensors.layout import GgufLocation, TensorMap
from pipeline.certificate.tensors.rounding import ReadRows, is_bfloat16, is_rounding
from pipeline.progress import Advance

_SLAB = 2**18  # elements that stay in a core's cache from one sum to the next
RoundTrip = Callable[[Array], Array]
"""Rounds values as the GGUF tensor's type does."""


@dataclass(frozen=True)
class TensorError:
    """The difference between a GGUF's tensor and the expected one.

    `nmse` is the energy of the difference relative to that of the expected tensor (infinite for NaN).
    `delta_ratio` is the fraction of the adapter's change that is present: 1 all, 0 none; None for a tensor
    without a change. What the type rounds away counts as present, since no file can hold it;
    `delta_ratio_raw` counts it as absent. `delta_ratio_std` is the standard deviation of `delta_ratio` that
    other roundings on the way cause. `delta_energy` is the energy of the change relative to the tensor's, and
    `unexplained` that of the difference from the correctly rounded tensor.
    """

    name: str
    nmse: float
    energy: float
    actual_energy: float
    delta_ratio: float | None = None
    delta_ratio_raw: float | None = None
    delta_ratio_std: float = 0.0
    delta_energy: float = 0.0
    unexplained: float = 0.0

    @property
    def is_scaled(self) -> bool:
        """True when the whole error is the adapter's change at another scale."""
        if self.delta_ratio is None:
            return False
        scaled = (self.delta_ratio - 1) ** 2 * self.delta_energy
        return abs(self.unexplained - scaled) < 0.2 * self.unexplained


def tensor_error(
    name: str,
    expected: Array,
    delta: Array | None,
    read: ReadRows,
    round_trip: RoundTrip = lambda values: values,
) -> TensorError:
    """Compare the `expected` tensor [..., width] with the one that `read` returns.

    `delta` is the adapter's part of it, in the same shape. A change that is smaller than the type's steps is
    rounded away in one direction, back to the base: without `round_trip` it would look like a change that was
    left out.
    """
    width = expected.shape[-1] if expected.ndim else 1
    rows = expected.reshape(-1, width)
    delta_rows = None if delta is None else delta.reshape(-1, width)
    error = energy = actual_energy = 0.0
    delta_energy = raw_along = along = unexplained = 0.0  # `along`: projections on the change
    step = max(1, _SLAB // width)
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        actual = read(first, len(part))
        difference = actual - part
        error += _energy(difference)
        energy += _energy(part)
        actual_energy += _energy(actual)
        if delta_rows is not None:
            change, residual = delta_rows[first : first + step], actual - round_trip(part)
            delta_energy += _energy(change)
            raw_along += _product(difference, change)
            along += _product(residual, change)
            unexplained += _energy(residual)
    nmse = error / energy if energy else float(error > 0)
    if not isfinite(nmse):
        return TensorError(name, inf, energy, actual_energy)
    if not delta_energy:
        return TensorError(name, nmse, energy, actual_energy)
    return TensorError(
        name,
        nmse,
        energy,
        actual_energy,
        delta_ratio=1 + along / delta_energy,
        delta_ratio_raw=1 + raw_along / delta_energy,
        delta_ratio_std=sqrt(unexplained / delta_energy / expected.size),
        delta_energy=delta_energy / energy,
        unexplained=unexplained / energy,
    )


def _energy(values: Array) -> float:
    return _product(values, values)


def _product(one: Array, other: Array) -> float:
    return float(np.vdot(np.ascontiguousarray(one), np.ascontiguousarray(other)))


_MAX_LEFT = 1e-3  # of the error, when a known mistake explains it
_NEAR_ZERO = 0.05


def diagnose(
    layout: TensorMap, location: GgufLocation, value: Array, error: TensorError, read: ReadRows
) -> str:
    """Return the signature of the cause (see known_causes.py). `value` is the checkpoint's tensor."""
    if not isfinite(error.nmse):
        return "not_finite"
    if error.actual_energy == 0.0:
        return "zeroed"
    for signature, mistaken in layout.known_mistakes(location, value):
        if tensor_error(location.tensor, mistaken, None, read).nmse < max(_MAX_LEFT * error.nmse, 1e-9):
            return signature
    if error.delta_ratio is not None and error.is_scaled:
        return "delta_missing" if abs(error.delta_ratio) < _NEAR_ZERO else "delta_scaled"
    return "damaged"


_ROUNDED = {"BF16": BF16, "F16": F16}  # of safetensors
_UNQUANTIZED_LIMITS = {F32: 1e-10, F16: 1e-6, BF16: 1e-5}


# Minimum bits per weight -> limit. Measured errors of real weights are a fifth to a half of it
# (docs/certificate.md); a lost or mixed-up tensor has an error near 1.
_QUANTIZED_LIMITS = ((7.5, 2e-4), (6.0, 1.5e-3), (5.0, 6e-3), (4.0, 3e-2), (3.0, 1e-1), (0.0, 6e-1))


def max_nmse(dtype: int) -> float:
    """Return the largest NMSE that rounding to the ggml type number `dtype` explains.

    f16 has 11 bits of precision, so a number is off by 2**-12 of itself in the mean, and the energy by 3e-8;
    the limit leaves room for numbers below 6e-5, which f16 stores with fewer bits.
    """
    if dtype in _UNQUANTIZED_LIMITS:
        return _UNQUANTIZED_LIMITS[dtype]
    known = ggml_type(dtype)
    assert known is not None  # llama.cpp has read the file
    return next(limit for bits, limit in _QUANTIZED_LIMITS if known.bits >= bits)


_PLAIN = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
_SAMPLE = 2**22  # elements
_ALLOWANCE = (
    2.0  # times the plain rounding's error, as an importance matrix puts up with more in some columns
)

_HEAD, _EMBEDDINGS = "output.weight", "token_embd.weight"
_WRONG_SHAPE = TensorError("", float("inf"), 0.0, 1.0)


@dataclass(frozen=True)
class ComparedTensor:
    """A tensor of the GGUF, its error, the limit of its NMSE, and the signature of the cause if it misfits.

    `is_unquantized` is true for f32, f16 and bf16. `rounded_before` is the type to which the checkpoint or
    the file was rounded on the way, if that explains a difference; `limit` is then that type's. For quantized
    types only the NMSE is checked: how much of a small change so few bits keep is measured by the quality
    check.
    """

    tensor: str
    error: TensorError
    limit: float
    is_unquantized: bool
    signature: str = ""
    rounded_before: str = ""

    @property
    def excess(self) -> float:
        """The NMSE as a multiple of its limit."""
        return self.error.nmse / self.limit

    @property
    def fits(self) -> bool:
        """True when the NMSE and the ratio of the adapter's change are within their limits."""
        ratio = self.error.delta_ratio if self.is_unquantized else None
        allowed = max(0.05, 6 * self.error.delta_ratio_std)
        return self.error.nmse <= self.limit and (ratio is None or abs(ratio - 1) <= allowed)


@dataclass(frozen=True)
class Comparison:
    """The compared tensors, and those of the model that are `missing` in the GGUF.

    `tensors` is the number of tensors in the GGUF. `tied` is true when the model uses its embeddings as its
    output matrix, `own_head` when the GGUF has an output matrix that differs from its embeddings. If the
    architecture is not fully known (`is_known`), a difference proves nothing. `uncompared` are the tensors
    of the checkpoint that the tuning changes and that the GGUF has in other parts, such as a fused matrix
    that llama.cpp's converter splits.
    """

    compared: tuple[ComparedTensor, ...]
    missing: tuple[str, ...]
    tensors: int
    tied: bool
    own_head: bool
    is_known: bool
    uncompared: tuple[str, ...] = ()


def compare_tensors(subject: Subject, advance: Advance) -> Comparison:
    """Compare all tensors of the subject, which must have a base.

    Raises InputError, and PipelineError for a broken GGUF.
    """
    assert subject.base is not None
    tensors = GgufTensors(subject.full)
    config = text_config(subject.base.folder)
    with closing(Model(subject.full, vocab_only=True)) as model:
        layout = TensorMap(model.metadata("general.architecture"), config)
    expected = expected_tensors(subject)
    # A tensor without a location is a buffer, or is missing in gguf's table of names.
    locations = {name: location for name in expected.names if (location := layout.location(name))}
    missing = [one.tensor for one in locations.values() if one.tensor not in tensors.tensors]
    present = [(name, one) for name, one in locations.items() if one.tensor in tensors.tensors]
    compared: list[ComparedTensor] = []
    with ThreadPoolExecutor(min(subject.threads, expected.max_threads)) as pool:

        def compare(name: str, location: GgufLocation) -> ComparedTensor:
            value, delta = expected.read(name)
            stored = expected.dtype(name) if delta is None else ""
            return _compare(layout, location, (value, delta, stored), tensors)

        for one in pool.map(lambda pair: compare(*pair), present):
            compared.append(one)
            advance(len(compared))
    has_head = any(location.tensor == _HEAD for location in locations.values())
    return Comparison(
        tuple(compared),
        tuple(missing),
        len(tensors.tensors),
        is_tied(config, expected.names) and not has_head,
        _has_own_head(tensors),
        layout.is_known,
        tuple(sorted(expected.changed - locations.keys())),
    )


def is_tied(config: Mapping[str, Any], names: Collection[str]) -> bool:
    """Return whether a model with these tensors uses its embeddings as its output matrix.

    config.json omits the default of the model's class, which differs between Gemma and Llama; then the
    tensors decide.
    """
    return bool(config.get("tie_word_embeddings", True)) and "lm_head.weight" not in names


def _compare(
    layout: TensorMap, location: GgufLocation, values: tuple[Array, Array | None, str], tensors: GgufTensors
) -> ComparedTensor:
    """Compare one tensor.

    `values` are the tensor and the tuning's change, in the checkpoint's layout, and the type in which the
    checkpoint has the tensor, "" where the comparison does not begin with that.
    """
    value, delta, stored = values
    tensor = tensors.tensors[location.tensor]
    limit, is_unquantized = max_nmse(tensor.type), tensor.type in UNQUANTIZED
    expected = layout.converted(location, value)
    if expected.shape[-1:] != (tensor.width,) or expected.size > tensor.rows * tensor.width:
        return ComparedTensor(location.tensor, _WRONG_SHAPE, limit, is_unquantized, "shape")
    start = (location.expert or 0) * (expected.size // tensor.width)

    def read(first: int, count: int) -> Array:
        return tensors.read(location.tensor, start + first, count)

    if delta is not None:
        delta = layout.reordered(location, delta)
    error = tensor_error(
        location.tensor, expected, delta, read, lambda values: rounded_to(values, tensor.type)
    )
    compared = ComparedTensor(location.tensor, error, limit, is_unquantized)
    if compared.fits:
        return compared
    rows = expected.reshape(-1, tensor.width)
    if not is_unquantized:
        compared = replace(compared, limit=max(limit, _ALLOWANCE * rounding_error(rows, tensor.type)))
        if compared.fits:
            return compared
    for kind in _roundings_before(stored, rows, read) if is_unquantized else ():
        error = tensor_error(location.tensor, expected, delta, read, partial(rounded_to, dtype=kind))
        again = ComparedTensor(location.tensor, error, max_nmse(kind), True, rounded_before=type_name(kind))
        if again.fits and is_rounding(rows, read, kind):
            return again
    return replace(compared, signature=diagnose(layout, location, value, error, read))


def rounding_error(rows: Array, dtype: int) -> float:
    """Return the NMSE with which ggml's quantizer rounds rows, looking at some of a large tensor's.

    It is large where the values lie on another type's grid, as those of a base that was dequantized do. 0.0
    for types that need an importance matrix.
    """
    known = ggml_type(dtype)
    if known is None or known.name not in _PLAIN or rows.shape[1] % known.block:
        return 0.0
    some = np.ascontiguousarray(rows[:: max(1, rows.size // _SAMPLE)], np.float32)
    held = dequantize(known, quantize(known, some)).reshape(some.shape)
    energy = _energy(some)
    return _energy(held - some) / energy if energy else 0.0


def _roundings_before(stored: str, expected: Array, read: ReadRows) -> list[int]:
    """Return the types to which the checkpoint or the file may have been rounded before."""
    kinds = [_ROUNDED[stored]] if stored in _ROUNDED else []
    if BF16 not in kinds and is_bfloat16(len(expected), read, expected.shape[1]):
        kinds.append(BF16)
    return kinds


def _has_own_head(tensors: GgufTensors) -> bool:
    """Return whether there is an output matrix that is not a copy of the embeddings."""
    head, embeddings = tensors.tensors.get(_HEAD), tensors.tensors[_EMBEDDINGS]
    if head is None:
        return False
    if (head.rows, head.width) != (embeddings.rows, embeddings.width):
        return True
    expected = tensors.read(_EMBEDDINGS, 0, embeddings.rows)
    error = tensor_error(_HEAD, expected, None, lambda first, count: tensors.read(_HEAD, first, count))
    return error.nmse > max(max_nmse(head.type), max_nmse(embeddings.type))


def total_delta_ratio(compared: Sequence[ComparedTensor]) -> float | None:
    """Return the fraction of the adapter's change in all tensors, by energy; None without any change."""
    ratios = [
        (one.error.delta_energy * one.error.energy, one.error.delta_ratio_raw)
        for one in compared
        if one.error.delta_ratio_raw is not None
    ]
    total = sum(energy for energy, _ in ratios)
    return sum(energy * ratio for energy, ratio in ratios) / total if total else None
