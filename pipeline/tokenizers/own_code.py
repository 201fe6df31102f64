"""Tokenizers whose class their repository brings as code, which is never run here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.sources.model_source import read_json


class NeedsCode(InputError):
    """Nothing is wrong with the input, but only code that it brings could read it."""


def load_without_code(load: Any, folder: Path, *args: Any, **options: Any) -> Any:
    """Call `load`, which is AutoTokenizer.from_pretrained or the like, for the tokenizer in `folder`.

    Raises NeedsCode for a tokenizer that only its own code can load.
    """
    try:
        return load(folder, *args, **{**options, "trust_remote_code": False})
    except ValueError as error:
        if (name := _class_in_repository(folder)) is None:
            raise
        raise NeedsCode(
            f"the tokenizer in {folder} needs the code that it brings ({name}), which is never run here: "
            "where you trust it, save it as a tokenizer.json with the tokenizer_class "
            "PreTrainedTokenizerFast, without auto_map"
        ) from error


def _class_in_repository(folder: Path) -> str | None:
    path = folder / "tokenizer_config.json"
    mapped = read_json(path, "the tokenizer").get("auto_map") if path.is_file() else None
    names = mapped.get("AutoTokenizer") if isinstance(mapped, dict) else mapped
    listed = names if isinstance(names, list) else [names]
    return next((name for name in listed if isinstance(name, str)), None)
