"""Constrained decoding by a GBNF grammar, with llama.cpp's sampler in a thread with a time budget."""

from __future__ import annotations

import ctypes
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from functools import partial
from typing import ClassVar, TypeVar

import numpy as np
from llama_cpp import llama_cpp as llama
from numpy.typing import NDArray

from engine.errors import QueueFull, RequestError, TooSlow
from engine.llama.library import silent_stderr
from engine.llama.tokenizer import LlamaTokenizer

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


def whole_vocabulary(logits: NDArray[np.float32]) -> NDArray[np.void]:
    """Return candidates for every token; `logits` are [vocabulary]."""
    data = np.zeros(len(logits), _CANDIDATE)
    data["id"], data["logit"] = np.arange(len(logits)), logits
    return data


def one_token(token: int) -> NDArray[np.void]:
    """Return one candidate, with a finite logit."""
    return np.array([(token, 1.0, 0.0)], _CANDIDATE)


def as_array(data: NDArray[np.void]) -> llama.llama_token_data_array:
    """Return llama.cpp's view of candidates, which must outlive it."""
    return llama.llama_token_data_array(
        data=data.ctypes.data_as(llama.llama_token_data_p), size=len(data), selected=-1, sorted=False
    )


_T = TypeVar("_T")
_QUICK = 0.25  # seconds; shorter calls do not use up the budget


class TimeBudgetThread:
    """Runs one caller's calls within a time budget. C code that exceeds it is abandoned in its thread."""

    _runaways: ClassVar[list[threading.Thread]] = []

    def __init__(self, seconds: float) -> None:
        """`seconds` is the budget of all slow calls together."""
        self._left = seconds
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="clocked", daemon=True)
        self._thread.start()

    @classmethod
    def has_runaway(cls) -> bool:
        """Return whether an abandoned call is still running."""
        cls._runaways[:] = [thread for thread in cls._runaways if thread.is_alive()]
        return bool(cls._runaways)

    def call(self, function: Callable[[], _T]) -> _T:
        """Return or raise what `function` does. After TooSlow, only `close` may be called."""
        future: Future[_T] = Future()
        self._calls.put(lambda: _resolve(future, function))
        began = time.monotonic()
        try:
            return future.result(max(0.0, self._left))
        except NotInTime as error:
            self._runaways.append(self._thread)
            raise TooSlow from error
        finally:
            took = time.monotonic() - began
            self._left -= took if took > _QUICK else 0

    def close(self, last: Callable[[], None]) -> None:
        """Run `last` after all other calls and end the thread. Returns at once."""
        self._calls.put(last)
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _resolve(future: Future[_T], function: Callable[[], _T]) -> None:
    try:
        future.set_result(function())
    except Exception as error:  # noqa: BLE001 - a boundary: the caller gets the error
        future.set_exception(error)


_MAX_CHARACTERS = 1 << 16  # no parser must get megabytes of untrusted text
_MAX_BRACKETS = 1 << 13  # the parser recurses for nested ones, and 30,000 crash the process
_SECONDS = 2.0  # budget per answer, which delays all others; milliseconds are normal


def check_grammar(text: str, vocab: LlamaTokenizer) -> None:
    """Raise RequestError for a text that is no GBNF (llama.cpp's grammars/README.md). Safe from any thread.

    Raises QueueFull while an abandoned grammar is still running.
    """
    if TimeBudgetThread.has_runaway():
        raise QueueFull("an earlier grammar takes very long: try again later, or without one")
    with silent_stderr():  # llama.cpp prints all of an invalid grammar there
        llama.llama_sampler_free(new_grammar(text, vocab))


def new_grammar(text: str, vocab: LlamaTokenizer) -> int:
    """Return llama.cpp's sampler for a grammar, which the caller frees. Raises RequestError."""
    name = f"the grammar {begin(text)!r}"
    check_length(name, text)
    if "\0" in text:
        raise RequestError(f"{name} contains a NUL character: remove it")
    if (brackets := text.count("(")) > _MAX_BRACKETS:
        raise RequestError(f"{name} has {brackets} opening brackets: {_MAX_BRACKETS} are the most")
    made: int = llama.llama_sampler_init_grammar(vocab.handle, text.encode("utf-8", "replace"), b"root")
    if not made:
        raise RequestError(
            f"{name} is not valid GBNF with a rule named root: see llama.cpp's grammars/README.md"
        )
    return made


class Grammar:
    """The state of one answer in its grammar.

    llama.cpp follows all parses of an answer at once. The pattern ((a?){0,30}){0,30} has so many that one
    token takes minutes in C, where it cannot be cancelled. No simple count predicts this, so calls have a
    time budget. Each may raise TooSlow, after which only `close` may be called.
    """

    def __init__(self, text: str, vocab: LlamaTokenizer) -> None:
        self._sampler = new_grammar(text, vocab)
        self._thread = TimeBudgetThread(_SECONDS)

    def accept(self, token: int) -> bool:
        """Advance by the token; return False, without a change, if the grammar does not allow it."""
        return self._thread.call(partial(_take, self._sampler, token))

    def apply_mask(self, data: NDArray[np.void]) -> None:
        """Set the logits of candidates that the grammar does not allow to -inf, in place."""
        self._thread.call(partial(_apply, self._sampler, data))

    def close(self) -> None:
        """Free the grammar, at once or when an abandoned call ends."""
        self._thread.close(partial(llama.llama_sampler_free, self._sampler))


def _take(sampler: int, token: int) -> bool:
    _apply(sampler, data := one_token(token))
    allowed = bool(data["logit"][0] != -np.inf)
    if allowed:
        llama.llama_sampler_accept(sampler, token)
    return allowed


def _apply(sampler: int, data: NDArray[np.void]) -> None:
    llama.llama_sampler_apply(sampler, ctypes.byref(as_array(data)))


def check_length(name: str, text: str) -> None:
    """Raise RequestError for a grammar or schema that is too long; `name` begins the message."""
    if len(text) > _MAX_CHARACTERS:
        raise RequestError(f"{name} has {len(text)} characters: {_MAX_CHARACTERS} are the most")


def begin(text: str) -> str:
    """Return the beginning of a text, for a message."""
    return text if len(text) <= 60 else f"{text[:57]}..."
