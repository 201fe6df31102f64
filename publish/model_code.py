"""The Python files of a checkpoint that transformers runs with `trust_remote_code`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.sources.model_source import read_json

_CONFIGURATIONS = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)
_RELATIVE_IMPORT = re.compile(r"^\s*from\s+\.(\w+)\s+import\b", re.MULTILINE)


def code_files(folder: Path) -> tuple[str, ...]:
    """Return the Python files that the configurations name in `auto_map`, and those that they import.

    Code that is named in another repository, as "owner/name--module.Class", stays there.
    """
    configurations = [path for name in _CONFIGURATIONS if (path := folder / name).is_file()]
    waiting = [name for path in configurations for name in _named(path)]
    found = set[str]()
    while waiting:
        name = f"{waiting.pop()}.py"
        if name not in found and (folder / name).is_file():
            found.add(name)
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            waiting += _RELATIVE_IMPORT.findall(text)
    return tuple(sorted(found))


def _named(configuration: Path) -> Iterator[str]:
    """Yield the modules of the classes in a configuration's `auto_map`."""
    classes = read_json(configuration, "the model").get("auto_map")
    for value in classes.values() if isinstance(classes, dict) else ():
        yield from _modules(value)


def _modules(value: Any) -> Iterator[str]:
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, str) and re.fullmatch(r"\w+\.\w+", name):
            yield name.partition(".")[0]
