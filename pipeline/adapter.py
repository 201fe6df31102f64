"""A PEFT adapter: what it touches, what it scales, and what of it is not supported.

What cannot be merged exactly is refused by name. The names of the options are those of PEFT's
LoraConfig (peft/tuners/lora/config.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.source import Source, TensorInfo, read_json, tensors_of

WEIGHTS = "adapter_model.safetensors"

# Options that change what a merge has to do, and that the merge does not do yet.
_UNSUPPORTED = {
    "modules_to_save": "whole modules saved beside the low-rank ones",
    "target_parameters": "low-rank updates of bare parameters (fused experts)",
    "trainable_token_indices": "single trained token embeddings",
    "layer_replication": "replicated layers",
    "lora_bias": "a bias on the low-rank update",
    "fan_in_fan_out": "transposed (Conv1D) weights",
    "alora_invocation_tokens": "an activated LoRA, which acts on some tokens alone and cannot be merged",
    "use_qalora": "QA-LoRA's pooled inputs",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow's routing, which depends on the input and cannot be merged",
    "kasa_config": "KaSA's change of the base weights",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA's sampled weights",
    "megatron_config": "Megatron's parallel layers",
}
# Initialisations that also move the base weights, so that the adapter fits another base than its own.
_MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on disk, checked: its PEFT configuration and the tensors in its file."""

    source: Source
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.source.folder

    @property
    def kind(self) -> str:
        """How PEFT calls it: LoRA, rsLoRA, DoRA."""
        parts = ["rsLoRA" if self.config.get("use_rslora") else "LoRA"]
        if self.config.get("use_dora"):
            parts.append("DoRA")
        return " + ".join(parts)

    @property
    def rank(self) -> int:
        """The rank of its updates, where no pattern says otherwise."""
        return int(self.config.get("r", 0))


def read_adapter(source: Source) -> Adapter:
    """Read and check an adapter; raises InputError that names what is not supported."""
    config = read_json(source.folder / "adapter_config.json", f"the adapter {source.spec!r}")
    _refuse_kind(source, config)
    tensors = {name: info for name, info in tensors_of(source).items()}
    if not tensors:
        raise InputError(f"the adapter {source.spec!r} holds no tensors")
    for name in tensors:
        if "lora_embedding_" in name:
            raise InputError(_refusal(source, f"LoRA on an embedding ({name})"))
    return Adapter(source, config, tensors)


def _refuse_kind(source: Source, config: dict[str, Any]) -> None:
    kind = str(config.get("peft_type", "")).upper()
    if kind != "LORA":
        raise InputError(_refusal(source, f"the PEFT type {kind or 'none'}"))
    if config.get("bias", "none") != "none":
        raise InputError(_refusal(source, f"trained biases (bias={config['bias']!r})"))
    for option, meaning in _UNSUPPORTED.items():
        if config.get(option):
            raise InputError(_refusal(source, f"{meaning} ({option})"))
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_MOVES_BASE):
        raise InputError(
            f"the adapter {source.spec!r} was initialised by {start!r}, which changes the base weights too: "
            "save it with path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
        )


def _refusal(source: Source, what: str) -> str:
    return (
        f"the adapter {source.spec!r} uses {what}, which this export does not merge: "
        "merge it with PEFT's merge_and_unload, save the model, and export that with --base"
    )
