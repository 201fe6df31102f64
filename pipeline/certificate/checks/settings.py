"""The hyperparameters in config.json compared with the GGUF's metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from common.certificate import Finding
from common.text import all_of_them, pluralize
from engine.llama.model import Model
from pipeline.certificate.known_causes import find_cause
from pipeline.certificate.subject import Subject, text_config
from pipeline.progress import StepProgress
from pipeline.sources.adapter import Adapter
from pipeline.sources.adapter_base import base_mismatch_notes
from pipeline.sources.model_source import Source

_RULE = "Equal to six digits: the weights were trained with these numbers."
_ROPE = "Equal to six digits: positions turn as in training, at any length."


# Metadata key, after the architecture's prefix -> the names that config.json may use.
_SHAPE = {
    "block_count": ("num_hidden_layers", "n_layer"),
    "embedding_length": ("hidden_size", "n_embd"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps"),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_used_count": ("num_experts_per_tok",),
}
_ROPE_KEYS = {
    "rope.freq_base": ("rope_theta",),
    "rope.scaling.factor": ("factor",),
    "rope.scaling.original_context_length": ("original_max_position_embeddings",),
}


def check_settings(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Compare the shape and RoPE settings that both files have; skipped without a base."""
    if subject.base is None:
        yield Finding(
            "settings.shape", "skipped", "The base was not given (--base), so there is no config.json."
        )
        return
    yield from warn_other_base(subject.base, subject.adapters)
    config = text_config(subject.base.folder)
    with progress.step("Check the settings", None), closing(Model(subject.full, vocab_only=True)) as model:
        architecture = model.metadata("general.architecture")
        yield _compare("settings.shape", config, _metadata(model, architecture, _SHAPE), _SHAPE)
        yield _compare(
            "settings.rope", rope_config(config), _metadata(model, architecture, _ROPE_KEYS), _ROPE_KEYS
        )


def warn_other_base(base: Source, adapters: Sequence[Adapter]) -> Iterator[Finding]:
    """Yield a warning if an adapter names another base than this one."""
    if others := base_mismatch_notes(base, adapters):
        yield Finding(
            "settings.base",
            "warn",
            f"{'; '.join(others)}.".replace("the", "The", 1),
            threshold="The base that an adapter names in adapter_config.json, where both names are known.",
            cause="On another base of the same shape a tuning is another: export with the base it names.",
        )


def rope_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the RoPE settings, which versions of transformers store in different places."""
    nested = config.get("rope_parameters") or config.get("rope_scaling") or {}
    # Gemma 3 has one set for each type of layer; the GGUF's plain keys are those of full attention.
    nested = nested.get("full_attention", nested)
    top = {key: config[key] for key in ("rope_theta", "original_max_position_embeddings") if key in config}
    return {**top, **nested}


def _metadata(model: Model, architecture: str, keys: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    return {key: model.metadata(f"{architecture}.{key}") for key in keys}


def _compare(
    name: str, config: Mapping[str, Any], metadata: Mapping[str, str], keys: Mapping[str, tuple[str, ...]]
) -> Finding:
    is_rope = name == "settings.rope"
    rule, figures, wrong = (_ROPE if is_rope else _RULE), {}, []
    for key, names in keys.items():
        expected = next((config[each] for each in names if isinstance(config.get(each), int | float)), None)
        actual = _number(metadata[key])
        if expected is None or actual is None:
            continue
        figures[key] = [float(expected), actual]
        if abs(actual - expected) > 1e-6 * abs(expected):
            wrong.append(f"{key} is {actual:g} in the GGUF and {expected:g} in config.json")
    if wrong:
        more = f", and {pluralize(len(wrong) - 1, 'more differs', 'more differ')}" if len(wrong) > 1 else ""
        summary = f"{wrong[0]}{more}."
        return Finding(name, "fail", summary, figures, rule, find_cause("rope" if is_rope else "settings"))
    all_are = all_of_them(len(figures), "number is that", "numbers are those")
    summary = f"{all_are} of config.json." if figures else "No number is named twice."
    return Finding(name, "pass" if figures else "skipped", summary, figures, rule)


def _number(text: str) -> float | None:
    """Return a metadata value as a number; None for a list or an empty text."""
    try:
        return float(text)
    except ValueError:
        return None
