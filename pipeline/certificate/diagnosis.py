"""Why a tensor differs: the known mistakes are made on purpose, and the one that fits is named."""

from __future__ import annotations

from math import isfinite

from pipeline.certificate.deviation import Deviation, Read, deviation
from pipeline.certificate.layout import Layout, Place
from pipeline.certificate.stored import Array

_BETTER = 1e-3  # of the error may be left by the mistake that explains it
_NEAR = 0.05


def diagnose(layout: Layout, place: Place, value: Array, found: Deviation, read: Read) -> str:
    """The signature of the cause (see causes.py). `value` is the tensor as the checkpoint has it."""
    if not isfinite(found.error):
        return "not_finite"
    if found.found_energy == 0.0:
        return "zeroed"
    for signature, wrong in layout.mistaken(place, value):
        if deviation(place.tensor, wrong, None, read).error < max(_BETTER * found.error, 1e-9):
            return signature
    if found.share is not None and found.is_scaled:
        return "delta_missing" if abs(found.share) < _NEAR else "delta_scaled"
    return "damaged"
