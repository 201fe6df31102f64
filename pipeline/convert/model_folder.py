"""The small files of a merged checkpoint: config.json, the tokenizer, the chat template, the licence."""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path
from typing import Any

from pipeline.sources.model_source import BESIDE_WEIGHTS, Source, read_json
from pipeline.tokenizers.folder_templates import CONFIG, PROCESSOR, additional_files

_COPIED = (*BESIDE_WEIGHTS, "*.py")
_LEFT_OUT = (
    "*.index.json",
    "made_from.json",
    "manifest.json",
    "certificate.json",
    "adapter_config.json",
    "trainer_state.json",
)
"""What belongs to other files than the model's own."""


_GENERATION = "generation_config.json"
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def write_model_files(staged: Path, base: Source, dtype: str, stop: int | None, target: Path) -> list[str]:
    """Copy what the checkpoint in `staged` has beside its weights into `target`; return the names.

    `staged` is the base's folder, or one of links with a changed tokenizer. `dtype` is the type of the merged
    model, as in config.json. Generation ends at the token `stop` too.
    """
    target.mkdir(exist_ok=True)
    names = []
    for path in Source(base.spec, staged, None).files():
        if not _is_copied(path.name):
            continue
        if path.name == PROCESSOR and staged != base.folder:
            _write_json(target / path.name, {"chat_template": _chosen_template(staged)})
        else:
            shutil.copyfile(path, target / path.name)
        names.append(path.name)
    if staged == base.folder:
        names += _copy_more_templates(staged, target)
    config = read_json(staged / "config.json", "the merged model")
    _write_json(target / "config.json", _merged_config(config, base, dtype))
    if stop is not None and (generation := _stopping(target, config, stop)):
        _write_json(target / _GENERATION, generation)
        names = sorted({*names, _GENERATION})
    return names


def _stopping(folder: Path, config: dict[str, Any], stop: int) -> dict[str, Any] | None:
    """Return generation_config.json with another token that ends an answer; None where it has that one."""
    if (folder / _GENERATION).is_file():
        known = read_json(folder / _GENERATION, "the merged model")
    else:
        text = {**config, **(config.get("text_config") or {})}
        known = {key: text[key] for key in _TOKENS if text.get(key) is not None}
    ends = known.get("eos_token_id")
    before = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return None if stop in before else {**known, "eos_token_id": [*before, stop]}


def _is_copied(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, one) for one in _COPIED) and not any(
        fnmatch.fnmatchcase(name, one) for one in _LEFT_OUT
    )


def _chosen_template(staged: Path) -> str:
    """Return the default template in tokenizer_config.json, where it was staged."""
    given = read_json(staged / CONFIG, "the tokenizer").get("chat_template")
    if isinstance(given, list):
        return next((one["template"] for one in given if one["name"] == "default"), "")
    return given or ""


def _copy_more_templates(folder: Path, target: Path) -> list[str]:
    names = []
    for path in additional_files(folder):
        name = path.relative_to(folder)
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target / name)
        names.append(name.as_posix())
    return names


def _merged_config(config: dict[str, Any], base: Source, dtype: str) -> dict[str, Any]:
    """Return config.json with the type of the merged model; code of the base's repository keeps its place."""
    config = {key: _typed(value, dtype) for key, value in config.items()}
    if not {"dtype", "torch_dtype"} & config.keys():
        config["dtype"] = dtype
    if base.revision and isinstance(config.get("auto_map"), dict):
        config["auto_map"] = {key: _at_hub(value, base.spec) for key, value in config["auto_map"].items()}
    return {key: dtype if key in ("dtype", "torch_dtype") else value for key, value in config.items()}


def _typed(value: Any, dtype: str) -> Any:
    """Return a part of a configuration, such as text_config, with its own type replaced."""
    if not isinstance(value, dict):
        return value
    return {key: dtype if key in ("dtype", "torch_dtype") else part for key, part in value.items()}


def _at_hub(value: Any, spec: str) -> Any:
    if isinstance(value, list):
        return [_at_hub(one, spec) for one in value]
    return f"{spec}--{value}" if isinstance(value, str) and "--" not in value else value


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
