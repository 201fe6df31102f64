"""PEFT adapters: reading one, which kinds can be merged, and why the others cannot.

A kind is merged when PEFT's layer code, run on each layer separately, gives exactly the tensors of
merge_and_unload (tests/pipeline/merge/test_kinds.py covers all of them). The names are those of
peft/utils/peft_types.py and of the fields of peft/tuners/lora/config.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.paths import expanded
from pipeline.errors import InputError
from pipeline.sources.model_source import WEIGHTS, Source, TensorInfo, read_json, tensors_of

CONFIG = "adapter_config.json"
"""PEFT's configuration of an adapter."""


def parse_adapter(text: str) -> tuple[str, float]:
    """Split "you/lora=0.7" or "you/lora" into a folder or Hub id and a weight. Raises InputError.

    A folder with exactly that name takes precedence, so that its name may contain "=".
    """
    spec, found, weight = text.rpartition("=")
    if not found or expanded(text).exists():
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
# LoRA options that make a merge impossible, or different from PEFT's merge of each layer.
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
# Initialisations that also change the base weights, so that the adapter does not fit its original base.
_MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def kind_name(config: dict[str, Any]) -> str:
    """Return PEFT's name for an adapter with this configuration: LoRA, rsLoRA + DoRA, OFT ..."""
    if not is_lora(config):
        return MERGED[_peft_type(config)]
    return ("rsLoRA" if config.get("use_rslora") else "LoRA") + (" + DoRA" if config.get("use_dora") else "")


def is_lora(config: dict[str, Any]) -> bool:
    """Return whether it is LoRA in any of its variants."""
    return _peft_type(config) == "LORA"


_BEYOND_PLAIN = {
    "use_dora": "DoRA rescales every row of the merged weight",
    "lora_bias": "its updates have biases",
    "modules_to_save": "it brings whole modules",
    "trainable_token_indices": "it brings embeddings of its own",
    "target_parameters": "it changes bare parameters, such as fused experts",
    "fan_in_fan_out": "its base keeps weights transposed",
}


def beyond_plain_lora(adapter: Adapter) -> str | None:
    """Return why an adapter is not only LoRA or rsLoRA on linear layers; None when it is."""
    if not is_lora(adapter.config):
        return f"{adapter.kind} is no LoRA"
    if (bias := adapter.config.get("bias") or "none") != "none":
        return f"it trained biases (bias={bias!r})"
    for option, reason in _BEYOND_PLAIN.items():
        if adapter.config.get(option):
            return reason
    plain = (".lora_A.weight", ".lora_B.weight")
    other = next((name for name in adapter.tensors if not name.endswith(plain)), None)
    return f"it has {other}, which is no update of a linear layer" if other else None


_NUMBERS = (int, float)
_FIELD_TYPES: dict[str, tuple[type, ...]] = {
    "r": (int,),
    "lora_alpha": _NUMBERS,
    "lora_dropout": _NUMBERS,
    "lora_bias": (bool,),
    "target_parameters": (list,),
    "init_lora_weights": (bool, str),
    "bias": (str,),
    "rank_pattern": (dict,),
    "alpha_pattern": (dict,),
    "target_modules": (str, list),
    "exclude_modules": (str, list),
    "modules_to_save": (list,),
    "trainable_token_indices": (list, dict),
    "token_indices": (list,),
    "use_rslora": (bool,),
    "use_dora": (bool,),
    "fan_in_fan_out": (bool,),
}
"""The JSON types of the fields that PEFT does not check; each may be null or absent too."""


def reject_malformed(spec: str, config: dict[str, Any]) -> None:
    """Raise InputError for a field whose value has another type than PEFT writes."""
    for field, types in _FIELD_TYPES.items():
        value = config.get(field)
        odd = isinstance(value, float) and not math.isfinite(value)
        if value is not None and (odd or not _is_of(value, types)):
            raise InputError(_malformed(spec, field, value))
    try:
        token_indices(config)
    except (ValueError, TypeError):
        field = "trainable_token_indices" if config.get("trainable_token_indices") else "token_indices"
        raise InputError(_malformed(spec, field, config[field])) from None


def _is_of(value: object, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _malformed(spec: str, field: str, value: object) -> str:
    return (
        f"the adapter {spec!r} has {field} = {str(value)[:80]!r} in its adapter_config.json, which PEFT "
        "never writes there: save the adapter again with PEFT, or correct the value"
    )


def token_indices(config: dict[str, Any]) -> set[int]:
    """Return the ids of trained tokens. Raises ValueError or TypeError for what is no list of numbers."""
    indices = config.get("trainable_token_indices") or config.get("token_indices") or []
    lists = indices.values() if isinstance(indices, dict) else [indices]
    return {int(token) for tokens in lists for token in tokens}


def reject_unmergeable(spec: str, config: dict[str, Any]) -> None:
    """Raise InputError for an adapter that cannot be merged, with the reason and what to do instead."""
    kind = _peft_type(config)
    if not kind:
        raise InputError(
            f"the adapter {spec!r} has no peft_type in its adapter_config.json: save it with PEFT"
        )
    if kind not in MERGED:
        reason = _REFUSED.get(kind, "it was not tested to come out exactly as PEFT merges it")
        raise InputError(_refusal(spec, f"is of PEFT's kind {kind}", reason, kind))
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
    unmergeable = _REFUSED.get(kind) == _PROMPT or kind in {"POLY", "XLORA", "LILY", "SHADOW"}
    way_out = (
        "train a LoRA instead"
        if unmergeable
        else "merge it with PEFT's merge_and_unload, save the model, and export that with --base"
    )
    return f"the adapter {spec!r} {what} ({reason}), which this export does not merge: {way_out}"


PEFT_PREFIX = "base_model.model."
"""PEFT's prefix of the base's parameter names in an adapter's file."""


@dataclass(frozen=True)
class Adapter:
    """A checked adapter: its PEFT configuration, its tensors, and the `weight` that scales its update."""

    source: Source
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    weight: float = 1.0

    @property
    def spec(self) -> str:
        """The folder or Hub id that the user gave."""
        return self.source.spec

    @property
    def folder(self) -> Path:
        """Its local folder."""
        return self.source.folder

    @property
    def weights_file(self) -> Path:
        """Its safetensors file."""
        return self.folder / WEIGHTS

    @property
    def kind(self) -> str:
        """PEFT's name for it: LoRA, rsLoRA, DoRA, OFT ..."""
        return kind_name(self.config)

    @property
    def rank(self) -> int:
        """The rank of its updates, without rank_pattern; 0 for kinds without a rank."""
        return int(self.config.get("r") or 0)

    @property
    def token_indices(self) -> set[int]:
        """The ids of trained tokens (trainable_token_indices)."""
        return token_indices(self.config)


def read_adapter(source: Source, weight: float = 1.0) -> Adapter:
    """Read and check an adapter. Raises InputError for one that is not supported.

    A key of its configuration whose value is null is the same as an absent one.
    """
    found = read_json(source.folder / CONFIG, f"the adapter {source.spec!r}")
    config = {key: value for key, value in found.items() if value is not None}
    if "peft_type" in config:
        config["peft_type"] = _peft_type(config)
    reject_unmergeable(source.spec, config)
    reject_malformed(source.spec, config)
    tensors = tensors_of(source, [source.folder / WEIGHTS])
    if not tensors:
        raise InputError(f"the adapter {source.spec!r} holds no tensors")
    _reject_integers(source.spec, tensors)
    return Adapter(source, config, tensors, weight)


def _reject_integers(spec: str, tensors: dict[str, TensorInfo]) -> None:
    for name, info in tensors.items():
        if ".lora_" in name and not info.dtype.startswith(("F", "BF")):
            raise InputError(
                f"the adapter {spec!r} stores {name} as {info.dtype}, and a LoRA has fractions: save it "
                "again as float32 or bfloat16"
            )
