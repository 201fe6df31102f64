"""Writes the quantized GGUF that llama_model_quantize would write, byte for byte, and faster.

Only blocks whose numbers lie on the type's grid already may be nearer to them (grids.py).

Each thread takes the next slab of rows, of any tensor, and writes it to its offset in the file, which is
known beforehand. Tensors that an earlier file of the same export has in the same type are copied.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggufio.ggml import BF16, F16, F32
from ggufio.ggml_reader import GgufFile, Shard, TensorLocation, padded, read_tensors
from ggufio.shards import split_names
from pipeline.errors import PipelineError
from pipeline.quantize.imatrix_file import UNWEIGHED, ImportanceWeights
from pipeline.quantize.k_quant_search import Floats
from pipeline.quantize.k_quants import has_kernel
from pipeline.quantize.packing import Bytes
from pipeline.quantize.rounding import not_finite, quantize_rows
from pipeline.quantize.types import group

_SLAB = 2**22  # numbers; 16 MiB as float32, once for each thread


@dataclass(frozen=True)
class WriteJob:
    """Quantize the full-precision GGUF `source` to `target`, each tensor to the `enum ggml_type` of `types`.

    Without a `file_type` the metadata is unchanged. `earlier` are quantizations of the same source. A result
    of more than `limit` bytes is split into shards, named after `target`. `weights` weight the tensors'
    errors; their notes go into the metadata.
    """

    source: Path
    target: Path
    types: Mapping[str, int]
    file_type: int | None
    threads: int
    earlier: tuple[Path, ...] = ()
    limit: int | None = None
    weights: ImportanceWeights = UNWEIGHED


@dataclass(frozen=True)
class _Slab:
    """`rows` rows of a tensor from `first` on: their source file and tensor, and their target's."""

    file: int
    source: TensorLocation
    output: int
    target: TensorLocation
    first: int
    rows: int


@dataclass(frozen=True)
class _Part:
    """A file to write: its header, and its tensors with their offsets."""

    path: Path
    header: bytes
    tensors: dict[str, TensorLocation]


def write_quantized(job: WriteJob, advance: Callable[[int], None]) -> list[Path]:
    """Run the job, calling `advance` with the bytes of each finished slab; return the paths written.

    Raises InputError when the source has numbers that are not finite.
    """
    with ExitStack() as stack:
        opened = GgufFile(job.source)
        stack.callback(opened.close)
        parts = _parts(opened, job)
        files = [_open(stack, path, os.O_RDONLY) for path in (job.source, *job.earlier)]
        outputs = [_create(stack, part) for part in parts]
        importance = job.weights.importance
        for dtype, weighted in {(dtype, name in importance) for name, dtype in job.types.items()}:
            has_kernel(dtype, weighted=weighted)  # compiled and tested once, before the threads start
        choices = [opened.tensors(), *(read_tensors(path) for path in job.earlier)]
        pool = stack.enter_context(ThreadPoolExecutor(job.threads))
        slabs = [
            pool.submit(
                _process, slab, files[slab.file], outputs[slab.output], importance.get(slab.target.name)
            )
            for output, part in enumerate(parts)
            for tensor in part.tensors.values()
            for slab in _slabs(tensor, output, choices)
        ]
        try:
            for done in as_completed(slabs):
                advance(done.result())
        finally:
            pool.shutdown(cancel_futures=True)
    return [part.path for part in parts]


def _parts(opened: GgufFile, job: WriteJob) -> list[_Part]:
    target, notes = job.target, job.weights.notes
    header, tensors = opened.quantized(job.types, job.file_type, notes=notes)
    groups = group({name: padded(tensor.size) for name, tensor in tensors.items()}, job.limit)
    if len(groups) == 1:
        return [_Part(target, header, tensors)]
    parts = []
    for number, (name, names) in enumerate(zip(split_names(target.name, len(groups)), groups, strict=True)):
        shard = Shard(number, len(groups), len(job.types))
        types = {tensor: job.types[tensor] for tensor in names}
        parts.append(_Part(target.with_name(name), *opened.quantized(types, job.file_type, shard, notes)))
    return parts


def _create(stack: ExitStack, part: _Part) -> int:
    """Create a file with its header and its final length."""
    output = _open(stack, part.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.pwrite(output, part.header, 0)
    last = max(part.tensors.values(), key=lambda tensor: tensor.offset)
    os.ftruncate(output, padded(last.offset + last.size))
    return output


def _open(stack: ExitStack, path: Path, flags: int) -> int:
    file = os.open(path, flags, 0o644)
    stack.callback(os.close, file)
    return file


def _slabs(
    target: TensorLocation, output: int, choices: Sequence[Mapping[str, TensorLocation]]
) -> Iterator[_Slab]:
    """Yield the slabs of a tensor, read from the first file that has it in the same type, else the source."""
    ready = (i for i, tensors in enumerate(choices) if _same(tensors.get(target.name), target))
    file = next(ready, 0)
    step = max(1, _SLAB // target.width)
    for first in range(0, target.rows, step):
        yield _Slab(file, choices[file][target.name], output, target, first, min(step, target.rows - first))


def _same(tensor: TensorLocation | None, target: TensorLocation) -> bool:
    return tensor is not None and (tensor.type, tensor.size) == (target.type, target.size)


def _process(slab: _Slab, file: int, output: int, importance: Floats | None) -> int:
    """Read, quantize if needed, and write a slab; return the bytes written.

    importance: [matrices, width] of the tensor, if any.
    """
    source, target = slab.source, slab.target
    rows = np.empty(slab.rows * source.row_bytes, np.uint8)
    _read(file, rows, source.offset + slab.first * source.row_bytes)
    if source.type != target.type:
        numbers = _finite_float32(rows, source).reshape(slab.rows, target.width)
        rows = _quantize(numbers, slab, importance).ravel()
    _write(output, rows, target.offset + slab.first * target.row_bytes)
    return len(rows)


def _finite_float32(rows: Bytes, source: TensorLocation) -> Floats:
    """Return the rows of a full-precision tensor as float32, [numbers]. Raises InputError unless finite."""
    if source.type == F32:
        numbers = rows.view(np.float32)
    elif source.type == F16:
        numbers = rows.view(np.float16).astype(np.float32)
    else:
        assert source.type == BF16, f"{source.name} has the type {source.type}"
        numbers = (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if not np.isfinite(numbers.sum()):
        raise not_finite(source.name)
    return numbers


def _quantize(rows: Floats, slab: _Slab, importance: Floats | None) -> Bytes:
    """Quantize rows [rows, width] to the target's type: [rows, bytes of a row].

    With importance matrix by matrix, as each of several experts has its own column weights.
    """
    target = slab.target
    if importance is None:
        return quantize_rows(rows, target.type)
    result, row = np.empty((slab.rows, target.row_bytes), np.uint8), 0
    while row < slab.rows:
        matrix, inside = divmod(slab.first + row, target.height)
        end = min(slab.rows, row + target.height - inside)
        result[row:end] = quantize_rows(rows[row:end], target.type, importance[matrix])
        row = end
    return result


def _read(file: int, into: Bytes, offset: int) -> None:
    view = into.data
    while view:
        count = os.preadv(file, [view], offset)
        if count == 0:
            raise PipelineError("a GGUF file ended early: it was cut while it was read")
        view, offset = view[count:], offset + count


def _write(file: int, data: Bytes, offset: int) -> None:
    view = data.data
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count
