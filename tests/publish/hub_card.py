"""What the Hub's validator says about a card's metadata, as far as it is known from its answers."""

from __future__ import annotations

import re
from typing import Any

import yaml

_LICENSES = (
    *("apache-2.0", "mit", "openrail", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0"),
    *("cc-by-sa-4.0", "cc-by-nc-4.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "llama2", "llama3"),
    *("llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "unlicense", "unknown", "other"),
)
_RELATIONS = ("adapter", "merge", "quantized", "finetune")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-\w+)*|multilingual|code")
_FRONT = re.compile(r"\s*---\r?\n(.*?)\r?\n---\s*(\r?\n|$)", re.DOTALL)
_TEXTS = ("library_name", "pipeline_tag", "quantized_by")


def card_errors(text: str) -> tuple[list[str], list[str]]:
    """Return errors and warnings about the YAML at a README's beginning."""
    match = _FRONT.match(text)
    if match is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        known = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if not isinstance(known, dict):
        return ["The metadata must be a mapping"], []
    return [*_value_errors(known), *_type_errors(known), *_index_errors(known.get("model-index", []))], []


def card_metadata(text: str) -> dict[str, Any]:
    """Return the metadata of a card without errors."""
    match = _FRONT.match(text)
    return dict(yaml.safe_load(match[1])) if match else {}


def _value_errors(known: dict[str, Any]) -> list[str]:
    errors = [
        f'"license" must be one of [apache-2.0, mit, ...]; found {value!r}'
        for value in _listed(known.get("license"))
        if value not in _LICENSES
    ]
    errors += [
        f'"language[]" must be an ISO 639 code; found {value!r}'
        for value in _listed(known.get("language"))
        if not isinstance(value, str) or not _LANGUAGE.fullmatch(value)
    ]
    errors += [
        f'"base_model" with value {value!r} is not valid. Use a model id from the Hub.'
        for value in _listed(known.get("base_model"))
        if not isinstance(value, str) or not _REPOSITORY.fullmatch(value)
    ]
    return errors


def _type_errors(known: dict[str, Any]) -> list[str]:
    errors = []
    if known.get("base_model_relation", "merge") not in _RELATIONS:
        errors.append(f'"base_model_relation" must be one of {_RELATIONS}')
    tags = known.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        errors.append('"tags" must be a list of strings')
    return errors + [f'"{key}" must be a string' for key in _TEXTS if not isinstance(known.get(key, ""), str)]


def _index_errors(index: Any) -> list[str]:
    """Return what is wrong with a model-index: a result needs a task, a data set, metrics with values."""
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for model in index:
        if not isinstance(model.get("name"), str):
            errors.append('"model-index[0].name" is required')
        for result in model.get("results", []):
            dataset, task = result.get("dataset", {}), result.get("task", {})
            errors += ['"task.type" is required'] if not task.get("type") else []
            errors += [f'"dataset.{key}" is required' for key in ("type", "name") if not dataset.get(key)]
            for metric in result.get("metrics", [{}]):
                errors += ['"metrics[].type" is required'] if not metric.get("type") else []
                errors += ['"metrics[].value" is required'] if metric.get("value") is None else []
    return errors


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
