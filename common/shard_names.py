"""The names of a model's files: of shards as in llama.cpp (`NAME-00001-of-00003.gguf`), and of a pair."""

from __future__ import annotations

import re
from collections.abc import Mapping

ADAPTER_SEPARATOR = "::"
"""Between a base's GGUF and that of a LoRA adapter that is loaded on it: BASE.gguf::ADAPTER.gguf."""

_NUMBERS = re.compile(r"-\d{5}-of-(?P<count>(?!00000)\d{5})(?=\.gguf)")


def whole_name(name: str) -> str:
    """Return the file name without the shard number."""
    return _NUMBERS.sub("", name)


def names(name: str) -> list[str]:
    """Return the names of all files of a model, in order, given any of them."""
    found = _NUMBERS.search(name)
    return _numbered(whole_name(name), int(found["count"])) if found else [name]


def split_names(whole: str, count: int) -> list[str]:
    """Return the names of the `count` shards of `NAME.gguf`; a single file keeps its name."""
    return [whole] if count == 1 else _numbered(whole, count)


def model_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes of each model by its file, for shards the first, given those of all files."""
    models: dict[str, int] = {}
    for name, size in sizes.items():
        first = names(name)[0]
        models[first] = models.get(first, 0) + size
    return models


def _numbered(whole: str, count: int) -> list[str]:
    """Return shard names as llama_split_path makes them."""
    stem, ending, rest = whole.rpartition(".gguf")
    return [f"{stem}-{number:05d}-of-{count:05d}{ending}{rest}" for number in range(1, count + 1)]
