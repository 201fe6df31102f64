"""A PEFT adapter on disk: its configuration and its tensors, checked against what can be merged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.kinds import kind_name, refuse_unmergeable
from pipeline.source import Source, TensorInfo, read_json, tensors_of

WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the base's own names in an adapter's file."""


@dataclass(frozen=True)
class Adapter:
    """An adapter, checked: its PEFT configuration, the tensors in its file, and how much of it is merged."""

    source: Source
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    weight: float = 1.0

    @property
    def spec(self) -> str:
        """How the person named it: a folder or a Hub id."""
        return self.source.spec

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.source.folder

    @property
    def weights(self) -> Path:
        """Its safetensors file."""
        return self.folder / WEIGHTS

    @property
    def kind(self) -> str:
        """How PEFT calls it: LoRA, rsLoRA, DoRA, OFT ..."""
        return kind_name(self.config)

    @property
    def rank(self) -> int:
        """The rank of its updates, where no pattern says otherwise; 0 where the kind has none."""
        return int(self.config.get("r") or 0)

    @property
    def token_indices(self) -> set[int]:
        """The tokens whose embeddings it brings one by one."""
        found = self.config.get("trainable_token_indices") or self.config.get("token_indices") or []
        lists = found.values() if isinstance(found, dict) else [found]
        return {int(token) for tokens in lists for token in tokens}


def read_adapter(source: Source, weight: float = 1.0) -> Adapter:
    """Read and check an adapter; raises InputError that names what is not supported."""
    config = read_json(source.folder / "adapter_config.json", f"the adapter {source.spec!r}")
    refuse_unmergeable(source.spec, config)
    tensors = tensors_of(source, [source.folder / WEIGHTS])
    if not tensors:
        raise InputError(f"the adapter {source.spec!r} holds no tensors")
    return Adapter(source, config, tensors, weight)
