"""How far a GGUF's tensor is from what it must be, in a few sums over slabs of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, sqrt

import numpy as np

from pipeline.certificate.stored import Array

_SLAB = 2**18  # numbers, which stay in a core's cache from one sum to the next
Read = Callable[[int, int], Array]
"""Rows of the GGUF's tensor: (first, count) -> [count, width]."""
Hold = Callable[[Array], Array]
"""What the GGUF's tensor can hold of numbers: they are rounded as its type does it."""


@dataclass(frozen=True)
class Deviation:
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


def deviation(
    name: str, wanted: Array, change: Array | None, read: Read, hold: Hold = lambda values: values
) -> Deviation:
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
        return Deviation(name, inf, energy, found_energy)
    if not size:
        return Deviation(name, nmse, energy, found_energy)
    return Deviation(
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
