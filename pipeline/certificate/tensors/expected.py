"""The expected tensors of a tuned model: the base's with its adapters' changes.

Plain LoRA and rsLoRA are computed in numpy from the formula W + scale * B A, independently of the export,
which uses PEFT. All other adapters are merged by PEFT's layers (pipeline.merge.merger, which tests hold equal
to merge_and_unload); then only errors in names, order, types or the file can be found.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ggufio.ggml_reader import Array
from pipeline.certificate.subject import Subject
from pipeline.sources.adapter import PEFT_PREFIX, Adapter
from pipeline.sources.model_source import Source
from pipeline.sources.safetensors_reader import SafetensorsReader
from pipeline.sources.ternary import TernaryFormat, ternary_format

_PLAIN_PARAMETERS = {"lora_A.weight", "lora_B.weight"}
_NOT_PLAIN = ("use_dora", "modules_to_save", "target_parameters", "trainable_token_indices", "lora_bias")


class ExpectedTensors(Protocol):
    """The tensors of a tuned model under the checkpoint's names, in float32."""

    @property
    def names(self) -> Sequence[str]:
        """All of them, in order."""

    @property
    def changed(self) -> frozenset[str]:
        """Those that differ from the checkpoint's."""

    @property
    def max_threads(self) -> int:
        """The number of threads that may call `read` at the same time."""

    def dtype(self, name: str) -> str:
        """Return the type in which the checkpoint has a tensor (safetensors: BF16), "" if it has it not."""

    def read(self, name: str) -> tuple[Array, Array | None]:
        """Return a tensor of the tuned model and its change by the tuning, in the same shape.

        The change is None for a tensor that is unchanged, is new, or had another shape in the base.
        """


def expected_tensors(subject: Subject) -> ExpectedTensors:
    """Return those of the subject, which must have a base. Raises InputError for unmergeable adapters."""
    assert subject.base is not None
    stored = SafetensorsReader(subject.base.weight_files())
    if (form := ternary_format(subject.base)) is not None:
        return _TernaryTensors(subject.base, form, stored)
    updates = all_updates(subject)
    # The updated tensor may be missing in the file: a tied output, or one that transformers renames.
    if updates is not None and all(update.name in stored.tensors for update in updates):
        return UpdatedTensors(stored, updates)
    return _MergedTensors(subject, stored)


@dataclass(frozen=True)
class Update:
    """A low-rank update of the weight `name`: scale * up @ down, with down [rank, in] and up [out, rank]."""

    name: str
    down: Array
    up: Array
    scale: float


def is_plain(adapter: Adapter) -> bool:
    """Return whether the adapter is LoRA or rsLoRA on linear layers, without any other feature."""
    config = adapter.config
    if str(config.get("peft_type")).upper() != "LORA" or any(config.get(option) for option in _NOT_PLAIN):
        return False
    parameters = {".".join(name.split(".")[-2:]) for name in adapter.tensors}
    return parameters == _PLAIN_PARAMETERS and not config.get("fan_in_fan_out")


def all_updates(subject: Subject) -> list[Update] | None:
    """Return the updates of all adapters; None unless all are plain and the base is not loaded in 4 bits."""
    if subject.rounding or not all(map(is_plain, subject.adapters)):
        return None
    return [update for adapter in subject.adapters for update in plain_updates(adapter)]


def plain_updates(adapter: Adapter) -> list[Update]:
    """Return the updates of a plain adapter."""
    file, updates = SafetensorsReader([adapter.weights_file]), []
    for name in file.tensors:
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight")
            down, up = file.read(name), file.read(name.replace(".lora_A.", ".lora_B."))
            scale = adapter.weight * scaling(adapter.config, module, len(down))
            updates.append(Update(f"{module}.weight", down, up, scale))
    return updates


def scaling(config: dict[str, Any], module: str, rank: int) -> float:
    """Return the scale of a LoRA update: alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv:2312.03732)."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break  # the first match wins, as in PEFT
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


class UpdatedTensors:
    """A checkpoint's tensors with low-rank updates added."""

    def __init__(self, stored: SafetensorsReader, updates: Sequence[Update]) -> None:
        """Take the checkpoint's files, and all updates of its tensors."""
        self._stored = stored
        self._updates: dict[str, list[Update]] = {}
        for update in updates:
            self._updates.setdefault(update.name, []).append(update)

    @property
    def names(self) -> Sequence[str]:
        """All tensors of the checkpoint."""
        return list(self._stored.tensors)

    @property
    def changed(self) -> frozenset[str]:
        """The tensors with updates."""
        return frozenset(self._updates)

    @property
    def max_threads(self) -> int:
        """Any number is safe; more than a few would hold too many tensors in memory."""
        return 4

    def dtype(self, name: str) -> str:
        """Return the type in which the checkpoint has the tensor."""
        return self._stored.tensors[name].dtype

    def read(self, name: str) -> tuple[Array, Array | None]:
        """Return the tensor with all its updates, and their sum."""
        value = self._stored.read(name)
        delta: Array | None = None
        for update in self._updates.get(name, ()):
            one: Array = (np.float32(update.scale) * update.up) @ update.down
            delta = one if delta is None else delta + one
        return (value, None) if delta is None else (np.add(value, delta, out=value), delta)


class _MergedTensors:
    """A checkpoint's tensors with adapters merged by PEFT's layers, one after another."""

    def __init__(self, subject: Subject, stored: SafetensorsReader) -> None:
        import torch

        from pipeline.merge.merger import merge_in_sequence

        assert subject.base is not None
        torch.set_num_threads(subject.threads)
        with torch.inference_mode():
            self._merger = merge_in_sequence(subject.base, subject.adapters, subject.rounding)
        self._stored, self._torch = stored, torch

    @property
    def names(self) -> Sequence[str]:
        """The checkpoint's tensors, and an output matrix that was tied."""
        return [*self._stored.tensors, *sorted(self._merger.added)]

    @property
    def changed(self) -> frozenset[str]:
        """The tensors that the merge changes or adds."""
        return self._merger.changed

    @property
    def max_threads(self) -> int:
        """The merger is not thread-safe."""
        return 1

    def dtype(self, name: str) -> str:
        """Return the type in which the checkpoint has the tensor, "" for one that the merge added."""
        stored = self._stored.tensors.get(name)
        return stored.dtype if stored is not None else ""

    def read(self, name: str) -> tuple[Array, Array | None]:
        """Return the merged tensor, and its difference from the stored one."""
        if name not in self._merger.changed:
            return self._stored.read(name), None
        with self._torch.inference_mode():
            value: Array = self._merger.merge(name).numpy()
        stored = self._stored.tensors.get(name)
        same = stored is not None and stored.shape == value.shape
        return value, value - self._stored.read(name) if same else None


class _TernaryTensors:
    """A ternary checkpoint's tensors as its three values, which no adapter changes."""

    max_threads = 4
    changed: frozenset[str] = frozenset()

    def __init__(self, base: Source, form: TernaryFormat, stored: SafetensorsReader) -> None:
        from pipeline.merge.checkpoint import Checkpoint
        from pipeline.merge.ternary import TernaryTensors

        self._tensors = TernaryTensors(base, Checkpoint(base.weight_files()), form)
        self._stored = stored

    @property
    def names(self) -> Sequence[str]:
        """The checkpoint's tensors without the scales."""
        return list(self._tensors.shapes)

    def dtype(self, name: str) -> str:
        """Return the type in which the checkpoint has the tensor, "" for three values."""
        return "" if name in self._tensors.changed else self._stored.tensors[name].dtype

    def read(self, name: str) -> tuple[Array, Array | None]:
        """Return the tensor, and no change."""
        value: Array = self._tensors.read(name).float().numpy()
        return value, None
