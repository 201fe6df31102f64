"""PEFT's kinds of adapters: which of them are merged, and why the others cannot be.

A kind is merged when PEFT's own layer code merges each layer alone to the very tensors of its
merge_and_unload (tests/pipeline/test_kinds.py goes through all of them). The names are those of
peft/utils/peft_types.py and of the fields of peft/tuners/lora/config.py.
"""

from __future__ import annotations

from typing import Any

from pipeline.errors import InputError

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


def refuse_unmergeable(spec: str, config: dict[str, Any]) -> None:
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
