"""The quantizer's worker process, as llama.cpp may abort on a bad file.

job.py runs it as `python -m pipeline.quantize.worker`.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.dataclass_json import from_json, to_json
from common.errors import MissingPackage
from common.worker_process import Message, send, serve
from ggufio.ggml import type_number
from pipeline.errors import PipelineError
from pipeline.quantize.imatrix_file import (
    UNWEIGHED,
    Importance,
    ImportanceWeights,
    check_importance,
    read_weights,
)
from pipeline.quantize.job import CostJob, Quantization, QuantizeJob, QuantPlan, SplitJob
from pipeline.quantize.tensor_costs import CostInputs, Sensitivity, smallest_file, tensor_costs
from pipeline.quantize.ternary import require_three_values, with_defaults
from pipeline.quantize.types import MIXTURE, TERNARY, TensorTypes, regex

_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB \(([\d.]+) BPW\)")
_TENSOR = re.compile(
    r"^\[ *\d+/ *\d+\] (?P<name>\S+) +- \[.*\], type = +(?P<type>\S+), "
    r"size = .*? MiB(?: -> .* MiB \((?P<to>\S+)\))?$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class DryRun:
    """llama.cpp's plan: bytes, bits per weight, and the `enum ggml_type` of each tensor in file order."""

    size: int
    bits_per_weight: float
    types: dict[str, int]


def run_job(request: Message) -> Message:
    """Run the one job in the request of job.py: "plan", "costs", "quantize" or "split"."""
    if "split" in request:
        return {"files": _split(from_json(SplitJob, request["split"]))}
    if "quantize" in request:
        return {"files": _quantize(from_json(QuantizeJob, request["quantize"]))}
    if "costs" in request:
        return _costs(from_json(CostJob, request["costs"]))
    wanted = from_json(Quantization, request["plan"])
    plan, _ = _plan(wanted)
    if wanted.quant.name in TERNARY:
        require_three_values(wanted.quant.name, wanted.source, plan.types)
    return to_json(QuantPlan(plan.size, plan.bits_per_weight, plan.types))


def _costs(job: CostJob) -> Message:
    plan, weights = _plan(job.wanted)
    found = Sensitivity.load(job.sensitivity) if job.sensitivity else Sensitivity()
    inputs = CostInputs(job.wanted.source, plan.types, job.wanted.types, weights, found, job.threads)
    if job.sensitivity is None:
        return to_json(smallest_file(inputs))
    return to_json(tensor_costs(inputs, lambda done: send({"done": done})))


def _plan(wanted: Quantization) -> tuple[DryRun, ImportanceWeights]:
    """Return llama.cpp's plan and the importance matrix. Raises InputError where it lacks a tensor."""
    weights = read_weights(wanted.imatrix) if wanted.imatrix else UNWEIGHED
    plan = dry_run(str(wanted.source), wanted.quant.ftype, wanted.types, weights.importance)
    check_importance(wanted.quant.ftype, plan.types, weights)
    return plan, weights


def _quantize(job: QuantizeJob) -> list[str]:
    plan, weights = _plan(job.wanted)
    return _write(
        job.wanted.source,
        job.target,
        plan.types,
        file_type=job.wanted.quant.ftype,
        threads=job.threads,
        earlier=job.earlier,
        limit=job.split,
        weights=weights,
    )


def _split(job: SplitJob) -> list[str]:
    from ggufio.ggml_reader import read_tensors

    types = {name: tensor.type for name, tensor in read_tensors(job.source).items()}
    return _write(job.source, job.target, types, file_type=None, threads=1, limit=job.limit)


def _write(source: Path, target: Path, types: dict[str, int], **options: Any) -> list[str]:
    """Write the file as a WriteJob, reporting progress in bytes; return the paths written."""
    from pipeline.quantize.writer import WriteJob, write_quantized

    done = [0]

    def advance(count: int) -> None:
        done[0] += count
        send({"done": done[0]})

    return [str(path) for path in write_quantized(WriteJob(source, target, types, **options), advance)]


def dry_run(
    source: str, ftype: int, types: TensorTypes = MIXTURE, importance: Importance | None = None
) -> DryRun:
    """Return the type that llama.cpp's quantizer would give each tensor, which it only writes to its log.

    Some of its mixtures depend on there being an importance matrix. Raises PipelineError when it fails.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise MissingPackage(error.name or "llama-cpp-python") from error
    params = quantize_params(ftype, with_defaults(types, ftype, Path(source)))
    if importance:
        params.imatrix = imatrix_data(importance)
    params.dry_run = True
    with _llama_log(llama_cpp) as lines:
        code = llama_cpp.llama_model_quantize(source.encode(), b"", ctypes.byref(params))
    if code != 0:
        raise PipelineError(lines[-1].strip() if lines else f"llama_model_quantize returned {code}")
    log = "".join(lines)
    size, bits = _SIZE.findall(log)[-1]
    found = {match["name"]: match["to"] or match["type"] for match in _TENSOR.finditer(log)}
    numbers = {name: type_number(dtype.upper()) for name, dtype in found.items()}
    return DryRun(int(float(size) * 2**20), float(bits), numbers)


@contextmanager
def _llama_log(llama_cpp: Any) -> Iterator[list[str]]:
    """Collect llama.cpp's log messages, which go to standard error too."""
    lines: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator] # ctypes types it, not mypy
    def collect(level: int, text: bytes, data: object) -> None:
        line = text.decode("utf-8", "replace")
        lines.append(line)
        print(line, end="", file=sys.stderr, flush=True)

    llama_cpp.llama_log_set(collect, None)
    try:
        yield lines
    finally:
        llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), None)  # a null pointer: `collect` ends here


def quantize_params(ftype: int, types: TensorTypes) -> Any:
    """Return the llama_model_quantize_params for a file of `ftype` with the choices `types`."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure = ftype, types.pure
    if types.output:
        params.output_tensor_type = type_number(types.output)
    if types.embedding:
        params.token_embedding_type = type_number(types.embedding)
    if types.overrides:
        items = [(regex(pattern).encode(), type_number(dtype)) for pattern, dtype in types.overrides]
        end = (None, 0)  # llama.cpp reads on to the first null pattern
        params.tt_overrides = (llama_cpp.llama_model_tensor_override * (len(items) + 1))(*items, end)
    return params


def imatrix_data(importance: Importance) -> Any:
    """Return the importance as llama_model_quantize_params.imatrix. It must outlive the call."""
    import llama_cpp

    pointer = ctypes.POINTER(ctypes.c_float)
    items = [
        (name.encode(), values.ctypes.data_as(pointer), values.size) for name, values in importance.items()
    ]
    end = (None, None, 0)  # llama.cpp reads on to the first null name
    return (llama_cpp.llama_model_imatrix_data * (len(items) + 1))(*items, end)


if __name__ == "__main__":
    serve(run_job, preload=("llama_cpp", "pipeline.quantize.writer"))
