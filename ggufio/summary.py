"""What a GGUF file is, by its metadata and its tensors' types rather than by its name. Needs no llama.cpp."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ggufio.errors import GgufError
from ggufio.untrusted_reader import Scalar, read_types

PLAIN = ("F32", "F16", "BF16", "F64")
"""The types of weights that are not quantized."""

# enum llama_ftype
_FILE_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S"},
    **{12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K"},
    **{19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL"},
    **{26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16"},
    **{36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4"},
}
# enum ggml_type
_TENSOR_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K"},
    **{12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S"},
    **{20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 28: "F64", 29: "IQ1_M", 30: "BF16"},
    **{34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4"},
}
_ENCODERS = (
    *("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert"),
    *("eurobert", "gemma-embedding", "t5encoder"),
)
_GUESSED = 1024  # LLAMA_FTYPE_GUESSED, a flag


@dataclass(frozen=True)
class Summary:
    """The metadata without arrays, and the count of weights by the number of their type (ggml_type)."""

    metadata: dict[str, Scalar]
    weights: dict[int, int]

    @property
    def architecture(self) -> str:
        """The value of general.architecture."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def weights_type(self) -> str | None:
        """The type of its weights, as in Q4_K_M; None when neither metadata nor tensors say it.

        Most of the weights decide whether they are quantized, and general.file_type names the mixture.
        """
        most = max(self.weights, key=lambda kind: self.weights[kind], default=None)
        of_tensors = None if most is None else _TENSOR_TYPES.get(most, f"type {most}")
        number = self.metadata.get("general.file_type")
        named = _FILE_TYPES.get(number & ~_GUESSED) if isinstance(number, int) else None
        if of_tensors is None:
            return named
        return of_tensors if named is None or (of_tensors in PLAIN) != (named in PLAIN) else named

    @property
    def no_model(self) -> str | None:
        """What it is, when it is no model: "a LoRA adapter"; else None."""
        kind = str(self.metadata.get("general.type", "model"))
        if kind == "adapter":
            return "a LoRA adapter"
        if kind == "mmproj" or self.architecture == "clip":
            return "the image or audio encoder of another model (mmproj)"
        if kind == "imatrix":
            return "an importance matrix"
        if self.architecture == "controlvector":
            return "a control vector"
        return "a vocabulary without weights" if self.is_vocabulary else None

    @property
    def is_vocabulary(self) -> bool:
        """Whether it has a tokenizer and no weights, nor further shards with them."""
        shards = self.metadata.get("split.count", 1)
        return self.metadata.get("general.type") == "vocab" or (
            not self.weights and isinstance(shards, int) and shards <= 1
        )

    @property
    def no_chat(self) -> str | None:
        """The kind of a model that writes no text word after word: "an encoder-decoder (t5)"; else None."""
        name = self.architecture
        pooling = self.metadata.get(f"{name}.pooling_type", 0)
        if name == "t5":
            return "an encoder-decoder (t5)"
        if name in _ENCODERS or self.metadata.get(f"{name}.attention.causal") is False:
            return f"an embedding (encoder) model ({name})"
        if isinstance(pooling, int) and 1 <= pooling <= 4:  # LLAMA_POOLING_TYPE_MEAN to _RANK
            return f"an embedding model ({name}, pooling_type {pooling})"
        return None


def summarize(path: Path) -> Summary | None:
    """Return the summary of a file; None for one that is not readable, which other readers report."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _summarize(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _summarize(path: Path, size: int, changed: int) -> Summary | None:
    try:
        metadata, tensors = read_types(path)
    except GgufError:
        return None
    weights: Counter[int] = Counter()
    for kind, shape in tensors:
        if len(shape) > 1:
            weights[kind] += math.prod(shape)
    scalars = {key: value for key, value in metadata.items() if isinstance(value, str | int | float | bool)}
    return Summary(scalars, dict(weights))
