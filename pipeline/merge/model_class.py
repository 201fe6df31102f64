"""Whether transformers has a model class for a base, or only the base's own repository has one, as code."""

from __future__ import annotations

from pipeline.errors import InputError
from pipeline.sources.model_source import Source, read_json


def missing_class(base: Source) -> str | None:
    """Return the model_type in config.json if transformers has no causal language model of it, else None.

    A model_type that is unknown beside a class that is not, without any code in auto_map, is a mistake in
    config.json: None too, so that transformers reports it.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = read_json(base.folder / "config.json", f"the base model {base.spec!r}")
    model_type, architectures = config.get("model_type"), config.get("architectures")
    if not isinstance(model_type, str) or not model_type:
        return None  # a malformed config.json, which transformers refuses
    if model_type in CONFIG_MAPPING_NAMES and model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return None
    named = architectures[0] if isinstance(architectures, list) and architectures else architectures
    mistaken = named in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() and not config.get("auto_map")
    return None if mistaken else model_type


def require_class(base: Source, purpose: str, way_out: str) -> None:
    """Raise InputError if transformers has no class for the base, which `purpose` needs."""
    if (model_type := missing_class(base)) is not None:
        raise InputError(
            f"transformers has no model class for the base model {base.spec!r} ({model_type}), and {purpose} "
            f"needs one; code that a model brings is never run here: {way_out}"
        )
