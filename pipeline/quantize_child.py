"""The quantizer's child process: llama.cpp may abort on a file it dislikes, and does so here alone.

Run by quantize.py as `python -m pipeline.quantize_child REQUEST`.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.child import Message, say, serve
from pipeline.errors import MissingPackage, PipelineError

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
    """Quantize `source` to `target`, or only find the size when there is no target."""
    plan = dry_run(request["source"], request["ftype"])
    if request["target"] is not None:
        _write(request, plan)
    return {"bytes": plan.size, "bits_per_weight": plan.bits_per_weight}


def _write(request: Message, plan: DryRun) -> None:
    from pipeline.quant_file import write_quantized

    done = [0]

    def advance(count: int) -> None:
        done[0] += count
        say({"done": done[0]})

    write_quantized(
        Path(request["source"]),
        Path(request["target"]),
        plan.types,
        request["ftype"],
        earlier=[Path(path) for path in request["earlier"]],
        threads=request["threads"],
        advance=advance,
    )


def dry_run(source: str, ftype: int) -> DryRun:
    """Ask llama.cpp's quantizer which type it would give each tensor; it tells that in its log alone."""
    try:
        import llama_cpp
        from gguf import GGMLQuantizationType
    except ImportError as error:
        raise MissingPackage(error.name or "llama-cpp-python") from error
    lines: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator] # ctypes types it, not mypy
    def keep(level: int, text: bytes, data: object) -> None:
        line = text.decode("utf-8", "replace")
        lines.append(line)
        print(line, end="", file=sys.stderr, flush=True)

    llama_cpp.llama_log_set(keep, None)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = ftype
    params.dry_run = True
    code = llama_cpp.llama_model_quantize(source.encode(), b"", ctypes.byref(params))
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), None)  # a null pointer: `keep` ends here
    if code != 0:
        raise PipelineError(lines[-1].strip() if lines else f"llama_model_quantize returned {code}")
    log = "".join(lines)
    size, bits = _SIZE.findall(log)[-1]
    found = {match["name"]: match["to"] or match["type"] for match in _TENSOR.finditer(log)}
    types = {name: int(GGMLQuantizationType[kind.upper()]) for name, kind in found.items()}
    return DryRun(int(float(size) * 2**20), float(bits), types)


if __name__ == "__main__":
    serve(quantize)
