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
    they serve to see beforehand whether the disk is large enough.
    """

    name: str
    ftype: int
    bits: float


_TYPES = {
    quant.name: quant
    for quant in (
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

_NEEDS_IMATRIX = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S"}


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
    if key in _NEEDS_IMATRIX:
        raise InputError(
            f"--quant {name} needs an importance matrix, without which its output is noise: "
            "use Q3_K_M, IQ4_XS or larger"
        )
    if key in {"F16", "BF16", "F32"}:
        raise InputError(f"--quant {name} is not a quantization: use --outtype {name.lower()} --keep-f16")
    near = difflib.get_close_matches(key, _TYPES, n=3, cutoff=0.5) or ["Q4_K_M", "Q5_K_M", "Q8_0"]
    raise InputError(f"--quant {name!r} is unknown: did you mean {', '.join(near)}? All: {', '.join(_TYPES)}")
