"""Recipes: the options of a training as YAML, under the names that they have on the command line."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.files import read_input
from pipeline.data.options import DataOptions
from pipeline.errors import InputError
from pipeline.training.config import FinetuneConfig

RECIPE = "recipe.yaml"
"""Written into an adapter: `finetune --recipe recipe.yaml --out ANOTHER` repeats its training."""

_NAMES = {
    "learning_rate": "lr",
    "targets": "target",
    "trackers": "track",
    "chat_template": "template",
    "for_quant": "for",
}
"""The options whose name on the command line differs from that in FinetuneConfig."""

_UNNAMED = ("data_options", "stored_type", "threads")


def recipe_of(config: FinetuneConfig) -> dict[str, Any]:
    """Return the options, but those without a value, as a recipe has them."""
    values: dict[str, Any] = {
        option_name(one.name): _plain(getattr(config, one.name))
        for one in fields(config)
        if one.name not in _UNNAMED
    }
    values |= {one.name: _plain(getattr(config.data_options, one.name)) for one in fields(DataOptions)}
    return {name: value for name, value in values.items() if value not in (None, []) and value is not False}


def identity_of(config: FinetuneConfig) -> dict[str, Any]:
    """Return the options that make a training's result; its base and its data are identified by content."""
    options = recipe_of(config)
    for name in ("base", "data", "valid", "out", "force", "resume", "save-every", "track", "answers"):
        options.pop(name, None)
    return options


def option_name(field: str) -> str:
    """Return the name of a FinetuneConfig field on the command line, without the dashes."""
    return _NAMES.get(field, field.replace("_", "-"))


def write_recipe(config: FinetuneConfig, path: Path) -> None:
    """Write the recipe that repeats a training, with the paths as they were given."""
    import yaml

    values = recipe_of(config)
    for name in ("out", "force", "resume"):
        values.pop(name, None)
    head = "# python scripts/finetune.py --recipe recipe.yaml --out FOLDER\n"
    path.write_text(head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the options of a recipe by their names, with "-" for "_". Raises InputError."""
    import yaml

    try:
        text = read_input(path).decode("utf-8")
        values, node = yaml.safe_load(text), yaml.compose(text)
    except OSError as error:
        raise InputError(f"--recipe {str(path)!r} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--recipe {str(path)!r} is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"--recipe {str(path)!r} is no list of `option: value` lines")
    names = Counter(key.value.replace("_", "-") for key, _ in node.value)
    for name, times in names.items():
        if times > 1:
            raise InputError(f"--recipe {str(path)!r} has {name!r} {times} times: keep one")
    return {name.replace("_", "-"): value for name, value in values.items() if value is not None}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
