"""Map a checkpoint's tensors to those of a GGUF, with the changes that llama.cpp's converter makes to them.

Written independently of the converter: a check by the same code would not find the converter's errors. The
names are those of gguf's table.
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


# In these architectures llama.cpp's RoPE rotates neighbouring pairs (NORM), transformers' rotates halves.
_PERMUTED = {"llama", "granite", "granitemoe", "minicpm", "olmo", "smollm3", "deci", "deepseek", "xverse"}
_SHIFTED = {"gemma", "gemma2", "gemma3"}  # norms multiply by 1 + w in transformers
_TRANSPOSED = {"gpt2"}  # Conv1D stores [in, out]
_PLAIN = {
    *("phi3", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "olmo2", "stablelm", "starcoder2"),
    *("internlm2", "orion", "pangu-embedded"),
}
KNOWN = _PERMUTED | _SHIFTED | _TRANSPOSED | _PLAIN
"""The architectures that are fully described here; for others a difference proves nothing."""


@dataclass(frozen=True)
class GgufLocation:
    """A tensor of a GGUF, or one expert's part of it."""

    tensor: str
    expert: int | None = None


class TensorMap:
    """The tensors of one architecture: their locations, and the converter's changes."""

    def __init__(self, architecture: str, config: Mapping[str, Any]) -> None:
        """Take general.architecture of the GGUF, and the text model's part of config.json."""
        try:
            import gguf
        except ImportError as error:
            raise MissingPackage("gguf") from error
        numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
        blocks = int(config.get("num_hidden_layers") or config.get("n_layer") or 0)
        known = architecture in numbers
        self._names = gguf.get_tensor_name_map(numbers[architecture], blocks) if known else None
        self._architecture = architecture
        self._query_heads = int(config.get("num_attention_heads") or config.get("n_head") or 1)
        self._key_heads = _key_heads(config, self._query_heads, blocks)
        self.is_known = architecture in KNOWN

    def location(self, name: str) -> GgufLocation | None:
        """Return the location of the checkpoint's tensor `name`; None when gguf's table lacks it."""
        if self._names is None:
            return None
        expert = _EXPERT.search(name)
        plain = _EXPERT.sub(".experts.", name)
        tensor = self._names.get_name(plain, try_suffixes=(".weight", ".bias"))
        return GgufLocation(tensor, int(expert[1]) if expert else None) if tensor else None

    def converted(self, location: GgufLocation, value: Array) -> Array:
        """Return the checkpoint's tensor with the converter's changes, as the GGUF must hold it."""
        if self._rule(location, value.ndim) == "shifted":
            return value + 1
        return self.reordered(location, value)

    def reordered(self, location: GgufLocation, value: Array) -> Array:
        """Return the elements in the GGUF's order, unchanged otherwise: for the difference of two tensors."""
        rule = self._rule(location, value.ndim)
        if rule == "permuted":
            return permuted(value, self._heads(location))
        return value.T if rule == "transposed" else value

    def is_transposed(self, location: GgufLocation) -> bool:
        """Return whether the checkpoint has the matrix transposed, as [in, out]."""
        return self._rule(location, 2) == "transposed"

    def known_mistakes(self, location: GgufLocation, value: Array) -> Iterator[tuple[str, Array]]:
        """Yield the tensor as known mistakes would write it, each with the signature of its cause."""
        rule, heads = self._rule(location, value.ndim), self._heads(location)
        if heads:
            yield "permutation", value if rule == "permuted" else permuted(value, heads)
            yield "permutation", permuted(self.converted(location, value), heads)
        if rule == "shifted":
            yield "norm_shift", value
        if value.ndim == 2 and value.shape[0] == value.shape[1]:
            yield "transposed", self.converted(location, value).T

    def _heads(self, location: GgufLocation) -> int:
        """Return the number of heads of a tensor of queries or keys; 0 for all others."""
        part, block = _part(location), re.match(r"blk\.(\d+)\.", location.tensor)
        if part == "attn_q":
            return self._query_heads
        return self._key_heads[int(block[1])] if part == "attn_k" and block else 0

    def _rule(self, location: GgufLocation, dimensions: int) -> Rule:
        part = _part(location)
        if self._architecture in _PERMUTED and part in ("attn_q", "attn_k"):
            return "permuted"
        if self._architecture in _SHIFTED and "norm" in part:
            return "shifted"
        if self._architecture in _TRANSPOSED and dimensions == 2 and part.startswith(("attn", "ffn")):
            return "transposed"
        return "same"


def _key_heads(config: Mapping[str, Any], heads: int, blocks: int) -> list[int]:
    """Return the number of heads of the keys in each block, which differ in DeciLM."""
    if listed := config.get("num_key_value_heads_per_layer"):
        return [int(number) for number in listed]
    if described := config.get("block_configs"):
        groups = [block["attention"]["n_heads_in_group"] for block in described]
        return [heads // group if group else 0 for group in groups]
    return [int(config.get("num_key_value_heads") or heads)] * blocks


def _part(location: GgufLocation) -> str:
    """Return "attn_q" for blk.0.attn_q.weight."""
    return location.tensor.split(".")[-2]


def permuted(value: Array, heads: int) -> Array:
    """Reorder each head's rows from halves to interleaved pairs: [heads * dim, ...] in the same shape."""
    shape = value.shape
    halves = value.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
    return halves.swapaxes(1, 2).reshape(shape)
