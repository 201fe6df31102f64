"""The folder that llama.cpp's converter reads: the base's files, as the merged model would have them.

Where the merged model has other settings than its base (untied embeddings, a resized vocabulary) or the
adapter brings a tokenizer, the base's files are linked into a folder of their own, with those in place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.adapter import Adapter
from pipeline.source import Source, read_json
from pipeline.tokenizer import choose_tokenizer, replace_file, write_tokenizer


@dataclass(frozen=True)
class Staged:
    """What the converter reads, and lines about it for people."""

    folder: Path
    notes: tuple[str, ...]


def staged(
    base: Source, adapters: Sequence[Adapter], settings: Mapping[str, object], scratch: Path
) -> Staged:
    """The base's own folder where nothing differs, else one inside `scratch`."""
    config = read_json(base.folder / "config.json", f"the base model {base.spec!r}")
    changed = _changed(config, settings)
    tokenizer = choose_tokenizer(base, adapters, changed.get("text_config", changed).get("vocab_size"))
    if not settings and tokenizer == choose_tokenizer(base, (), None):
        return Staged(base.folder, tokenizer.notes)
    folder = scratch / base.folder.name  # the converter takes words for the GGUF from its name
    folder.mkdir()
    for path in base.files():
        (folder / path.name).symlink_to(path)
    replace_file(folder / "config.json", json.dumps(changed))
    write_tokenizer(tokenizer, folder)
    return Staged(folder, tokenizer.notes)


def _changed(config: dict[str, Any], settings: Mapping[str, object]) -> dict[str, Any]:
    text = {"text_config": {**config["text_config"], **settings}} if "text_config" in config else {}
    return {**config, **settings, **text}
