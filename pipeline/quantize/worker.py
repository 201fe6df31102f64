"""The quantizer's child process: llama.cpp may abort on a file it dislikes, and does so here alone.

Run by quantize.py as `python -m pipeline.quantize.job.worker`.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError, MissingPackage
from common.worker_process import Message, send, serve
from ggufio.errors import GgufError
from ggufio.ggml import type_number
from pipeline.errors import PipelineError
from pipeline.quantize.imatrix_file import (
    UNWEIGHED,
    Importance,
    ImportanceWeights,
    check_importance,
    read_weights,
)
from pipeline.quantize.types import MIXTURE, TensorTypes, regex

_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB \(([\d.]+) BPW\)")
_TENSOR = re.compile(
    r"^\[ *\d+/ *\d+\] (?P<name>\S+) +- \[.*\], type = +(?P<type>\S+), "
    r"size = .*? MiB(?: -> .* MiB \((?P<to>\S+)\))?$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class DryRun:
    """What llama.cpp would make: size, bits per weight, and the type of each tensor in the file's order."""

    size: int
    bits_per_weight: float
    types: dict[str, int]


def quantize(request: Message) -> Message:
    """Quantize `source` to `target`, or only find the size when there is no target.

    Without an `ftype` it is copied as it is.
    """
    if request["ftype"] is None:
        return {"files": _write(request, _types_of(Path(request["source"])), UNWEIGHED)}
    weights = read_weights(Path(request["imatrix"])) if request["imatrix"] else UNWEIGHED
    types = TensorTypes.of_request(request["types"])
    plan = dry_run(request["source"], request["ftype"], types, weights.importance)
    check_importance(request["ftype"], plan.types, weights)
    if request["target"] is None:
        return {"bytes": plan.size, "bits_per_weight": plan.bits_per_weight}
    return {"files": _write(request, plan.types, weights)}


def _types_of(path: Path) -> dict[str, int]:
    from ggufio.ggml_reader import read_tensors

    return {name: tensor.type for name, tensor in read_tensors(path).items()}


def _write(request: Message, types: dict[str, int], weights: ImportanceWeights) -> list[str]:
    from pipeline.quantize.writer import WriteJob, write_quantized

    done = [0]

    def advance(count: int) -> None:
        done[0] += count
        send({"done": done[0]})

    job = WriteJob(
        Path(request["source"]),
        Path(request["target"]),
        types,
        request["ftype"],
        request["threads"],
        tuple(map(Path, request["earlier"])),
        request["split"],
        weights,
    )
    return [str(path) for path in write_quantized(job, advance)]


def dry_run(
    source: str, ftype: int, types: TensorTypes = MIXTURE, importance: Importance | None = None
) -> DryRun:
    """Ask llama.cpp's quantizer which type it would give each tensor; it tells that in its log alone.

    Some mixtures are others where there is an importance matrix.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise MissingPackage(error.name or "llama-cpp-python") from error
    lines: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator] # ctypes types it, not mypy
    def keep(level: int, text: bytes, data: object) -> None:
        line = text.decode("utf-8", "replace")
        lines.append(line)
        print(line, end="", file=sys.stderr, flush=True)

    llama_cpp.llama_log_set(keep, None)
    params = quantize_params(ftype, types)
    if importance:
        params.imatrix = imatrix_data(importance)
    params.dry_run = True
    code = llama_cpp.llama_model_quantize(source.encode(), b"", ctypes.byref(params))
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), None)  # a null pointer: `keep` ends here
    if code != 0:
        raise PipelineError(lines[-1].strip() if lines else f"llama_model_quantize returned {code}")
    log = "".join(lines)
    size, bits = _SIZE.findall(log)[-1]
    found = {match["name"]: match["to"] or match["type"] for match in _TENSOR.finditer(log)}
    numbers = {name: type_number(kind.upper()) for name, kind in found.items()}
    return DryRun(int(float(size) * 2**20), float(bits), numbers)


def quantize_params(ftype: int, types: TensorTypes) -> Any:
    """llama_model_quantize_params for a file of `ftype` in which `types` are heeded."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure = ftype, types.pure
    if types.output:
        params.output_tensor_type = type_number(types.output)
    if types.embedding:
        params.token_embedding_type = type_number(types.embedding)
    if types.overrides:
        items = [(regex(pattern).encode(), type_number(kind)) for pattern, kind in types.overrides]
        end = (None, 0)  # llama.cpp reads on to the first null pattern
        params.tt_overrides = (llama_cpp.llama_model_tensor_override * (len(items) + 1))(*items, end)
    return params


def imatrix_data(importance: Importance) -> Any:
    """The importance as llama_model_quantize_params.imatrix, which must outlive the call."""
    import llama_cpp

    pointer = ctypes.POINTER(ctypes.c_float)
    items = [
        (name.encode(), values.ctypes.data_as(pointer), values.size) for name, values in importance.items()
    ]
    end = (None, None, 0)  # llama.cpp reads on to the first null name
    return (llama_cpp.llama_model_imatrix_data * (len(items) + 1))(*items, end)


if __name__ == "__main__":
    serve(quantize, preload=("llama_cpp", "pipeline.quantize.writer"), refusals=(InputError, GgufError))
