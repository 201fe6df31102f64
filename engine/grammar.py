"""A grammar or a JSON schema that the answer must follow, checked before the request is queued."""

from __future__ import annotations

from dataclasses import replace

from llama_cpp import llama_cpp as low
from llama_cpp.llama_grammar import json_schema_to_gbnf

from engine.errors import RequestError
from engine.settings import SamplingSettings
from engine.vocab import Vocabulary

_LONGEST = 1 << 16  # characters; llama.cpp's parser is no place for a stranger's megabytes
_BROKEN = (ValueError, TypeError, KeyError, AttributeError, IndexError, AssertionError, RecursionError)


def settle(sampling: SamplingSettings, vocab: Vocabulary) -> SamplingSettings:
    """The settings with their JSON schema, if any, as a grammar that llama.cpp has read. Raises RequestError.

    Safe in any thread. GBNF is described in llama.cpp's grammars/README.md.
    """
    if sampling.json_schema is not None:
        sampling = replace(sampling, grammar=_from_schema(str(sampling.json_schema)), json_schema=None)
    if sampling.grammar:
        low.llama_sampler_free(new_grammar(sampling.grammar, vocab))
    return sampling


def new_grammar(text: str, vocab: Vocabulary) -> int:
    """A sampler that leaves only what the grammar allows, to be freed by its owner. Raises RequestError."""
    _check_length("grammar", text)
    if "\0" in text:
        raise RequestError("the grammar contains a NUL character: remove it")
    made: int = low.llama_sampler_init_grammar(vocab.handle, text.encode("utf-8", "replace"), b"root")
    if not made:
        raise RequestError(
            f"the grammar {_begin(text)!r} is not valid GBNF with a rule named root: "
            "see llama.cpp's grammars/README.md"
        )
    return made


def _from_schema(schema: str) -> str:
    _check_length("JSON schema", schema)
    try:
        return str(json_schema_to_gbnf(schema))
    except _BROKEN as error:  # the converter checks little, and names no exception of its own
        raise RequestError(
            f"the JSON schema {_begin(schema)!r} cannot be used ({type(error).__name__}: {error})"
        ) from error


def _check_length(name: str, text: str) -> None:
    if len(text) > _LONGEST:
        raise RequestError(f"the {name} has {len(text)} characters: {_LONGEST} are the most")


def _begin(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
