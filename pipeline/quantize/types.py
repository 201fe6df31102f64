"""Quantization types of files (Q4_K_M, ...), types of single tensors by name, and sizes of shards."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ggufio.ggml import block_size
from pipeline.errors import InputError


@dataclass(frozen=True)
class QuantType:
    """A quantization type: its name, llama.cpp's `llama_ftype`, and roughly its bits per weight.

    The bits are llama.cpp's figures for Llama-3.1-8B (tools/quantize/README.md), rounded up, for checking
    beforehand that the disk is large enough.
    """

    name: str
    ftype: int
    bits: float
    needs_imatrix: bool = False


_TYPES = {
    quant.name: quant
    for quant in (
        QuantType("IQ1_S", 24, 2.1, needs_imatrix=True),
        QuantType("IQ1_M", 31, 2.2, needs_imatrix=True),
        QuantType("IQ2_XXS", 19, 2.4, needs_imatrix=True),
        QuantType("IQ2_XS", 20, 2.6, needs_imatrix=True),
        QuantType("IQ2_S", 28, 2.8, needs_imatrix=True),
        QuantType("IQ2_M", 29, 3.0, needs_imatrix=True),
        QuantType("Q2_K_S", 21, 3.3, needs_imatrix=True),
        QuantType("IQ3_XXS", 23, 3.3, needs_imatrix=True),
        QuantType("IQ3_XS", 22, 3.6, needs_imatrix=True),
        QuantType("Q2_K", 10, 3.5),
        QuantType("Q3_K_S", 11, 3.9),
        QuantType("Q3_K_M", 12, 4.3),
        QuantType("Q3_K_L", 13, 4.6),
        QuantType("IQ3_S", 26, 4.0),
        QuantType("IQ3_M", 27, 4.1),
        QuantType("IQ4_XS", 30, 4.7),
        QuantType("IQ4_NL", 25, 4.9),
        QuantType("Q4_0", 2, 4.9),
        QuantType("Q4_1", 3, 5.3),
        QuantType("Q4_K_S", 14, 5.0),
        QuantType("Q4_K_M", 15, 5.2),
        QuantType("Q5_0", 8, 5.8),
        QuantType("Q5_1", 9, 6.2),
        QuantType("Q5_K_S", 16, 5.9),
        QuantType("Q5_K_M", 17, 6.0),
        QuantType("Q6_K", 18, 7.0),
        QuantType("Q8_0", 7, 8.8),
        QuantType("TQ1_0", 36, 3.6),
        QuantType("TQ2_0", 37, 3.9),
    )
}
TERNARY = ("TQ1_0", "TQ2_0")
"""The types of three values, for models whose weights have no others. Embeddings and output stay in F16."""
AUTO = "AUTO"
"""The name for the type that pipeline.exporter.auto_quant chooses among CANDIDATES."""
CANDIDATES = ("Q3_K_M", "IQ4_XS", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
PREFERENCES = ("size", "speed")


def ready_types(*, with_imatrix: bool) -> tuple[QuantType, ...]:
    """Return llama.cpp's own types of files that can be made with or without an importance matrix."""
    return tuple(quant for quant in _TYPES.values() if with_imatrix or not quant.needs_imatrix)


def quants_named(names: Iterable[str]) -> tuple[str, ...]:
    """Return the types' canonical names without duplicates, AUTO for "auto". Raises InputError."""
    return tuple(
        dict.fromkeys(AUTO if name.strip().upper() == AUTO else quant_type(name).name for name in names)
    )


def bits_needed(name: str) -> float:
    """Return the bits per weight that making this type may take on disk; AUTO may make every candidate."""
    return sum(quant_type(quant).bits for quant in (CANDIDATES if name == AUTO else (name,)))


def quant_type(name: str, option: str = "--quant") -> QuantType:
    """Return the type of that name, in any case. Raises InputError that suggests similar names."""
    key = name.strip().upper()
    if key in _TYPES:
        return _TYPES[key]
    if key in {"F16", "BF16", "F32"}:
        raise InputError(f"{option} {name} is not a quantization: use --outtype {name.lower()} --keep-f16")
    near = difflib.get_close_matches(key, _TYPES, n=3, cutoff=0.5) or ["Q4_K_M", "Q5_K_M", "Q8_0"]
    raise InputError(
        f"{option} {name!r} is unknown: did you mean {', '.join(near)}? All: {', '.join(_TYPES)}"
    )


GGML_TYPES = (
    *("Q2_K", "Q3_K", "IQ3_S", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K"),
    *("Q8_0", "F16", "BF16", "F32"),
)
NEEDS_IMATRIX = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}
_OUTPUT = "output.weight"
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_NOT_QUANTIZED = ("_norm.weight", "ffn_gate_inp.weight")  # llama.cpp quantizes neither norms nor routers
# A piece of a pattern: a star, a question mark, a class such as [0-3] or [!0], or plain characters.
_PIECE = re.compile(r"(?P<star>\*)|(?P<one>\?)|\[(?P<not>!?)(?P<set>[\w.-]+)\]|(?P<plain>[\w.-]+)", re.ASCII)


@dataclass(frozen=True)
class TensorTypes:
    """The user's types for single tensors. `overrides` are patterns and types; the first match wins.

    `output` and `embedding` are the types of those two matrices; with `pure`, all others get the file's
    main type instead of llama.cpp's mixture.
    """

    overrides: tuple[tuple[str, str], ...] = ()
    output: str | None = None
    embedding: str | None = None
    pure: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the choices by the options' names, for the manifest and the fingerprint."""
        found = {
            "tensor_type": [f"{pattern}={name}" for pattern, name in self.overrides],
            "output_type": self.output,
            "embedding_type": self.embedding,
            "pure": self.pure,
        }
        return {option: value for option, value in found.items() if value}

    def check(self, widths: Mapping[str, int]) -> None:
        """Raise InputError for a choice that fits no tensor; `widths` are the matrices' row lengths."""
        names = [name for name in widths if name.endswith(".weight") and not name.endswith(_NOT_QUANTIZED)]
        for pattern, dtype in self.overrides:
            if not any(re.search(regex(pattern), name) for name in names):
                raise InputError(
                    f"--tensor-type {f'{pattern}={dtype}'!r} matches no tensor that is quantized: "
                    f"the model has {_examples(pattern, names)}"
                )
        if self.output and _OUTPUT not in widths and (self.pure or self.embedding):
            raise InputError(
                f"--output-type {self.output} has no tensor here: the model's output is its embeddings, "
                "use --embedding-type alone"
            )
        _check_rows("--output-type", self.output, [_OUTPUT], widths)
        _check_rows("--embedding-type", self.embedding, _EMBEDDINGS, widths)


MIXTURE = TensorTypes()
"""No choices: llama.cpp's mixture of types."""


def parse_tensor_types(
    overrides: Sequence[str], output: str | None, embedding: str | None, pure: bool
) -> TensorTypes:
    """Parse the options, checked as far as possible without a model. Raises InputError."""
    return TensorTypes(
        tuple(_override(text) for text in overrides),
        _type_name("--output-type", output) if output is not None else None,
        _type_name("--embedding-type", embedding) if embedding is not None else None,
        pure,
    )


def regex(pattern: str) -> str:
    """Translate a shell-like pattern into a regular expression for std::regex_search (and Python's re).

    It is anchored at both ends; the common suffix ".weight" may be omitted.
    """
    parts = [_piece(found) for found in _PIECE.finditer(pattern)]
    return f"^{''.join(parts)}(\\.weight)?$"


def _piece(found: re.Match[str]) -> str:
    if found["star"]:
        return ".*"
    if found["one"]:
        return "."
    if found["set"]:
        return f"[{'^' if found['not'] else ''}{found['set']}]"
    return found["plain"].replace(".", r"\.")


def _override(text: str) -> tuple[str, str]:
    pattern, found, dtype = text.rpartition("=")
    if not found or not pattern or "".join(m[0] for m in _PIECE.finditer(pattern)) != pattern:
        raise InputError(
            f"--tensor-type {text!r} is not PATTERN=TYPE: use a tensor's name, with * ? or [0-3] in it, "
            "as in 'blk.*.attn_v=q6_k'"
        )
    try:
        re.compile(regex(pattern))
    except re.error as error:
        raise InputError(f"--tensor-type {text!r}: {pattern!r} is no pattern: {error}") from None
    return pattern, _type_name(f"--tensor-type {text!r}:", dtype)


def _type_name(option: str, name: str) -> str:
    key = name.strip().upper()
    if key in GGML_TYPES:
        return key
    if key in NEEDS_IMATRIX:
        raise InputError(
            f"{option} {name} needs an importance matrix, without which its output is noise: "
            "use Q3_K, IQ4_XS or larger"
        )
    near = difflib.get_close_matches(key, GGML_TYPES, n=3, cutoff=0.5) or ["Q4_K", "Q6_K", "Q8_0"]
    raise InputError(
        f"{option} {name!r} is no type of a tensor: did you mean {', '.join(near)}? "
        f"All: {', '.join(GGML_TYPES)}"
    )


def _check_rows(option: str, dtype: str | None, names: Collection[str], widths: Mapping[str, int]) -> None:
    """Raise InputError where rows are no multiple of a block: llama.cpp would abort for these two options."""
    for name in names:
        if dtype is not None and widths.get(name, 0) % (block := block_size(dtype)):
            raise InputError(
                f"{option} {dtype} cannot hold {name}: its rows of {widths[name]} numbers are no multiple of "
                f"{block}; use Q8_0, Q5_1 or F16"
            )


def _examples(pattern: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or list(names[:3])
    return ", ".join(near)


_SIZE = re.compile(r"0*(?P<count>[1-9]\d*)(?P<unit>[MG])", re.IGNORECASE)
UNITS = {"M": 10**6, "G": 10**9}
"""The bytes of a size's unit, as in llama.cpp's gguf-split."""

_MAX_SHARDS = 65_535  # split.count has 16 bits


def parse_size(text: str) -> int:
    """Return the bytes of "2G" or "500M". Raises InputError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InputError(f"--split-max-size {text!r} is no size: use a number and M or G, as in 2G")
    return int(found["count"]) * UNITS[found["unit"].upper()]


def group(sizes: Mapping[str, int], limit: int | None) -> list[list[str]]:
    """Return the tensors' names in each shard, in order, as gguf-split does: up to `limit` bytes of data.

    Tensors are not cut: one that is larger than the limit has its own shard.
    """
    groups: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if limit is not None and groups[-1] and used + size > limit:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    if len(groups) > _MAX_SHARDS:
        raise InputError(
            f"--split-max-size makes {len(groups)} files, and llama.cpp counts to {_MAX_SHARDS}: use more"
        )
    return groups
