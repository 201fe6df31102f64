"""llama.cpp's quantization types, by their usual names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import InputError


@dataclass(frozen=True)
class QuantType:
    """One type: its name, llama.cpp's `llama_ftype`, and roughly how many bits a weight takes.

    The bits are llama.cpp's own figures for Llama-3.1-8B (tools/quantize/README.md), rounded up:
    they serve to see beforehand whether the disk is large enough. Some need an importance matrix.
    """

    name: str
    ftype: int
    bits: float
    needs_imatrix: bool = False


_TYPES = {
    quant.name: quant
    for quant in (
        QuantType("IQ1_S", 24, 2.1, needs_imatrix=True),
        QuantType("IQ1_M", 31, 2.2, needs_imatrix=True),
        QuantType("IQ2_XXS", 19, 2.4, needs_imatrix=True),
        QuantType("IQ2_XS", 20, 2.6, needs_imatrix=True),
        QuantType("IQ2_S", 28, 2.8, needs_imatrix=True),
        QuantType("IQ2_M", 29, 3.0, needs_imatrix=True),
        QuantType("Q2_K_S", 21, 3.3, needs_imatrix=True),
        QuantType("IQ3_XXS", 23, 3.3, needs_imatrix=True),
        QuantType("IQ3_XS", 22, 3.6, needs_imatrix=True),
        QuantType("Q2_K", 10, 3.5),
        QuantType("Q3_K_S", 11, 3.9),
        QuantType("Q3_K_M", 12, 4.3),
        QuantType("Q3_K_L", 13, 4.6),
        QuantType("IQ3_S", 26, 4.0),
        QuantType("IQ3_M", 27, 4.1),
        QuantType("IQ4_XS", 30, 4.7),
        QuantType("IQ4_NL", 25, 4.9),
        QuantType("Q4_0", 2, 4.9),
        QuantType("Q4_1", 3, 5.3),
        QuantType("Q4_K_S", 14, 5.0),
        QuantType("Q4_K_M", 15, 5.2),
        QuantType("Q5_0", 8, 5.8),
        QuantType("Q5_1", 9, 6.2),
        QuantType("Q5_K_S", 16, 5.9),
        QuantType("Q5_K_M", 17, 6.0),
        QuantType("Q6_K", 18, 7.0),
        QuantType("Q8_0", 7, 8.8),
    )
}

AUTO = "AUTO"
"""Stands for the type that pipeline.certificate.auto finds among these."""
CANDIDATES = ("Q3_K_M", "IQ4_XS", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
PREFERENCES = ("size", "speed")


def quants_named(names: Iterable[str]) -> tuple[str, ...]:
    """The types' usual names, each once; "auto" is AUTO. Raises InputError."""
    return tuple(
        dict.fromkeys(AUTO if name.strip().upper() == AUTO else quant_type(name).name for name in names)
    )


def bits_needed(name: str) -> float:
    """Bits a weight that making this type may need; AUTO may make every candidate."""
    return sum(quant_type(quant).bits for quant in (CANDIDATES if name == AUTO else (name,)))


def quant_type(name: str) -> QuantType:
    """The type of that name, whatever its case; an InputError names the nearest ones."""
    key = name.strip().upper()
    if key in _TYPES:
        return _TYPES[key]
    if key in {"F16", "BF16", "F32"}:
        raise InputError(f"--quant {name} is not a quantization: use --outtype {name.lower()} --keep-f16")
    near = difflib.get_close_matches(key, _TYPES, n=3, cutoff=0.5) or ["Q4_K_M", "Q5_K_M", "Q8_0"]
    raise InputError(f"--quant {name!r} is unknown: did you mean {', '.join(near)}? All: {', '.join(_TYPES)}")
