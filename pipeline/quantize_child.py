"""The quantizer's child process: llama.cpp may abort on a file it dislikes, and does so here alone.

Run by quantize.py as `python -m pipeline.quantize_child REQUEST`.
"""

from __future__ import annotations

import ctypes
import re
import sys

from pipeline.child import Message, serve
from pipeline.errors import MissingPackage, PipelineError

# Rows are quantized in slabs of at most this many bytes, where llama.cpp would take up to 8 GiB.
MAX_BUFFER = 256 * 2**20
_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB \(([\d.]+) BPW\)")


def quantize(request: Message) -> Message:
    """Quantize `source` to `target`, or only find the size when there is no target."""
    try:
        import llama_cpp
    except ImportError as error:
        raise MissingPackage("llama-cpp-python") from error
    lines: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator] # ctypes types it, not mypy
    def keep(level: int, text: bytes, data: object) -> None:
        line = text.decode("utf-8", "replace")
        lines.append(line)
        print(line, end="", file=sys.stderr, flush=True)

    llama_cpp.llama_log_set(keep, None)  # the log tells the size, and why a quantization failed
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = request["threads"]
    params.ftype = request["ftype"]
    params.max_buf_size = MAX_BUFFER
    params.dry_run = request["target"] is None
    target = request["target"] or ""
    code = llama_cpp.llama_model_quantize(request["source"].encode(), target.encode(), ctypes.byref(params))
    if code != 0:
        raise PipelineError(lines[-1].strip() if lines else f"llama_model_quantize returned {code}")
    size, bits = _SIZE.findall("".join(lines))[-1]
    return {"bytes": int(float(size) * 2**20), "bits_per_weight": float(bits)}


if __name__ == "__main__":
    serve(quantize)
