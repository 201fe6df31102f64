"""PEFT's kinds of adapters: which of them are merged, and why the others cannot be.

A kind is merged when PEFT's own layer code merges each layer alone to the very tensors of its
merge_and_unload (tests/pipeline/test_kinds.py goes through all of them). The names are those of
peft/utils/peft_types.py and of the fields of peft/tuners/lora/config.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.sources.model_source import Source, TensorInfo, read_json, tensors_of


def parse_adapter(text: str) -> tuple[str, float]:
    """A folder or Hub id, and its weight: "you/lora=0.7" or "you/lora"; raises InputError.

    A folder of that very name wins, so that one with "=" in its name can be given.
    """
    spec, found, weight = text.rpartition("=")
    if not found or Path(text).expanduser().is_dir():
        return text, 1.0
    try:
        number = float(weight)
    except ValueError:
        raise InputError(
            f"--adapter {text!r}: {weight!r} is no weight: use a number, as in {spec}=0.7"
        ) from None
    if not spec or not math.isfinite(number) or number == 0:
        raise InputError(f"--adapter {text!r} has no use: give ADAPTER=WEIGHT with a weight other than 0")
    return spec, number


MERGED = {
    "LORA": "LoRA",
    "ADALORA": "AdaLoRA",
    "BEFT": "BEFT",
    "BOFT": "BOFT",
    "C3A": "C3A",
    "DEFT": "DEFT",
    "DELORA": "DeLoRA",
    "FOURIERFT": "FourierFT",
    "GRALORA": "GraLoRA",
    "HIRA": "HiRA",
    "HRA": "HRA",
    "IA3": "IA3",
    "LN_TUNING": "LN tuning",
    "LOHA": "LoHa",
    "LOKR": "LoKr",
    "MISS": "MiSS",
    "OFT": "OFT",
    "PEANUT": "PEANuT",
    "PVERA": "PVeRA",
    "RANDLORA": "RandLoRA",
    "ROAD": "RoAd",
    "SUPERTUNING": "SuperTuning",
    "TINYLORA": "TinyLoRA",
    "TRAINABLE_TOKENS": "trainable tokens",
    "VBLORA": "VB-LoRA",
    "VERA": "VeRA",
    "WAVEFT": "WaveFT",
}
_PROMPT = "it puts trained vectors before the text, which no weight of the model can hold"
_WHOLE = "PEFT makes its layers from the weights of the whole base, which is never in memory here"
_REFUSED = {
    "ADAPTION_PROMPT": _PROMPT,
    "CARTRIDGE": _PROMPT,
    "CPT": _PROMPT,
    "MULTITASK_PROMPT_TUNING": _PROMPT,
    "P_TUNING": _PROMPT,
    "PREFIX_TUNING": _PROMPT,
    "PROMPT_TUNING": _PROMPT,
    "POLY": "it mixes its updates anew for each task",
    "XLORA": "it mixes its updates anew for each token",
    "LILY": "its update depends on the input, and PEFT cannot merge it either",
    "SHADOW": "it is a second model beside the base",
    "FROD": _WHOLE,
    "OSF": _WHOLE,
    "PSOFT": _WHOLE,
    "SHIRA": _WHOLE,
    "UNILORA": _WHOLE,
}


# What of LoRA's options makes a merge impossible, or other than PEFT's merge of each layer alone.
_OPTIONS = {
    "alora_invocation_tokens": "an activated LoRA, which acts on some tokens alone",
    "arrow_config": "Arrow's routing, which depends on the input",
    "kasa_config": "KaSA's change of the base weights",
    "layer_replication": "replicated layers, which the base's configuration does not have",
    "megatron_config": "Megatron's parallel layers",
    "monteclora_config": "MonteCLoRA's sampled weights",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QA-LoRA's pooled inputs",
    "velora_config": "VeLoRA",
}


# Initialisations that also move the base weights, so that the adapter fits another base than its own.
_MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def kind_name(config: dict[str, Any]) -> str:
    """How PEFT calls an adapter with this configuration: LoRA, rsLoRA + DoRA, OFT ..."""
    if not is_lora(config):
        return MERGED[_peft_type(config)]
    return ("rsLoRA" if config.get("use_rslora") else "LoRA") + (" + DoRA" if config.get("use_dora") else "")


def is_lora(config: dict[str, Any]) -> bool:
    """Whether it is LoRA in one of its forms, and no kind beside it."""
    return _peft_type(config) == "LORA"


def reject_unmergeable(spec: str, config: dict[str, Any]) -> None:
    """Raise InputError that names what of an adapter cannot be merged, why, and what to do instead."""
    kind = _peft_type(config)
    if kind not in MERGED:
        reason = _REFUSED.get(kind, "it was not tested to come out exactly as PEFT merges it")
        raise InputError(_refusal(spec, f"is of PEFT's kind {kind or '(none)'}", reason, kind))
    for option, reason in _OPTIONS.items():
        if config.get(option):
            raise InputError(_refusal(spec, f"uses {option}", reason, kind))
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_MOVES_BASE):
        raise InputError(
            f"the adapter {spec!r} was initialised by {start!r}, which changes the base weights too: "
            "save it with path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
        )


def _peft_type(config: dict[str, Any]) -> str:
    return str(config.get("peft_type") or "").upper()


def _refusal(spec: str, what: str, reason: str, kind: str) -> str:
    hopeless = _REFUSED.get(kind) == _PROMPT or kind in {"POLY", "XLORA", "LILY", "SHADOW"}
    way_out = (
        "train a LoRA instead"
        if hopeless
        else "merge it with PEFT's merge_and_unload, save the model, and export that with --base"
    )
    return f"the adapter {spec!r} {what} ({reason}), which this export does not merge: {way_out}"


WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the base's own names in an adapter's file."""


@dataclass(frozen=True)
class Adapter:
    """An adapter, checked: its PEFT configuration, the tensors in its file, and how much of it is merged."""

    source: Source
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    weight: float = 1.0

    @property
    def spec(self) -> str:
        """How the person named it: a folder or a Hub id."""
        return self.source.spec

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.source.folder

    @property
    def weights(self) -> Path:
        """Its safetensors file."""
        return self.folder / WEIGHTS

    @property
    def kind(self) -> str:
        """How PEFT calls it: LoRA, rsLoRA, DoRA, OFT ..."""
        return kind_name(self.config)

    @property
    def rank(self) -> int:
        """The rank of its updates, where no pattern says otherwise; 0 where the kind has none."""
        return int(self.config.get("r") or 0)

    @property
    def token_indices(self) -> set[int]:
        """The tokens whose embeddings it brings one by one."""
        found = self.config.get("trainable_token_indices") or self.config.get("token_indices") or []
        lists = found.values() if isinstance(found, dict) else [found]
        return {int(token) for tokens in lists for token in tokens}


def read_adapter(source: Source, weight: float = 1.0) -> Adapter:
    """Read and check an adapter; raises InputError that names what is not supported."""
    config = read_json(source.folder / "adapter_config.json", f"the adapter {source.spec!r}")
    reject_unmergeable(source.spec, config)
    tensors = tensors_of(source, [source.folder / WEIGHTS])
    if not tensors:
        raise InputError(f"the adapter {source.spec!r} holds no tensors")
    return Adapter(source, config, tensors, weight)
