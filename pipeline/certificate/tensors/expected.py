"""The tensors that a tuned model must have: the base's, with its adapters' changes.

LoRA in its plain forms is added here by its own formula, W + scale * B A, in numpy: another way than the
export's, which asks PEFT. Every other kind is merged by PEFT's layers (pipeline.merge.merger, held equal
to merge_and_unload by tests); what is looked for then is an error in names, order, types or the file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ggufio.file import Array, to_float32
from pipeline.certificate.subject import Subject
from pipeline.sources.adapter import PEFT_PREFIX, Adapter

_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its type, its shape, and the byte where it begins."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


class SafetensorsReader:
    """Tensors of safetensors files by name; those of types other than floating point are left out."""

    def __init__(self, files: Iterable[Path]) -> None:
        """The files were checked before (pipeline.sources.model_source)."""
        self.entries: dict[str, Entry] = {}
        for path in files:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            for name, item in header.items():
                if name != "__metadata__" and item["dtype"] in _TYPES:
                    start = 8 + length + item["data_offsets"][0]
                    self.entries[name] = Entry(path, item["dtype"], tuple(item["shape"]), start)

    def read(self, name: str) -> Array:
        """The tensor in float32, in memory of its own."""
        entry = self.entries[name]
        raw = np.memmap(entry.path, _TYPES[entry.dtype], "r", entry.start, entry.shape or (1,))
        return to_float32(raw).reshape(entry.shape)


_PLAIN = {"lora_A.weight", "lora_B.weight"}
_NOT_PLAIN = ("use_dora", "modules_to_save", "target_parameters", "trainable_token_indices", "lora_bias")


class ExpectedTensors(Protocol):
    """The tensors of a tuned model under the checkpoint's names, in float32."""

    @property
    def names(self) -> Sequence[str]:
        """All of them, in order."""

    @property
    def threads(self) -> int:
        """How many threads may read at a time."""

    def read(self, name: str) -> tuple[Array, Array | None]:
        """A tensor of the tuned model, and what the tuning changed of it.

        None stands for no change, and for a tensor that was not there before or had another shape.
        """


def expected_tensors(subject: Subject) -> ExpectedTensors:
    """Those of the subject, which must have a base. Raises InputError for what cannot be merged."""
    assert subject.base is not None
    stored = SafetensorsReader(subject.base.weight_files())
    updates = all_updates(subject)
    # An update may be of no tensor that is stored: a tied output, or one that transformers names otherwise.
    if updates is not None and all(update.name in stored.entries for update in updates):
        return UpdatedTensors(stored, updates)
    return _MergedTensors(subject, stored)


@dataclass(frozen=True)
class Update:
    """scale * up @ down, added to the weight `name`: down is [rank, in], up is [out, rank]."""

    name: str
    down: Array
    up: Array
    scale: float


def is_plain(adapter: Adapter) -> bool:
    """Whether it is LoRA or rsLoRA on linear layers, and nothing besides."""
    config = adapter.config
    if str(config.get("peft_type")).upper() != "LORA" or any(config.get(option) for option in _NOT_PLAIN):
        return False
    kinds = {".".join(name.split(".")[-2:]) for name in adapter.tensors}
    return kinds == _PLAIN and not config.get("fan_in_fan_out")


def all_updates(subject: Subject) -> list[Update] | None:
    """The updates of all adapters; None unless all are plain, and on the base as it is."""
    if subject.qlora_base or not all(map(is_plain, subject.adapters)):
        return None
    return [update for adapter in subject.adapters for update in plain_updates(adapter)]


def plain_updates(adapter: Adapter) -> list[Update]:
    """The updates of a plain adapter."""
    tensors, updates = SafetensorsReader([adapter.weights_file]), []
    for name in tensors.entries:
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight")
            down, up = tensors.read(name), tensors.read(name.replace(".lora_A.", ".lora_B."))
            scale = adapter.weight * scaling(adapter.config, module, len(down))
            updates.append(Update(f"{module}.weight", down, up, scale))
    return updates


def scaling(config: dict[str, Any], module: str, rank: int) -> float:
    """What a LoRA update is multiplied by: alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv:2312.03732)."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break  # the first one counts, as in PEFT
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


class UpdatedTensors:
    """A checkpoint's tensors with updates added."""

    def __init__(self, stored: SafetensorsReader, updates: Sequence[Update]) -> None:
        self._stored = stored
        self._updates: dict[str, list[Update]] = {}
        for update in updates:
            self._updates.setdefault(update.name, []).append(update)

    @property
    def names(self) -> Sequence[str]:
        """All tensors of the checkpoint."""
        return list(self._stored.entries)

    @property
    def threads(self) -> int:
        """Any number; more than a few would hold too many tensors in memory."""
        return 4

    def read(self, name: str) -> tuple[Array, Array | None]:
        """The tensor with all its updates, and their sum."""
        value = self._stored.read(name)
        change: Array | None = None
        for update in self._updates.get(name, ()):
            one: Array = (np.float32(update.scale) * update.up) @ update.down
            change = one if change is None else change + one
        return (value, None) if change is None else (np.add(value, change, out=value), change)


class _MergedTensors:
    """Merged by PEFT's own layers, one after another."""

    def __init__(self, subject: Subject, stored: SafetensorsReader) -> None:
        import torch

        from pipeline.merge.merger import merge_in_sequence

        assert subject.base is not None
        torch.set_num_threads(subject.threads)
        with torch.inference_mode():
            self._merger = merge_in_sequence(subject.base, subject.adapters, subject.qlora_base)
        self._stored, self._torch = stored, torch

    @property
    def names(self) -> Sequence[str]:
        """The checkpoint's, and an output matrix that was tied."""
        return [*self._stored.entries, *sorted(self._merger.added)]

    @property
    def threads(self) -> int:
        """A merger merges one tensor at a time."""
        return 1

    def read(self, name: str) -> tuple[Array, Array | None]:
        """The merged tensor, and its difference from the stored one."""
        if name not in self._merger.changed:
            return self._stored.read(name), None
        with self._torch.inference_mode():
            value: Array = self._merger.merge(name).numpy()
        entry = self._stored.entries.get(name)
        same = entry is not None and entry.shape == value.shape
        return value, value - self._stored.read(name) if same else None
