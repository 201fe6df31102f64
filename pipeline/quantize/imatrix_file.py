"""Importance matrix files: read and write llama-imatrix's GGUF, with two small tensors per weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufio.ggml import type_name
from ggufio.ggml_reader import TensorLocation
from pipeline.errors import InputError
from pipeline.quantize.types import NEEDS_IMATRIX

Importance = Mapping[str, NDArray[np.float32]]
"""By tensor name, [matrices, width]: the weight of an error in each column."""

_SQUARES, _COUNTS = ".in_sum2", ".counts"
_KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")


@dataclass
class Sums:
    """The summed squares of a weight's inputs, [matrices, width], and the rows added, [1 or matrices]."""

    values: NDArray[np.float32]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Imatrix:
    """Sums by weight name, collected from `datasets` in `chunks` of `chunk_size` tokens."""

    sums: Mapping[str, Sums]
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int

    def importance(self) -> dict[str, NDArray[np.float32]]:
        """Return the mean squares, as llama-quantize uses them: ones for an expert that was never used.

        A tensor without any rows is left out, as its means would be NaN.
        """
        found = {}
        for name, sums in self.sums.items():
            counts = sums.counts.astype(np.float32)
            if not counts.any():
                continue
            by_count = sums.values.reshape(len(counts), -1)
            means = np.ones_like(by_count)
            np.divide(by_count, counts[:, None], out=means, where=counts[:, None] > 0)
            found[name] = means.reshape(sums.values.shape)
        return found


def write_imatrix(path: Path, matrix: Imatrix) -> None:
    """Write the file that llama-imatrix would write, byte for byte."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "")
    writer.kv_data[0].clear()  # removes general.architecture: this is not a model
    writer.add_type("imatrix")
    writer.add_array(_KEYS[0], list(matrix.datasets))
    writer.add_uint32(_KEYS[1], matrix.chunks)
    writer.add_uint32(_KEYS[2], matrix.chunk_size)
    for name, sums in sorted(matrix.sums.items()):
        count = len(sums.counts)
        shape = (count, -1) if count > 1 else (-1,)
        writer.add_tensor(name + _SQUARES, sums.values.reshape(shape))
        writer.add_tensor(name + _COUNTS, sums.counts.astype(np.float32).reshape(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_imatrix(path: Path) -> Imatrix:
    """Read an importance matrix, ours or llama-imatrix's. Raises InputError."""
    reader = _open(path)
    missing = [key for key in _KEYS if key not in reader.fields]
    if missing:
        raise InputError(f"--imatrix {path.name} holds no importance matrix (no {missing[0]}): {_FIX}")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = [name.removesuffix(_SQUARES) for name in tensors if name.endswith(_SQUARES)]
    sums = {name: _sums(path, name, tensors) for name in names}
    if not sums:
        raise InputError(f"--imatrix {path.name} is empty: {_FIX}")
    datasets, chunks, size = (reader.fields[key].contents() for key in _KEYS)
    return Imatrix(sums, tuple(datasets), int(chunks), int(size))


_FIX = "give a GGUF that --calibrate or llama-imatrix wrote"


def _open(path: Path) -> Any:
    from gguf import GGUFReader

    try:
        if not path.is_file():
            raise InputError(f"--imatrix {str(path)!r} does not exist: {_FIX}")
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise InputError(f"--imatrix {path.name} cannot be read ({error}): {_FIX}") from None


def _sums(path: Path, name: str, tensors: Mapping[str, Any]) -> Sums:
    squares, counts = tensors[name + _SQUARES], tensors.get(name + _COUNTS)
    if counts is None or len(squares.data.ravel()) % max(1, counts.n_elements):
        raise InputError(f"--imatrix {path.name}: the counts of {name} do not fit its sums: {_FIX}")
    values, rows = np.asarray(squares.data), np.asarray(counts.data)
    if values.dtype != np.float32 or rows.dtype != np.float32 or not np.isfinite(values).all():
        raise InputError(f"--imatrix {path.name}: {name} holds what are no finite sums: {_FIX}")
    return Sums(values.reshape(counts.n_elements, -1), np.rint(rows.ravel()).astype(np.int64))


def check_fits(path: Path, importance: Importance, tensors: Mapping[str, TensorLocation]) -> None:
    """Raise InputError unless the importance matrix fits the model with these `tensors`."""
    for name, values in importance.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise InputError(
                f"--imatrix {path.name} is of another model: it knows {name}, which this one has not"
            )
        wanted = tensor.width * (tensor.rows // tensor.height)
        if values.size != wanted:
            raise InputError(
                f"--imatrix {path.name} is of another model: it has {values.size} numbers for {name}, "
                f"and this one needs {wanted}"
            )


_Q2_K_S = 21  # LLAMA_FTYPE_MOSTLY_Q2_K_S, whose Q2_K tensors llama.cpp makes only with an importance matrix
_MAX_NAME = 127  # bytes that llama-quantize keeps of a name


@dataclass(frozen=True)
class ImportanceWeights:
    """The weight of each column's error, and the metadata that llama-quantize adds."""

    importance: Importance = field(default_factory=dict)
    notes: Mapping[str, str | int] = field(default_factory=dict)


UNWEIGHED = ImportanceWeights()


def read_weights(path: Path) -> ImportanceWeights:
    """Read an importance matrix for quantizing. Raises InputError."""
    matrix = read_imatrix(path)
    importance = matrix.importance()
    notes: dict[str, str | int] = {"quantize.imatrix.file": _truncate(path.name)}
    if matrix.datasets:
        notes["quantize.imatrix.dataset"] = _truncate(matrix.datasets[0])
    notes["quantize.imatrix.entries_count"] = len(importance)
    if matrix.chunks > 0:
        notes["quantize.imatrix.chunks_count"] = matrix.chunks
    return ImportanceWeights(importance, notes)


def _truncate(text: str) -> str:
    return text.encode()[:_MAX_NAME].decode("utf-8", "ignore")


def check_importance(ftype: int, types: Mapping[str, int], weights: ImportanceWeights) -> None:
    """Raise InputError when a tensor without importance gets a type that is noise without it.

    As llama.cpp's tensor_requires_imatrix (src/llama-quant.cpp), which exempts embeddings and output.
    """
    for name, number in types.items():
        dtype = type_name(number)
        noisy = dtype in NEEDS_IMATRIX or (dtype == "Q2_K" and ftype == _Q2_K_S)
        if noisy and name not in weights.importance and name not in _EXEMPT:
            raise InputError(
                f"{name} is in no importance matrix, and this --quant needs it: calibrate with more chats, "
                "or use Q3_K_M, IQ4_XS or larger"
            )


_EXEMPT = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")
