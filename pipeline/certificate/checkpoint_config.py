"""The config.json of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.source import read_json


def text_config(folder: Path) -> dict[str, Any]:
    """The settings of its language model; raises InputError when there is none."""
    config = read_json(folder / "config.json", "the base model")
    return {**config, **config.get("text_config", {})}
