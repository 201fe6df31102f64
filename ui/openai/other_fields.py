"""Fields of a request that are not kept: refused where they ask for something, else ignored.

What a field's value must be to ask for nothing follows the defaults of OpenAI, llama-server, vLLM and
text-generation-webui.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

# Field -> values that ask for nothing, beside null and empty ones.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    # tools and other outputs
    "tools": (),
    "functions": (),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "prompt_logprobs": (0,),
    "n_probs": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "images": (),
    "best_of": (1,),
    "echo": (False,),
    "suffix": (),
    "return_tokens": (False,),
    "return_tokens_as_token_ids": (False,),
    "post_sampling_probs": (False,),
    "response_fields": (),
    # other places for what is said
    "prompt": (),
    "input": (),
    "inputs": (),
    "system": (),
    "system_prompt": (),
    "instructions": (),
    "context": (),
    "documents": (),
    "character": (),
    "negative_prompt": (),
    "options": (),
    "generation_config": (),
    "generationConfig": (),
    "parameters": (),
    "extra_body": (),
    "chat_template": (),
    "chat_template_kwargs": (),
    "add_generation_prompt": (True,),
    # reasoning
    "reasoning_effort": ("none",),
    "reasoning": (),
    "thinking": ({"type": "disabled"},),
    "think": (False,),
    "enable_thinking": (False,),
    "thinking_budget": (0, -1),
    "thinking_budget_tokens": (-1,),
    "reasoning_budget": (-1,),
    "verbosity": ("medium",),
    # sampling
    "logit_bias": (),
    "min_tokens": (0,),
    "min_length": (0,),
    "ignore_eos": (False,),
    "ban_eos_token": (False,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "typical": (1,),
    "typ_p": (1,),
    "tfs_z": (1,),
    "tfs": (1,),
    "top_a": (0,),
    "top_n_sigma": (-1, 0),
    "nsigma": (0,),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "dynamic_temperature": (False,),
    "smoothing_factor": (0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "penalty_alpha": (0,),
    "adaptive_target": (-1, 0),
    "guidance_scale": (1,),
    "repetition_penalty": (1,),
    "rep_pen": (1,),
    "length_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "early_stopping": (False,),
    "use_beam_search": (False,),
    "num_beams": (1,),
    "samplers": (),
    "sampler_priority": (),
    "repeat_last_n": (64,),
    "penalty_last_n": (64,),
    "temperature_last": (True, False),
    "bad_words": (),
    "banned_tokens": (),
    "banned_strings": (),
    "custom_token_bans": (),
    "stop_token_ids": (),
    "allowed_token_ids": (),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "truncation_length": (0,),
    "n_keep": (0, -1),
    "n_discard": (0,),
    "t_max_predict_ms": (0, -1),
    "lora": (),
    "lora_request": (),
    "num_ctx": (0,),
    "n_ctx": (0,),
    "max_new_tokens": (-1,),
    "max_output_tokens": (-1,),
    "num_predict": (-1,),
    "max_length": (-1,),
    "transforms": (),
    "plugins": (),
    "models": (),
    "provider": (),
    "route": (),
}
_HINTS = {
    **dict.fromkeys(("repetition_penalty", "rep_pen"), "use repeat_penalty"),
    **dict.fromkeys(("max_new_tokens", "max_output_tokens", "num_predict", "max_length"), "use max_tokens"),
    **dict.fromkeys(("prompt", "input", "inputs"), "use messages"),
    **dict.fromkeys(("system", "system_prompt", "instructions"), "use a message with the role system"),
    **dict.fromkeys(("options", "parameters", "extra_body"), "send its values as fields of their own"),
}
# These change nothing of an answer here, or only with one of the above.
# fmt: off
_HARMLESS = frozenset((
    "adaptive_decay", "add_special_tokens", "background", "cache_prompt", "cache_salt", "chat_id",
    "continue_final_message", "do_sample", "dry_allowed_length", "dry_base", "dry_penalty_last_n",
    "dry_sequence_breakers", "dynatemp_exponent", "dynatemp_high", "dynatemp_low",
    "guided_decoding_backend", "id", "id_slot", "include", "include_reasoning", "keep_alive",
    "metadata", "min_keep", "mirostat_eta", "mirostat_tau", "mode", "parallel_tool_calls",
    "priority", "prompt_cache_key", "prompt_cache_retention", "raw", "reasoning_format",
    "request_id", "return_progress", "safety_identifier", "service_tier", "session_id", "slot_id",
    "smoothing_curve", "spaces_between_special_tokens", "store", "timings_per_token", "truncation",
    "user",
))
# fmt: on
_ASKS_FOR_A_FORM = re.compile(r"guided|structur|schema|grammar|regex|json|ebnf|format|choices", re.IGNORECASE)
_LIKENESS = 0.8  # of difflib, above which a name is a misspelling


def check_other_fields(fields: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Return the names of ignored fields that nobody knows. Raises ValueError for one with an effect.

    `fields` have no null values; `known` are the fields that are kept.
    """
    unknown: list[str] = []
    for name, value in fields.items():
        if name in _HARMLESS or (value in ("", (), [], {}) and not isinstance(value, (int, float))):
            continue
        if name in _NEUTRAL:
            if not any(value == neutral for neutral in _NEUTRAL[name]):
                raise ValueError(f"{name} is not served here: {_HINTS.get(name, 'leave it out')}")
        elif value is False:
            continue
        elif _ASKS_FOR_A_FORM.search(name):
            raise ValueError(f"{name} is not served here: use response_format, json_schema or grammar")
        elif close := difflib.get_close_matches(name, known, 1, _LIKENESS):
            raise ValueError(f"{name} is unknown: is it {close[0]}?")
        else:
            unknown.append(name)
    return unknown
