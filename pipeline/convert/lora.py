"""The child process that writes a GGUF LoRA file, with llama.cpp's own convert_lora_to_gguf.py.

Run by adapter_format.py as `python -m pipeline.convert.job.lora`.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common.worker_process import Message, run_worker, serve
from pipeline.errors import InputError
from pipeline.progress import StepProgress
from pipeline.sources.adapter import PEFT_PREFIX, WEIGHTS, Adapter, is_lora, read_adapter
from pipeline.sources.model_source import Source

_INEXPRESSIBLE = {
    "use_dora": "DoRA rescales every row of the merged weight",
    "lora_bias": "its updates have biases",
    "modules_to_save": "it brings whole modules",
    "trainable_token_indices": "it brings embeddings of its own",
    "target_parameters": "it changes bare parameters, such as fused experts",
    "fan_in_fan_out": "its base keeps weights transposed",
}


@dataclass(frozen=True)
class AdapterJob:
    """Write `adapter`, made for `base`, to `target`, a GGUF of `outtype`, in place: the caller renames it."""

    base: Source
    adapter: Adapter
    outtype: str
    target: Path
    name: str
    toolchain: Path


@dataclass(frozen=True)
class WrittenAdapter:
    """How many weights a GGUF LoRA changes, and how many numbers it holds for that."""

    tensors: int
    parameters: int


def reject_inexpressible(adapter: Adapter) -> None:
    """Raise InputError for what a GGUF LoRA file cannot say."""
    reason: str | None
    if not is_lora(adapter.config):
        reason = f"{adapter.kind} is no LoRA"
    elif adapter.config.get("bias", "none") != "none":
        reason = f"it trained biases (bias={adapter.config['bias']!r})"
    else:
        reason = next((text for option, text in _INEXPRESSIBLE.items() if adapter.config.get(option)), None)
    other = next(
        (name for name in adapter.tensors if ".lora_A." not in name and ".lora_B." not in name), None
    )
    if reason is None and other:
        reason = f"it has {other}, and llama.cpp takes updates of linear layers alone"
    if reason:
        raise InputError(
            f"the adapter {adapter.spec!r} cannot be a GGUF LoRA file: {reason}; leave --format adapter "
            "away, which merges it"
        )


def write_adapter(job: AdapterJob, progress: StepProgress) -> WrittenAdapter:
    """Do the job; raises InputError for an adapter that is not the base's or that llama.cpp cannot take."""
    request = {
        "base": job.base.request(),
        "adapter": job.adapter.source.request(),
        "weight": job.adapter.weight,
        "outtype": job.outtype,
        "target": str(job.target),
        "name": job.name,
        "toolchain": str(job.toolchain),
    }
    with progress.step(f"Convert the adapter to {job.outtype}", None):
        result = run_worker("pipeline.convert.lora", request, job.target.with_suffix(".log"))
    return WrittenAdapter(**result)


def write(request: Message) -> Message:
    """Write the file that the request of adapter_format.py asks for, and count what it holds."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all that is needed lies in the two folders
    base = Source.of_request(request["base"])
    adapter = read_adapter(Source.of_request(request["adapter"]), request["weight"])
    with tempfile.TemporaryDirectory(dir=Path(request["target"]).parent, prefix="read-") as scratch:
        folder = Path(scratch) / request["name"]  # the script takes the GGUF's name from it
        parameters = _write_scaled(base, adapter, folder)
        _run_script(Path(request["toolchain"]), folder, base, request)
    return {"tensors": len(adapter.tensors) // 2, "parameters": parameters}


def _write_scaled(base: Source, adapter: Adapter, folder: Path) -> int:
    """The adapter as a plain LoRA of one alpha, in `folder`; returns how many numbers it has."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(adapter.weights)
    alpha = float(adapter.config.get("lora_alpha") or 1)
    for path, scale in _scales(base, adapter).items():
        name = f"{PEFT_PREFIX}{path}.lora_B.weight"
        factor = scale * tensors[name].shape[1] / alpha
        if factor != 1:
            tensors[name] = tensors[name].float() * factor
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS)
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": alpha}))
    return sum(tensor.numel() for tensor in tensors.values())


def _scales(base: Source, adapter: Adapter) -> dict[str, float]:
    """What PEFT multiplies each layer's update by; building its layers also checks that the adapter fits."""
    from pipeline.merge.meta_model import AdapterWeights, build_base, inject_adapter
    from pipeline.merge.peft_layer import tuned_layers

    model = build_base(base, {})
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters(remove_duplicate=False)}
    wrapped = inject_adapter(model, adapter)
    AdapterWeights(wrapped, adapter, shapes)
    layers = tuned_layers(wrapped, shapes, adapter)
    return {layer.path: layer.module.scaling["default"] for layer in layers}


def _run_script(toolchain: Path, folder: Path, base: Source, request: Message) -> None:
    sys.path[:0] = [str(toolchain), str(toolchain / "gguf-py")]
    script = toolchain / "convert_lora_to_gguf.py"
    options = ["--base", str(base.folder), "--outtype", request["outtype"], "--outfile", request["target"]]
    sys.argv = [str(script), *options, str(folder)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except (NotImplementedError, ValueError, AssertionError, SystemExit) as error:  # all its ways to refuse
        if isinstance(error, SystemExit) and not error.code:
            return
        raise InputError(
            f"llama.cpp cannot make a GGUF LoRA file for the base model {base.spec!r} "
            f"({error or type(error).__name__}): leave --format adapter away, which merges the adapter"
        ) from None


if __name__ == "__main__":
    serve(write)
