"""Where a checkpoint's tensors stand in a GGUF, and what llama.cpp's converter makes of their numbers.

A description of its own, not the converter's code: a check by the same code would find its own errors right.
The names are those of gguf's table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from common.errors import MissingPackage
from ggufio.ggml_reader import Array

Rule = Literal["same", "permuted", "shifted", "transposed"]
_EXPERT = re.compile(r"\.experts\.(\d+)\.")


# llama.cpp turns pairs of neighbours where transformers turns halves, in these architectures (NORM rope).
_PERMUTED = {"llama", "granite", "granitemoe", "minicpm", "olmo", "smollm3", "deci"}
_SHIFTED = {"gemma", "gemma2", "gemma3"}  # norms multiply by 1 + w in transformers
_TRANSPOSED = {"gpt2"}  # Conv1D keeps [in, out]
_PLAIN = {"phi3", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "olmo2", "stablelm", "starcoder2"}
KNOWN = _PERMUTED | _SHIFTED | _TRANSPOSED | _PLAIN
"""The architectures whose every tensor is told here; of others, what does not fit proves nothing."""


@dataclass(frozen=True)
class GgufLocation:
    """A tensor of a GGUF, or of one of its experts."""

    tensor: str
    expert: int | None = None


class TensorMap:
    """The tensors of one architecture: places, and the converter's changes."""

    def __init__(self, architecture: str, config: Mapping[str, Any]) -> None:
        """`architecture` is general.architecture of the GGUF, `config` the text model's config.json."""
        try:
            import gguf
        except ImportError as error:
            raise MissingPackage("gguf") from error
        numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
        blocks = int(config.get("num_hidden_layers") or config.get("n_layer") or 0)
        known = architecture in numbers
        self._names = gguf.get_tensor_name_map(numbers[architecture], blocks) if known else None
        self._architecture = architecture
        heads = int(config.get("num_attention_heads") or config.get("n_head") or 1)
        self._heads = {"attn_q": heads, "attn_k": int(config.get("num_key_value_heads") or heads)}
        self.is_known = architecture in KNOWN

    def place(self, name: str) -> GgufLocation | None:
        """Where the checkpoint's tensor `name` stands, None when the table does not say."""
        if self._names is None:
            return None
        expert = _EXPERT.search(name)
        plain = _EXPERT.sub(".experts.", name)
        found = self._names.get_name(plain, try_suffixes=(".weight", ".bias"))
        return GgufLocation(found, int(expert[1]) if expert else None) if found else None

    def converted(self, place: GgufLocation, value: Array) -> Array:
        """The numbers as they must stand in the GGUF."""
        return value + 1 if self._rule(place, value.ndim) == "shifted" else self.reordered(place, value)

    def reordered(self, place: GgufLocation, value: Array) -> Array:
        """The numbers in the GGUF's order, and else as they are: a difference of two tensors, for one."""
        rule = self._rule(place, value.ndim)
        if rule == "permuted":
            return permuted(value, self._heads[_part(place)])
        return value.T if rule == "transposed" else value

    def mistaken(self, place: GgufLocation, value: Array) -> Iterator[tuple[str, Array]]:
        """What would stand there after a known mistake, with the signature of its cause."""
        rule, heads = self._rule(place, value.ndim), self._heads.get(_part(place))
        if heads:
            yield "permutation", value if rule == "permuted" else permuted(value, heads)
            yield "permutation", permuted(self.converted(place, value), heads)
        if rule == "shifted":
            yield "norm_shift", value
        if value.ndim == 2 and value.shape[0] == value.shape[1]:
            yield "transposed", self.converted(place, value).T

    def _rule(self, place: GgufLocation, dimensions: int) -> Rule:
        part = _part(place)
        if self._architecture in _PERMUTED and part in self._heads:
            return "permuted"
        if self._architecture in _SHIFTED and "norm" in part:
            return "shifted"
        if self._architecture in _TRANSPOSED and dimensions == 2 and part.startswith(("attn", "ffn")):
            return "transposed"
        return "same"


def _part(place: GgufLocation) -> str:
    """attn_q of blk.0.attn_q.weight."""
    return place.tensor.split(".")[-2]


def permuted(value: Array, heads: int) -> Array:
    """Rows of halves -> rows of neighbours, head by head: [heads * dim, ...] in the same shape."""
    shape = value.shape
    halves = value.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
    return halves.swapaxes(1, 2).reshape(shape)
