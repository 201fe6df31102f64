"""An adapter alone -> a GGUF LoRA file, for use over a quantized base (llama.cpp's --lora, our with_adapter).

Such a file holds two matrices for each weight and one alpha for all; llama.cpp scales by alpha / rank.
So rsLoRA's scales, alpha_pattern's and the adapter's weight are multiplied into its matrices, and what is
no pair of matrices is refused. The work is done in a child process (adapter_child.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.adapter import Adapter
from pipeline.child import run_child
from pipeline.errors import InputError
from pipeline.kinds import is_lora
from pipeline.progress import StepProgress
from pipeline.source import Source

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


def refuse_inexpressible(adapter: Adapter) -> None:
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
        result = run_child("pipeline.adapter_child", request, job.target.with_suffix(".log"))
    return WrittenAdapter(**result)
