"""What rounding alone does to a tensor, by its type: the limit of an honest difference."""

from __future__ import annotations

from engine.ggml import number_type
from pipeline.ggml import BF16, F16, F32

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
    known = number_type(kind)
    assert known is not None  # llama.cpp has read the file
    return next(limit for bits, limit in _QUANTIZED if known.bits >= bits)
