"""Which types suit a ternary base, and which only a ternary base suits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ggufio.ggml import type_name
from pipeline.errors import InputError
from pipeline.quantize.types import TERNARY, TensorTypes, quant_type
from pipeline.sources.model_source import Source
from pipeline.sources.ternary import BLOCK, Ternary, is_ternary, not_ternary

_FTYPES = tuple(quant_type(name).ftype for name in TERNARY)
TERNARY_CANDIDATES = ("TQ1_0", "TQ2_0", "Q8_0")
"""The types that `--quant auto` tries on a ternary base."""

RUINOUS = {
    **{"IQ3_M": 0.06, "IQ3_S": 0.08, "IQ3_XS": 0.08, "IQ3_XXS": 0.1, "IQ2_M": 0.12, "IQ2_S": 0.15},
    **{"IQ2_XS": 0.15, "IQ2_XXS": 0.28, "IQ1_M": 0.26, "IQ1_S": 0.28},
}
"""The KL in nats a token of types whose levels miss the three values; docs/ternary.md has all.

Types of equal steps hold them exactly, as grids.py writes them.
"""

_LOSSY = {"IQ4_XS": 0.013, "IQ4_NL": 0.01}
_ROWS = 1024  # read at a time


def check_quants(quants: Sequence[str], base: Source, ternary: Ternary | None, *, merged: bool) -> None:
    """Raise InputError for a type that does not suit the base, with an adapter `merged` into it or not."""
    asked = [name for name in quants if name in TERNARY]
    if ternary is None and asked:
        raise InputError(
            f"--quant {asked[0]} is for ternary models, and {base.spec!r} is not ternary "
            f"({not_ternary(base)}): use Q4_K_M, or Q2_K; if it was trained as one and stores latent ones, "
            "its config.json lacks the quantization_config of docs/ternary.md"
        )
    if ternary is None:
        return
    if merged:
        if asked:
            raise InputError(
                f"--quant {asked[0]} has three values a block, which an adapter merged into {base.spec!r} "
                "destroys: keep the adapter apart with --format adapter, and export the base alone"
            )
        return
    for name in asked:
        for tensor, width in ternary.widths.items():
            if width % BLOCK:
                raise InputError(_odd_rows(name, tensor, width))
    for name in quants:
        if name in RUINOUS:
            raise InputError(
                f"--quant {name} ruins the ternary {base.spec!r} (a KL of {RUINOUS[name]:g} nats a token was "
                "measured): use TQ2_0 or TQ1_0, which are smaller and lose nothing, or Q8_0"
            )


def quant_notes(quants: Sequence[str], ternary: Ternary | None, *, merged: bool) -> Iterator[str]:
    """Yield a note for the user on each type that loses something of a ternary base."""
    for name in quants if ternary and not merged else ():
        if name in _LOSSY:
            yield (
                f"the base is ternary, and {name} misses its three values: it cost {_LOSSY[name]:g} nats "
                "a token where that was measured; TQ2_0 and TQ1_0 are smaller and lose nothing"
            )


def with_defaults(types: TensorTypes, ftype: int, source: Path) -> TensorTypes:
    """Return the types of single tensors in a file of `ftype`, made of the GGUF `source`.

    In a ternary file embeddings and output are F16, as in those of llama.cpp's converter; its quantizer has
    Q4_K and Q6_K, which lose more than all else in the file.
    """
    from ggufio.ggml_reader import read_tensors

    if ftype not in _FTYPES:
        return types
    is_tied = "output.weight" not in read_tensors(source)
    embedding = types.embedding or (types.output if is_tied else None)
    return replace(types, output=types.output or "F16", embedding=embedding or "F16")


def require_three_values(quant: str, source: Path, types: Mapping[str, int]) -> None:
    """Raise InputError where a tensor of the full-precision GGUF `source` does not fit the three values.

    `types` are llama.cpp's choices for its tensors. Rows that fill no blocks would silently get Q4_0, which
    has twice the size.
    """
    from ggufio.ggml_reader import GgufTensors

    file = GgufTensors(source)
    for name, number in types.items():
        tensor = file.tensors[name]
        if tensor.rows > 1 and tensor.width % BLOCK and type_name(number) == "Q4_0":
            raise InputError(_odd_rows(quant, name, tensor.width))
        if type_name(number) not in TERNARY:
            continue
        for first in range(0, tensor.rows, _ROWS):
            if not is_ternary(file.read(name, first, min(_ROWS, tensor.rows - first))):
                raise InputError(
                    f"--quant {quant} has three values a block, and {name} has more: "
                    f"give it another type, --tensor-type {name.removesuffix('.weight')}=f16, or use Q8_0"
                )


def _odd_rows(quant: str, name: str, width: int) -> str:
    why = f"its rows of {width} numbers are no multiple of {BLOCK}"
    return f"--quant {quant} cannot hold {name}: {why}: use Q8_0"
