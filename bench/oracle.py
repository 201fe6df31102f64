"""Conversations whose greedy answers can be told beforehand, to the letter.

llama.cpp adds in another order in a batch of another shape, so where two tokens are almost equally likely,
either may be the greedy one. A model alone answers each question, and its answer is followed only as far as
the likeliest token leads by more than rounding could take away: that far, every way to compute it must agree.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from llama_cpp import llama_cpp as llama

from bench.workload import story
from engine.core.detokenizer import IncrementalDetokenizer
from engine.llama.model import Model, context_params
from engine.types import Message
from pipeline.errors import PipelineError

LEAD = 1.0  # logits; batches of other shapes moved one against another by up to 0.5 (135 M model, Q4_K_M)
_LEAST, _MOST = 6, 48  # tokens of an answer
_TRIES = 20  # questions for one turn
# Conversations of one house share a beginning, and with the others none.
_HOUSES = (
    "You are a helpful AI assistant named Ada, and you work in a lighthouse by the northern sea.",
    "A friendly librarian called Ben answers here; he knows all the books of his little town.",
    "Cleo, who repairs old clocks and violins, answers the questions of her curious visitors.",
)
# A copy is what even a small model is sure of, and it needs every token that it copies.
_TASKS = (
    "Repeat the text above word for word.",
    "Say the text again, from its beginning.",
    "Now repeat your own text, which you were given first.",
)


@dataclass(frozen=True)
class SureTurn:
    """A question and the sure part of its answer; `shown[n]` is the text of the first n tokens."""

    question: str
    shown: tuple[str, ...]
    ends: bool  # whether the model ends its answer there

    @property
    def most(self) -> int:
        """Tokens of the sure part."""
        return len(self.shown) - 1


@dataclass(frozen=True)
class SureTalk:
    """A conversation whose answers are sure."""

    system: Message
    turns: tuple[SureTurn, ...]


def user(text: str) -> Message:
    """What a user says."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """What the model says."""
    return {"role": "assistant", "content": text}


class Oracle:
    """Makes sure conversations with a model of its own."""

    def __init__(
        self, model: Model, prompt_of: Callable[[Sequence[Message]], list[int]], threads: int, context: int
    ) -> None:
        """`prompt_of` renders and tokenizes a conversation; `context` is in tokens."""
        self._vocab, self._prompt_of = model.vocab, prompt_of
        params = context_params(context=context, threads=threads)
        params.n_batch = context
        self._context = llama.llama_init_from_model(model.handle, params)
        if not self._context:
            raise PipelineError(f"no room for a context of {context} tokens")

    def talk(self, number: int, turns: int) -> SureTalk:
        """A conversation like no other number's, of so many turns, or as many as have a sure answer."""
        system: Message = {"role": "system", "content": _HOUSES[number % len(_HOUSES)]}
        messages, found = [system], list[SureTurn]()
        for turn in range(turns):
            made = self._turn(messages, f"{number} {turn}")
            if made is None:
                break
            messages += [user(made.question), assistant(made.shown[-1])]
            found.append(made)
        if not found:
            raise PipelineError(f"none of {_TRIES} questions has a sure answer: take another model")
        return SureTalk(system, tuple(found))

    def _turn(self, messages: Sequence[Message], seed: str) -> SureTurn | None:
        """Ask on until an answer is sure for long enough."""
        for attempt in range(_TRIES):
            text = story(f"{seed} {attempt}", 1 if len(messages) > 1 else 4)
            question = f"{text} {random.Random(f'{seed} {attempt}').choice(_TASKS)}"
            tokens, ends = self._answer(self._prompt_of([*messages, user(question)]))
            if len(tokens) >= _LEAST:
                return SureTurn(question, tuple(self._text(tokens[:n]) for n in range(len(tokens) + 1)), ends)
        return None

    def _answer(self, prompt: list[int]) -> tuple[list[int], bool]:
        """Greedy tokens as long as they are sure, and whether they came to the model's end."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        answer: list[int] = []
        logits = self._logits(prompt)
        while len(answer) < _MOST:
            second, first = np.argpartition(logits, -2)[-2:]
            if logits[first] - logits[second] < LEAD:
                return answer, False
            if self._vocab.is_eog(int(first)):
                return answer, True
            answer.append(int(first))
            logits = self._logits(answer[-1:])
        return answer, False

    def _logits(self, tokens: list[int]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Of the token after `tokens`: [vocabulary]."""
        ids = (llama.llama_token * len(tokens))(*tokens)
        if llama.llama_decode(self._context, llama.llama_batch_get_one(ids, len(tokens))) != 0:
            raise PipelineError(f"llama_decode failed on {len(tokens)} tokens")
        found = llama.llama_get_logits_ith(self._context, -1)
        size = ctypes.sizeof(ctypes.c_float) * self._vocab.size
        return np.frombuffer(ctypes.string_at(found, size), np.float32)

    def _text(self, tokens: Sequence[int]) -> str:
        stream = IncrementalDetokenizer((), skip_space=self._vocab.is_sentencepiece)
        return "".join(map(stream.push, map(self._vocab.piece, tokens))) + stream.finish()

    def close(self) -> None:
        """Free the context."""
        llama.llama_free(self._context)
