"""A grammar or a JSON schema that the answer must follow, checked before the request is queued."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from functools import partial

import numpy as np
from llama_cpp import llama_cpp as low
from numpy.typing import NDArray

from engine.candidates import as_array, one_token
from engine.clocked import ClockedThread
from engine.errors import QueueFull, RequestError
from engine.json_schema import grammar_of
from engine.native import silent_stderr
from engine.settings import SamplingSettings
from engine.vocab import Vocabulary

_LONGEST = 1 << 16  # characters; llama.cpp's parser is no place for a stranger's megabytes
_MOST_BRACKETS = 1 << 13  # it calls itself for each one inside another, and 30,000 end the process
_SECONDS = 2.0  # what a grammar may cost one answer, and so all others; usual are milliseconds


def settle(sampling: SamplingSettings, vocab: Vocabulary) -> SamplingSettings:
    """The settings with their JSON schema, if any, as a grammar that llama.cpp has read.

    Raises RequestError, and QueueFull while another one, which took too long, still runs. Safe in any thread.
    GBNF is described in llama.cpp's grammars/README.md.
    """
    text, name = sampling.grammar, f"the grammar {_begin(sampling.grammar)!r}"
    if sampling.json_schema is not None:
        schema = str(sampling.json_schema)
        text, name = _from_schema(schema), f"the JSON schema {_begin(schema)!r}"
    if not text:
        return sampling
    if ClockedThread.busy():
        raise QueueFull("an earlier grammar or schema takes very long: try again later, or without one")
    with silent_stderr():  # where llama.cpp prints all of what it refuses
        low.llama_sampler_free(_read(text, vocab, name))
    return replace(sampling, grammar=text, json_schema=None)


def new_grammar(text: str, vocab: Vocabulary) -> int:
    """A sampler that leaves only what the grammar allows, to be freed by its owner. Raises RequestError."""
    return _read(text, vocab, f"the grammar {_begin(text)!r}")


def _read(text: str, vocab: Vocabulary, name: str) -> int:
    _check_length(f"{name} as a grammar", text)
    if "\0" in text:
        raise RequestError(f"{name} contains a NUL character: remove it")
    if (brackets := text.count("(")) > _MOST_BRACKETS:
        raise RequestError(
            f"{name} has {brackets} opening brackets as a grammar: {_MOST_BRACKETS} are the most"
        )
    made: int = low.llama_sampler_init_grammar(vocab.handle, text.encode("utf-8", "replace"), b"root")
    if not made:
        raise RequestError(
            f"{name} is not valid GBNF with a rule named root: see llama.cpp's grammars/README.md"
        )
    return made


class Grammar:
    """Where one answer stands in its grammar.

    llama.cpp follows all ways to read an answer at once. The pattern ((a?){0,30}){0,30} has so many that one
    token takes minutes, in C, where no cancel reaches it. Nothing that is easy to count foretells
    that, so there is a clock. Each call may raise TooSlow, after which only `close` may follow.
    """

    def __init__(self, text: str, vocab: Vocabulary) -> None:
        self._sampler = new_grammar(text, vocab)
        self._thread = ClockedThread(_SECONDS)

    def take(self, token: int) -> bool:
        """Go on to where the token leads; False, and nothing is changed, if the grammar does not allow it."""
        return self._thread.call(partial(_take, self._sampler, token))

    def mask(self, data: NDArray[np.void]) -> None:
        """Leave only what the grammar allows among the candidates (see engine.candidates)."""
        self._thread.call(partial(_apply, self._sampler, data))

    def close(self) -> None:
        """Free it, at once or when its last call has ended."""
        self._thread.close(partial(low.llama_sampler_free, self._sampler))


def _take(sampler: int, token: int) -> bool:
    _apply(sampler, data := one_token(token))
    allowed = bool(data["logit"][0] != -np.inf)
    if allowed:
        low.llama_sampler_accept(sampler, token)
    return allowed


def _apply(sampler: int, data: NDArray[np.void]) -> None:
    low.llama_sampler_apply(sampler, ctypes.byref(as_array(data)))


def _from_schema(schema: str) -> str:
    _check_length("the JSON schema", schema)
    try:
        return grammar_of(schema)
    except ValueError as error:
        raise RequestError(f"the JSON schema {_begin(schema)!r} {error}") from error


def _check_length(name: str, text: str) -> None:
    if len(text) > _LONGEST:
        raise RequestError(f"{name} has {len(text)} characters: {_LONGEST} are the most")


def _begin(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
