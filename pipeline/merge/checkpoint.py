"""A checkpoint's tensors as the parameters of transformers' model class, and back.

Most checkpoints keep a parameter under its own name. Some name it otherwise (GPT-2 without its prefix),
and those of mixtures of experts keep one tensor for each expert where the model has one for all
(transformers/conversion_mapping.py). transformers' own rules are used in both directions.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from common.errors import MissingPackage
from pipeline.errors import InputError

try:
    import torch
    from safetensors import SafetensorError, safe_open
except ImportError as error:
    raise MissingPackage(error.name or "torch") from error


class Tensors(Protocol):
    """Tensors by name: a checkpoint's, or those of a checkpoint that an adapter was merged into."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's shape."""

    @property
    def changed(self) -> frozenset[str]:
        """The tensors that are not, or not so, in the checkpoint's files."""

    @property
    def added(self) -> frozenset[str]:
        """Those of them that the files lack."""

    @property
    def settings(self) -> Mapping[str, object]:
        """What the model's config.json has to say otherwise: tie_word_embeddings, vocab_size."""

    def read(self, name: str) -> torch.Tensor:
        """A tensor, in the type that it is kept in."""


class Checkpoint:
    """The safetensors files of a model or an adapter."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.changed: frozenset[str] = frozenset()
        self.added: frozenset[str] = frozenset()
        self.settings: dict[str, object] = {}
        self._places: dict[str, Path] = {}
        for path in files:
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    self.shapes[name] = tuple(file.get_slice(name).get_shape())
                    self._places[name] = path

    def read(self, name: str) -> torch.Tensor:
        """The tensor as it is stored. Its file is mapped into memory only as long as the tensor lives."""
        with _opened(self._places[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or incomplete ({error}): download it again") from None


try:
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )
except ImportError as error:
    raise MissingPackage(error.name or "transformers") from error


class Parameters:
    """The parameters of `model`, a model on the meta device, in the tensors of its checkpoint."""

    def __init__(self, model: Any, tensors: Tensors) -> None:
        self._model = model
        self._tensors = tensors
        conversions = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in conversions if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in conversions if isinstance(rule, WeightConverter)]
        self._converters = {pattern: rule for rule in converters for pattern in rule.source_patterns}
        self._sources: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
        state = model.state_dict()
        for name in sorted(tensors.shapes, key=dot_natural_key):
            parameter, pattern = rename_source_key(
                name, self._renamings, converters, model.base_model_prefix, state
            )
            self._sources[parameter].append((name, pattern))

    def __contains__(self, parameter: str) -> bool:
        return parameter in self._sources

    def names(self, parameter: str) -> list[str]:
        """The checkpoint's tensors that hold a parameter."""
        return [name for name, _ in self._sources[parameter]]

    def read(self, parameter: str) -> torch.Tensor:
        """A parameter in float32, as a tensor of its own."""
        sources = self._sources[parameter]
        pattern = sources[0][1]
        if pattern is None:
            return self._tensors.read(sources[0][0]).to(torch.float32, copy=True)
        rule = copy.deepcopy(self._converters[pattern])
        for name, source_pattern in sources:
            rule.add_tensor(parameter, name, source_pattern, self._tensors.read(name).float())
        whole: torch.Tensor = self._apply(rule, parameter)[parameter]
        return whole

    def split(self, parameter: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
        """A parameter's value as the checkpoint's tensors: `read` backwards."""
        sources = self._sources[parameter]
        pattern = sources[0][1]
        if pattern is None:
            return {sources[0][0]: value}
        rule = self._converters[pattern].reverse_transform()
        first, source_pattern = rule.rename_source_key(parameter)
        rule.add_tensor(first, parameter, source_pattern, value)
        parts = self._apply(rule, first)
        return {name: parts[rename_source_key(name, self._renamings, [])[0]] for name, _ in sources}

    def _apply(self, rule: Any, name: str) -> dict[str, torch.Tensor]:
        made = rule.convert(name, model=self._model, config=self._model.config)
        return {key: value[0] if isinstance(value, list) else value for key, value in made.items()}
