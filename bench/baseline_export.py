"""Baseline: the usual way from a LoRA adapter to GGUF files, after the guides of PEFT and llama.cpp.

merge_and_unload, save_pretrained, convert_hf_to_gguf.py, then the quantizer once per type.
Run as `python -m bench.baseline_export BASE ADAPTER OUT QUANT...`.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.convert.toolchain import ensure_toolchain
from pipeline.quantize.types import quant_type


def main(base: Path, adapter: Path, out: Path, quants: list[str]) -> None:
    """Merge, convert and quantize into `out`, each step in a separate process, as the guides do."""
    merged = out / "merged"
    _python("merge", str(base), str(adapter), str(merged))
    full = out / "model-f16.gguf"
    converter = ensure_toolchain() / "convert_hf_to_gguf.py"
    subprocess.run([sys.executable, converter, merged, "--outtype", "f16", "--outfile", full], check=True)
    for quant in quants:
        _python("quantize", str(full), str(out / f"model-{quant}.gguf"), quant)


def merge(base: str, adapter: str, merged: str) -> None:
    """Load base and adapter, merge in place and save a whole checkpoint to `merged`."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter)
    model.merge_and_unload().save_pretrained(merged)
    for pattern in ("tokenizer*", "*.jinja", "special_tokens_map.json"):
        for path in Path(base).glob(pattern):
            shutil.copy(path, merged)


def quantize(full: str, target: str, quant: str) -> None:
    """Quantize as llama.cpp's llama-quantize does, with its defaults. Raises SystemExit."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = quant_type(quant).ftype
    if llama_cpp.llama_model_quantize(full.encode(), target.encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"quantizing to {quant} failed")


def _python(step: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "bench.baseline_export", f"--{step}", *arguments], check=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[0] == "--merge":
        merge(*words[1:])
    elif words[0] == "--quantize":
        quantize(*words[1:])
    else:
        main(Path(words[0]), Path(words[1]), Path(words[2]), words[3:])
