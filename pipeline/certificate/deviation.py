"""How far a GGUF's tensor is from what it must be, in a few sums over slabs of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.certificate.stored import Array

_SLAB = 2**21  # numbers
Read = Callable[[int, int], Array]
"""Rows of the GGUF's tensor: (first, count) -> [count, width]."""


@dataclass(frozen=True)
class Deviation:
    """`error` is the energy of the difference as a part of the tensor's own (NMSE; infinite for NaN).

    `share` is how much of the adapter's change is there: 1 all, 0 none; None where nothing was changed.
    `doubt` is the error of `share` that rounding alone brings about, as one standard deviation,
    and `change` the energy of the change as a part of the tensor's.
    """

    name: str
    error: float
    energy: float
    found_energy: float
    share: float | None = None
    doubt: float = 0.0
    change: float = 0.0

    @property
    def is_scaled(self) -> bool:
        """Whether all of the error is the adapter's change, too much of it or too little."""
        if self.share is None:
            return False
        return abs(self.error - (self.share - 1) ** 2 * self.change) < 0.2 * self.error


def deviation(name: str, wanted: Array, before: Array | None, read: Read) -> Deviation:
    """Compare `wanted` with what `read` gives; `before` is the tensor without the adapter's change."""
    width = wanted.shape[-1] if wanted.ndim else 1
    rows = wanted.reshape(-1, width)
    earlier = None if before is None else before.reshape(-1, width)
    sums = np.zeros(5)
    step = max(1, _SLAB // width)
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        found = read(first, len(part))
        difference = found - part
        sums[:3] += _energy(difference), _energy(part), _energy(found)
        if earlier is not None:
            change = part - earlier[first : first + step]
            sums[3:] += _product(difference, change), _energy(change)
    error, energy, found_energy, moved, change_energy = map(float, sums)
    nmse = error / energy if energy else float(error > 0)
    if not np.isfinite(nmse):
        nmse = float("inf")
    if not change_energy:
        return Deviation(name, nmse, energy, found_energy)
    doubt = float(np.sqrt(error / change_energy / wanted.size))
    return Deviation(
        name, nmse, energy, found_energy, 1 + moved / change_energy, doubt, change_energy / energy
    )


def _energy(values: Array) -> float:
    return _product(values, values)


def _product(one: Array, other: Array) -> float:
    return float(np.vdot(np.ascontiguousarray(one), np.ascontiguousarray(other)))
