"""A base model's tensors on disk, read one at a time under the checkpoint's own names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from pipeline.errors import InputError, MissingPackage

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
