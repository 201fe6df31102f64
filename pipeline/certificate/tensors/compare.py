"""Every tensor of the tuned model beside the one in its place in a GGUF, one in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np

from engine.llama.model import Model
from ggufio.ggml import BF16, F16, F32, ggml_type
from ggufio.ggml_reader import UNQUANTIZED, Array, GgufTensors, rounded_to
from pipeline.certificate.subject import Subject, text_config
from pipeline.certificate.tensors.expected import expected_tensors
from pipeline.certificate.tensors.layout import GgufLocation, TensorMap
from pipeline.progress import Advance

_SLAB = 2**18  # numbers, which stay in a core's cache from one sum to the next
Read = Callable[[int, int], Array]
"""Rows of the GGUF's tensor: (first, count) -> [count, width]."""


Hold = Callable[[Array], Array]
"""What the GGUF's tensor can hold of numbers: they are rounded as its type does it."""


@dataclass(frozen=True)
class TensorError:
    """`error` is the energy of the difference as a part of the tensor's own (NMSE; infinite for NaN).

    `share` is how much of the adapter's change is there: 1 all, 0 none; None where nothing was changed. What
    the type rounds away of it counts as there, since no file can hold it; `kept` is without that.
    `doubt` is the error of `share` that other roundings on the way bring about, as one standard deviation,
    `change` the energy of the change as a part of the tensor's, and `unexplained` that of the difference from
    what the type can hold.
    """

    name: str
    error: float
    energy: float
    found_energy: float
    share: float | None = None
    kept: float | None = None
    doubt: float = 0.0
    change: float = 0.0
    unexplained: float = 0.0

    @property
    def is_scaled(self) -> bool:
        """Whether all of the error is the adapter's change, too much of it or too little."""
        if self.share is None:
            return False
        return abs(self.unexplained - (self.share - 1) ** 2 * self.change) < 0.2 * self.unexplained


def tensor_error(
    name: str, wanted: Array, change: Array | None, read: Read, hold: Hold = lambda values: values
) -> TensorError:
    """Compare `wanted` with what `read` gives; `change` is the adapter's part of it.

    A change that is smaller than the type's steps is rounded away in one direction, back to the base: without
    `hold` that would look like a change that was left out.
    """
    width = wanted.shape[-1] if wanted.ndim else 1
    rows = wanted.reshape(-1, width)
    moved = None if change is None else change.reshape(-1, width)
    error = energy = found_energy = 0.0
    size = along = beyond = unexplained = 0.0  # of the change, and of differences along it
    step = max(1, _SLAB // width)
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        found = read(first, len(part))
        difference = found - part
        error += _energy(difference)
        energy += _energy(part)
        found_energy += _energy(found)
        if moved is not None:
            own, strange = moved[first : first + step], found - hold(part)
            size += _energy(own)
            along += _product(difference, own)
            beyond += _product(strange, own)
            unexplained += _energy(strange)
    nmse = error / energy if energy else float(error > 0)
    if not isfinite(nmse):
        return TensorError(name, inf, energy, found_energy)
    if not size:
        return TensorError(name, nmse, energy, found_energy)
    return TensorError(
        name,
        nmse,
        energy,
        found_energy,
        share=1 + beyond / size,
        kept=1 + along / size,
        doubt=sqrt(unexplained / size / wanted.size),
        change=size / energy,
        unexplained=unexplained / energy,
    )


def _energy(values: Array) -> float:
    return _product(values, values)


def _product(one: Array, other: Array) -> float:
    return float(np.vdot(np.ascontiguousarray(one), np.ascontiguousarray(other)))


_BETTER = 1e-3  # of the error may be left by the mistake that explains it
_NEAR = 0.05


def diagnose(layout: TensorMap, place: GgufLocation, value: Array, found: TensorError, read: Read) -> str:
    """The signature of the cause (see causes.py). `value` is the tensor as the checkpoint has it."""
    if not isfinite(found.error):
        return "not_finite"
    if found.found_energy == 0.0:
        return "zeroed"
    for signature, wrong in layout.mistaken(place, value):
        if tensor_error(place.tensor, wrong, None, read).error < max(_BETTER * found.error, 1e-9):
            return signature
    if found.share is not None and found.is_scaled:
        return "delta_missing" if abs(found.share) < _NEAR else "delta_scaled"
    return "damaged"


_PLAIN = {F32: 1e-10, F16: 1e-6, BF16: 1e-5}


# Bits per weight from which on -> the limit. Measured errors of real weights are a fifth to a half of it
# (docs/certificate.md); what is lost or mixed up has an error near 1.
_QUANTIZED = ((7.5, 2e-4), (6.0, 1.5e-3), (5.0, 6e-3), (4.0, 3e-2), (3.0, 1e-1), (0.0, 6e-1))


def limit_of(kind: int) -> float:
    """The largest NMSE that rounding to the ggml type `kind` explains.

    f16 keeps 11 bits, so a number is off by 2**-12 of itself in the mean, and the energy by 3e-8; the limit
    leaves room for numbers below 6e-5, which f16 keeps with fewer bits.
    """
    if kind in _PLAIN:
        return _PLAIN[kind]
    known = ggml_type(kind)
    assert known is not None  # llama.cpp has read the file
    return next(limit for bits, limit in _QUANTIZED if known.bits >= bits)


_HEAD, _EMBEDDINGS = "output.weight", "token_embd.weight"
_WRONG_SHAPE = TensorError("", float("inf"), 0.0, 1.0)


@dataclass(frozen=True)
class Compared:
    """A tensor of the GGUF, how far it is from what it must be, how far it may be, and why it does not fit.

    It `is_exact` when its type is a plain one (f32, f16, bf16). Of a quantized one nothing is asked but its
    error: how much of a small change so few bits keep is another check's matter.
    """

    tensor: str
    found: TensorError
    limit: float
    is_exact: bool
    signature: str = ""

    @property
    def excess(self) -> float:
        """How many times the limit the error is."""
        return self.found.error / self.limit

    @property
    def fits(self) -> bool:
        """Whether the error, and the share of the adapter's change, are within their limits."""
        share = self.found.share if self.is_exact else None
        allowed = max(0.05, 6 * self.found.doubt)
        return self.found.error <= self.limit and (share is None or abs(share - 1) <= allowed)


@dataclass(frozen=True)
class Comparison:
    """What came of it: tensors that were compared, and those of the model that the GGUF `lacks`.

    `tied` tells whether the model uses its embeddings as its output matrix, `own_head` whether the GGUF has
    an output matrix that is another than its embeddings. Of an architecture that is not `known` in all its
    parts, a difference proves nothing.
    """

    compared: tuple[Compared, ...]
    lacks: tuple[str, ...]
    tensors: int
    tied: bool
    own_head: bool
    known: bool


def compare_tensors(subject: Subject, advance: Advance) -> Comparison:
    """Compare all; the subject must have a base. Raises InputError, and PipelineError for a broken GGUF."""
    assert subject.base is not None
    tensors = GgufTensors(subject.full)
    config = text_config(subject.base.folder)
    with closing(Model(subject.full, vocab_only=True)) as model:
        layout = TensorMap(model.metadata("general.architecture"), config)
    tuned = expected_tensors(subject)
    # What has no place is a buffer, or has a name that gguf's table does not know.
    places = {name: place for name in tuned.names if (place := layout.place(name))}
    lacks = [place.tensor for place in places.values() if place.tensor not in tensors.tensors]
    there = [(name, place) for name, place in places.items() if place.tensor in tensors.tensors]
    compared: list[Compared] = []
    with ThreadPoolExecutor(min(subject.threads, tuned.threads)) as pool:
        for one in pool.map(lambda pair: _compare(layout, pair[1], tuned.read(pair[0]), tensors), there):
            compared.append(one)
            advance(len(compared))
    tied = is_tied(config, tuned.names)
    return Comparison(
        tuple(compared), tuple(lacks), len(tensors.tensors), tied, _own_head(tensors), layout.is_known
    )


def is_tied(config: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether a model with these tensors uses its embeddings as its output matrix.

    config.json leaves out what is the default of the model's class, which is one thing for Gemma and another
    for Llama; then the tensors tell.
    """
    return bool(config.get("tie_word_embeddings", True)) and "lm_head.weight" not in names


def _compare(
    layout: TensorMap, place: GgufLocation, values: tuple[Array, Array | None], tensors: GgufTensors
) -> Compared:
    """`values` are the tensor and the tuning's change of it, as the checkpoint has them."""
    value, change = values
    tensor = tensors.tensors[place.tensor]
    limit, is_exact = limit_of(tensor.type), tensor.type in UNQUANTIZED
    wanted = layout.converted(place, value)
    if wanted.shape[-1:] != (tensor.width,) or wanted.size > tensor.rows * tensor.width:
        return Compared(place.tensor, _WRONG_SHAPE, limit, is_exact, "shape")
    start = (place.expert or 0) * (wanted.size // tensor.width)

    def read(first: int, count: int) -> Array:
        return tensors.read(place.tensor, start + first, count)

    moved = None if change is None else layout.reordered(place, change)
    found = tensor_error(place.tensor, wanted, moved, read, lambda values: rounded_to(values, tensor.type))
    fitting = Compared(place.tensor, found, limit, is_exact)
    if fitting.fits:
        return fitting
    return Compared(place.tensor, found, limit, is_exact, diagnose(layout, place, value, found, read))


def _own_head(tensors: GgufTensors) -> bool:
    """Whether there is an output matrix that does not hold the embeddings' numbers once more."""
    head, embeddings = tensors.tensors.get(_HEAD), tensors.tensors[_EMBEDDINGS]
    if head is None:
        return False
    if (head.rows, head.width) != (embeddings.rows, embeddings.width):
        return True
    wanted = tensors.read(_EMBEDDINGS, 0, embeddings.rows)
    found = tensor_error(_HEAD, wanted, None, lambda first, count: tensors.read(_HEAD, first, count))
    return found.error > max(limit_of(head.type), limit_of(embeddings.type))


def share_of_change(compared: Sequence[Compared]) -> float | None:
    """How much of the adapter's change is there in all, by its energy; None where nothing was changed."""
    shares = [
        (one.found.change * one.found.energy, one.found.kept)
        for one in compared
        if one.found.kept is not None
    ]
    whole = sum(energy for energy, _ in shares)
    return sum(energy * share for energy, share in shares) / whole if whole else None
