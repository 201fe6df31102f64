"""Compare a base's tensors with the model that its config.json describes, before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.errors import InputError
from pipeline.merge.checkpoint import Parameters, Tensors
from pipeline.sources.model_source import Source, read_json

_LAYER = re.compile(r"\.\d+\.")


def check_base(base: Source, model: Any, tensors: Tensors) -> None:
    """Raise InputError for a missing tensor, or one of another shape than in `model`, which has no weights.

    A checkpoint may lack parts of a model that are not used, such as an image encoder. So a tensor counts as
    missing only where other layers have it, or where the model consists of text alone.
    """
    parameters = Parameters(model, tensors)
    named = dict(model.named_parameters(remove_duplicate=False))
    tied = {id(value) for name, value in named.items() if name in parameters}
    present = {_LAYER.sub(".N.", name) for name in named if name in parameters}
    is_text = model.config is model.config.get_text_config()
    for name, value in named.items():
        if name in parameters:
            _check_shape(base, parameters.names(name), tuple(value.shape), tensors)
        elif id(value) not in tied and (is_text or _LAYER.sub(".N.", name) in present):
            raise InputError(
                f"the base model in {base.folder} has no tensor {name}, which its config.json asks for: "
                "download it again, or correct config.json"
            )


def _check_shape(base: Source, names: list[str], wanted: tuple[int, ...], tensors: Tensors) -> None:
    if len(names) != 1 or tensors.shapes[names[0]] == wanted:
        return
    found = tensors.shapes[names[0]]
    if len(found) != len(wanted) or sorted(found) == sorted(wanted):
        return  # stored in another layout, which llama.cpp's converter knows
    config = read_json(base.folder / "config.json", f"the base model {base.spec!r}")
    raise InputError(
        f"the base model in {base.folder} has {names[0]} of the shape {list(found)}, and its config.json "
        f"asks for {list(wanted)}{_key_of(config, found, wanted)}: they do not belong together"
    )


def _key_of(config: Mapping[str, Any], found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Return the keys of config.json with a number that differs, in words."""
    sizes = {new for old, new in zip(found, wanted, strict=True) if old != new}
    keys = [f"{key} = {value}" for key, value in config.items() if type(value) is int and value in sizes]
    return f" ({', '.join(keys)})" if keys else ""
