"""Constrained decoding: an answer follows a JSON schema (llguidance) or a GBNF grammar (llama.cpp)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary, ref

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from engine.config import SamplingParams
from engine.errors import RequestError, TooSlow
from engine.llama.grammar import Grammar, begin, check_grammar, check_length
from engine.llama.json_schema import supported_schema
from engine.llama.tokenizer import LlamaTokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions  # it exists only in the stubs


class Constraint(Protocol):
    """The state of one answer. Calls may raise TooSlow, after which only `close` is allowed."""

    def accept(self, token: int) -> bool:
        """Advance by the token; return False, without a change, if it is not allowed."""
        ...

    def apply_mask(self, data: NDArray[np.void]) -> None:
        """Set the logits of candidates (the whole vocabulary in order) that are not allowed to -inf."""
        ...

    def close(self) -> None:
        """Free the state."""
        ...


def compile_constraint(sampling: SamplingParams, vocab: LlamaTokenizer) -> SamplingParams:
    """Return the settings with a schema or grammar that `new_constraint` takes. Safe from any thread.

    Raises RequestError, which names what is not enforced, and QueueFull while an abandoned grammar runs.
    """
    if sampling.json_schema is None:
        if sampling.grammar:
            check_grammar(sampling.grammar, vocab)
        return sampling
    text = str(sampling.json_schema)
    check_length("the JSON schema", text)
    try:
        schema = supported_schema(text)
        SchemaMatcher(schema, vocab).check()
    except ValueError as error:
        raise RequestError(f"the JSON schema {begin(text)!r} {error}") from error
    return replace(sampling, json_schema=schema)


def new_constraint(sampling: SamplingParams, vocab: LlamaTokenizer) -> Constraint | None:
    """Return the constraint of compiled settings, which the caller closes; None without one."""
    if sampling.tool_grammar:
        return Matcher(sampling.tool_grammar, vocab)
    if sampling.json_schema is not None:
        return SchemaMatcher(str(sampling.json_schema), vocab)
    return Grammar(sampling.grammar, vocab) if sampling.grammar else None


# Whitespace as llama.cpp's schemas allow it: none, a space, or a new line with its indentation; not endless.
OPTIONS: JsonCompileOptions = {"whitespace_pattern": r" |\n{1,2}[ \t]{0,20}"}
_FUEL = 200_000  # of each stage of llguidance's work: at most some tenths of a second


class Matcher:
    """The state of one answer in a grammar of llguidance's.

    llguidance bounds the work for each token, so that untrusted schemas need no clock.
    """

    def __init__(self, grammar: str, vocab: LlamaTokenizer) -> None:
        limits = LLParserLimits(
            initial_lexer_fuel=_FUEL, step_lexer_fuel=_FUEL, max_items_in_row=20_000, verbose_errors=False
        )
        self._vocab, self._ends = vocab, vocab.eog_tokens  # _Vocabulary needs it alive
        self._matcher = LLMatcher(_tokenizer(vocab), grammar, log_level=0, limits=limits)

    def check(self) -> None:
        """Raise ValueError for a grammar that is not supported or allows nothing. Call it before the rest."""
        mask = b"" if self._matcher.is_error() else self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise ValueError(f"cannot be used ({_plain(self._matcher.get_error())})")
        if not any(mask):
            raise ValueError("allows no value at all: some reference leads back to itself")

    def accept(self, token: int) -> bool:
        """Advance by the token; return False, without a change, if the grammar does not allow it."""
        if token in self._ends:
            return bool(self._matcher.is_accepting())
        allowed = self._matcher.validate_tokens([token]) == 1
        if allowed:
            self._matcher.consume_token(token)
        self._check_limits()
        return allowed

    def apply_mask(self, data: NDArray[np.void]) -> None:
        """Set the logits of candidates that the grammar does not allow to -inf, in place."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check_limits()
        allowed = np.unpackbits(bits, count=len(data), bitorder="little").view(np.bool_)
        if not allowed.any():
            raise TooSlow
        data["logit"][~allowed] = -np.inf

    def close(self) -> None:
        """Do nothing: the matcher is freed with this object."""

    def _check_limits(self) -> None:
        if self._matcher.is_error():
            raise TooSlow


class SchemaMatcher(Matcher):
    """The state of one answer in its JSON schema, which is one of `supported_schema`."""

    def __init__(self, schema: str, vocab: LlamaTokenizer) -> None:
        if schema == "false":
            raise ValueError("allows no value at all")
        super().__init__(LLMatcher.grammar_from_json_schema(schema, overrides=OPTIONS), vocab)

    def check(self) -> None:
        """Raise ValueError for a schema that is not supported or allows nothing. Call it before the rest."""
        super().check()
        if self._matcher.is_accepting():
            raise ValueError("allows no value at all: some reference leads back to itself")


def _plain(message: str) -> str:
    """Return llguidance's message in one line, which names the keyword."""
    if message.startswith("oneOf"):
        return "oneOf: more than one of its schemas might match; use anyOf"
    if "regex parse error" in message:
        return f"pattern: {message.rpartition('error: ')[2]}"
    if "regex" in message.lower() and "range" not in message:
        message = f"pattern: {message}"
    return re.sub(r"\s+", " ", message.partition("<")[0])[:200].strip()


class _Vocabulary:
    """The tokens of a model as llguidance's TokenizerWrapper takes them.

    It does not keep the model's vocabulary alive, as it is kept for as long as that lives.
    """

    bos_token_id = None
    special_token_ids: Sequence[int] = ()

    def __init__(self, vocab: LlamaTokenizer) -> None:
        self._vocab = ref(vocab)
        self.tokens = [vocab.piece(token) for token in range(vocab.size)]
        self.ends = list(vocab.eog_tokens)
        if not self.ends:  # llguidance needs one
            self.tokens.append(b"")
            self.ends = [vocab.size]
        self.eos_token_id = self.ends[0]

    def __call__(self, text: bytes) -> list[int]:
        """Return the tokens of a text that the schema forces."""
        vocab = self._vocab()
        assert vocab is not None, "a Matcher keeps it"
        return vocab.continue_text(text.decode("utf-8", "replace"), special=False)


_tokenizers: WeakKeyDictionary[LlamaTokenizer, LLTokenizer] = WeakKeyDictionary()


def _tokenizer(vocab: LlamaTokenizer) -> LLTokenizer:
    """Return llguidance's tokenizer of a vocabulary, built once: 0.1 to 1 s and up to 100 MB."""
    if (found := _tokenizers.get(vocab)) is None:
        tokens = _Vocabulary(vocab)
        wrapper = TokenizerWrapper(tokens)
        found = LLTokenizer(wrapper, eos_token=tokens.ends, slices=LLTokenizer.json_slices())
        _tokenizers[vocab] = found
    return found
