"""An importance matrix as the quantizer takes it: means by tensor, and what the metadata says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import InputError
from pipeline.ggml import type_name
from pipeline.imatrix_file import Importance, read_imatrix
from pipeline.tensor_types import NEEDS_IMATRIX

_Q2_K_S = 21  # the file's type whose Q2_K tensors llama.cpp makes with an importance matrix alone
_TEXT = 127  # bytes that llama-quantize keeps of a name


@dataclass(frozen=True)
class Weights:
    """How much each column's error weighs, and the metadata that llama-quantize adds."""

    importance: Importance = field(default_factory=dict)
    notes: Mapping[str, str | int] = field(default_factory=dict)


UNWEIGHED = Weights()


def read_weights(path: Path) -> Weights:
    """Read a file of importance. Raises InputError when it is none."""
    matrix = read_imatrix(path)
    importance = matrix.importance()
    notes: dict[str, str | int] = {"quantize.imatrix.file": _cut(path.name)}
    if matrix.datasets:
        notes["quantize.imatrix.dataset"] = _cut(matrix.datasets[0])
    notes["quantize.imatrix.entries_count"] = len(importance)
    if matrix.chunks > 0:
        notes["quantize.imatrix.chunks_count"] = matrix.chunks
    return Weights(importance, notes)


def _cut(text: str) -> str:
    return text.encode()[:_TEXT].decode("utf-8", "ignore")


def check_importance(ftype: int, types: Mapping[str, int], weights: Weights) -> None:
    """Raise InputError when a tensor gets a type that is noise without importance, and has none.

    As llama.cpp's tensor_requires_imatrix (src/llama-quant.cpp): embeddings and output are let off.
    """
    for name, number in types.items():
        kind = type_name(number)
        noisy = kind in NEEDS_IMATRIX or (kind == "Q2_K" and ftype == _Q2_K_S)
        if noisy and name not in weights.importance and name not in _LET_OFF:
            raise InputError(
                f"{name} is in no importance matrix, and this --quant needs it: calibrate with more chats, "
                "or use Q3_K_M, IQ4_XS or larger"
            )


_LET_OFF = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")
