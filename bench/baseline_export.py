"""The usual way from a LoRA adapter to GGUF files, as the guides of PEFT and llama.cpp tell it.

merge_and_unload, save_pretrained, convert_hf_to_gguf.py, then the quantizer once for each type.
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
    """Do it all, each step in a process of its own, as people do."""
    merged = out / "merged"
    _python("merge", str(base), str(adapter), str(merged))
    full = out / "model-f16.gguf"
    converter = ensure_toolchain() / "convert_hf_to_gguf.py"
    subprocess.run([sys.executable, converter, merged, "--outtype", "f16", "--outfile", full], check=True)
    for quant in quants:
        _python("quantize", str(full), str(out / f"model-{quant}.gguf"), quant)


def merge(base: str, adapter: str, merged: str) -> None:
    """Load everything, merge in place and save a whole checkpoint."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter)
    model.merge_and_unload().save_pretrained(merged)
    for pattern in ("tokenizer*", "*.jinja", "special_tokens_map.json"):
        for path in Path(base).glob(pattern):
            shutil.copy(path, merged)


def quantize(full: str, target: str, quant: str) -> None:
    """What llama.cpp's llama-quantize does, with its defaults."""
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
