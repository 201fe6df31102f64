"""Read a checkpoint's tensors, and map them to the parameters of transformers' model class and back.

Most checkpoints store a parameter under its own name. Some names differ (GPT-2 lacks its prefix), and
mixtures of experts have one tensor per expert where the model has one for all
(transformers/conversion_mapping.py). transformers' rules are used in both directions.
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
    """Tensors by name: a checkpoint's, or those after merging an adapter."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor."""

    @property
    def changed(self) -> frozenset[str]:
        """The tensors that differ from the checkpoint's files."""

    @property
    def added(self) -> frozenset[str]:
        """The tensors that the checkpoint's files lack."""

    @property
    def settings(self) -> Mapping[str, object]:
        """The changed settings of config.json: tie_word_embeddings, vocab_size."""

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor in its stored type."""


class Checkpoint:
    """The safetensors files of a model or an adapter."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.changed: frozenset[str] = frozenset()
        self.added: frozenset[str] = frozenset()
        self.settings: dict[str, object] = {}
        self._files: dict[str, Path] = {}
        for path in files:
            with _open(path) as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    self.shapes[name] = tuple(file.get_slice(name).get_shape())
                    self._files[name] = path

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor in its stored type. Its file stays mapped only as long as the tensor exists."""
        with _open(self._files[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or incomplete ({error}): download it again") from None


try:
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
    """The parameters of `model`, which is on the meta device, read from its checkpoint's `tensors`."""

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
        """Return the names of the checkpoint's tensors that make up a parameter."""
        return [name for name, _ in self._sources[parameter]]

    def read(self, parameter: str) -> torch.Tensor:
        """Return a new float32 tensor with a parameter's value."""
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
        """Return a parameter's value as the checkpoint's tensors, the inverse of `read`."""
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
        converted = rule.convert(name, model=self._model, config=self._model.config)
        return {key: value[0] if isinstance(value, list) else value for key, value in converted.items()}
