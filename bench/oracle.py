"""Reference conversations: greedy answers, and where another batch shape may give another answer.

llama.cpp sums in a different order for each batch shape, so where two tokens are almost equally likely,
either may be the greedy one: a near tie. Here each question is answered without batching. Up to the first
near tie, every correct engine gives the same text; there, it may go on with one of the tokens that are as
likely, and what follows is not known.

The module is also the child process that works them out (see common.worker_process).
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from llama_cpp import llama_cpp as llama

from bench.workload import story
from common.dataclass_json import from_json, to_json
from common.errors import UserError
from common.worker_process import run_worker, serve
from engine.config import EngineConfig, SamplingParams
from engine.core.detokenizer import IncrementalDetokenizer
from engine.llama.model import Model, context_params
from engine.probe.cpu_backend import load_cpu_backend
from engine.serving.backend import LlamaBackend
from engine.types import Message
from pipeline.errors import PipelineError

MIN_MARGIN = 1.0  # logits; other batch shapes changed differences by up to 0.5 (135 M model, Q4_K_M)
_WANTED_TOKENS, _MAX_TOKENS = 6, 32  # per answer: before its first near tie, and in all
_MAX_ATTEMPTS = 4  # questions tried per turn
# Conversations with the same system prompt share a prefix; the others share none.
_SYSTEM_PROMPTS = (
    "You are a helpful AI assistant named Ada, and you work in a lighthouse by the northern sea.",
    "A friendly librarian called Ben answers here; he knows all the books of his little town.",
    "Cleo, who repairs old clocks and violins, answers the questions of her curious visitors.",
)
# Even a small model copies with wide margins, and an error in any cached token of the text changes the copy.
_TASKS = (
    "Repeat the text above word for word.",
    "Say the text again, from its beginning.",
    "Now repeat your own text, which you were given first.",
)


@dataclass(frozen=True)
class Tie:
    """The tokens that are within MIN_MARGIN of the likeliest after the reference's first `position` tokens.

    `texts` are the answers up to and with each of the others; `ends` is True when one ends the answer.
    """

    position: int
    texts: tuple[str, ...]
    ends: bool

    def explains(self, before: str, text: str, ended: bool) -> bool:
        """Return whether `text` goes on with one of the tokens after the reference's `before`."""
        if text == before:
            return self.ends and ended
        # a token that is part of a character has no text yet
        return text.startswith(before) and any(text.startswith(one) for one in self.texts)


@dataclass(frozen=True)
class ReferenceTurn:
    """A question and the reference answer; `texts[n]` is the text of the first n tokens."""

    question: str
    texts: tuple[str, ...]
    ends: bool  # True when the model ends its answer there
    ties: tuple[Tie, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Return the length of the reference in tokens."""
        return len(self.texts) - 1

    @property
    def sure_tokens(self) -> int:
        """Return the number of tokens before the first near tie."""
        return self.ties[0].position if self.ties else self.num_tokens

    def explains(self, text: str, ended: bool) -> bool:
        """Return whether an answer left the reference at a near tie, for a token that is as likely."""
        return any(tie.explains(self.texts[tie.position], text, ended) for tie in self.ties)


@dataclass(frozen=True)
class ReferenceConversation:
    """A conversation whose answers are known in advance."""

    system: str
    turns: tuple[ReferenceTurn, ...]


def user(text: str) -> Message:
    """Return a user message."""
    return {"role": "user", "content": text}


def system(text: str) -> Message:
    """Return a system message."""
    return {"role": "system", "content": text}


def assistant(text: str) -> Message:
    """Return an assistant message."""
    return {"role": "assistant", "content": text}


class Oracle:
    """Generates reference conversations, one sequence at a time in a separate context."""

    def __init__(
        self, model: Model, prompt_of: Callable[[Sequence[Message]], list[int]], context: int
    ) -> None:
        """`prompt_of` renders and tokenizes a conversation; `context` is in tokens.

        It computes with one thread: several wait for one another at each step, for long on a busy machine.
        """
        self._vocab, self._prompt_of = model.vocab, prompt_of
        params = context_params(context=context, threads=1)
        params.n_batch = context
        self._context = llama.llama_init_from_model(model.handle, params)
        if not self._context:
            raise PipelineError(f"no room for a context of {context} tokens")

    def conversation(self, number: int, turns: int) -> ReferenceConversation:
        """Return conversation `number`, different from all others, with that many turns."""
        prompt = _SYSTEM_PROMPTS[number % len(_SYSTEM_PROMPTS)]
        messages, found = [system(prompt)], list[ReferenceTurn]()
        for turn in range(turns):
            reference = self._turn(messages, f"{number} {turn}")
            messages += [user(reference.question), assistant(reference.texts[-1])]
            found.append(reference)
        return ReferenceConversation(prompt, tuple(found))

    def _turn(self, messages: Sequence[Message], seed: str) -> ReferenceTurn:
        """Return the reference for the first question that has enough sure tokens, or that with the most."""
        best, most = "", -1
        for attempt in range(_MAX_ATTEMPTS):
            text = story(f"{seed} {attempt}", 1 if len(messages) > 1 else 4)
            question = f"{text} {random.Random(f'{seed} {attempt}').choice(_TASKS)}"
            sure = self._sure_tokens(self._prompt_of([*messages, user(question)]))
            if sure > most:
                best, most = question, sure
            if most >= _WANTED_TOKENS:
                break
        found = self.answer(best, self._prompt_of([*messages, user(best)]), _MAX_TOKENS)
        if not found.num_tokens:
            raise PipelineError(f"the model has no answer to {best!r}: take another one")
        return found

    def _sure_tokens(self, prompt: list[int]) -> int:
        """Return the length of the answer to a prompt up to the first near tie."""
        logits = self._start(prompt)
        for length in range(_WANTED_TOKENS):
            first = int(logits.argmax())
            if np.count_nonzero(logits > logits[first] - MIN_MARGIN) > 1 or self._vocab.is_eog(first):
                return length
            logits = self._logits([first])
        return _WANTED_TOKENS

    def _start(self, prompt: list[int]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        return self._logits(prompt)

    def answer(self, question: str, prompt: list[int], length: int) -> ReferenceTurn:
        """Return the greedy answer of at most `length` tokens to a prompt, with its near ties."""
        answer, ties, ends = list[int](), list[Tie](), False
        logits = self._start(prompt)
        while len(answer) < length:
            first = int(logits.argmax())
            near = np.flatnonzero(logits > logits[first] - MIN_MARGIN)
            if others := [int(token) for token in near if token != first]:
                ties.append(self._tie(answer, others))
            if ends := self._vocab.is_eog(first):
                break
            answer.append(first)
            logits = self._logits([first])
        texts = tuple(self._text(answer[:n]) for n in range(len(answer) + 1))
        return ReferenceTurn(question, texts, ends, tuple(ties))

    def _tie(self, answer: list[int], others: list[int]) -> Tie:
        ends = any(map(self._vocab.is_eog, others))
        texts = (self._text([*answer, token]) for token in others if not self._vocab.is_eog(token))
        return Tie(len(answer), tuple(texts), ends)

    def _logits(self, tokens: list[int]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Return the logits of the token after `tokens`: float32, [vocabulary]. Raises PipelineError."""
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


@dataclass(frozen=True)
class OracleJob:
    """Work out conversations from number `first` on, or the answers to `chats` if there are any.

    `settings` are those of the engine that is checked; `length` is that of the answers to the chats.
    """

    model: Path
    settings: EngineConfig
    first: int = 0
    conversations: int = 0
    turns: int = 0
    chats: tuple[tuple[dict[str, str], ...], ...] = ()
    length: int = 0


@dataclass(frozen=True)
class References:
    """What an OracleJob gives: `answers` has one for each of the chats."""

    conversations: tuple[ReferenceConversation, ...]
    answers: tuple[ReferenceTurn, ...]


def work_out(job: OracleJob, log: Path) -> References:
    """Do the job in a child process, so that this one has no llama.cpp. Re-raises its error."""
    return from_json(References, run_worker("bench.oracle", to_json(job), log))


def _work(request: dict[str, Any]) -> dict[str, Any]:
    job = from_json(OracleJob, request)
    with LlamaBackend.open(job.model, job.settings) as backend:
        choice = load_cpu_backend(job.model, threads=backend.info.threads)
        model = Model(job.model, extra_buffers=choice.extra_buffers)
        oracle = Oracle(model, backend.prompt_tokens, job.settings.context)
        numbers = range(job.first, job.first + job.conversations)
        sampling = SamplingParams(max_tokens=job.length or 1)
        chats = [cast(Sequence[Message], chat) for chat in job.chats]
        found = References(
            tuple(oracle.conversation(number, job.turns) for number in numbers),
            tuple(oracle.answer("", backend.prepare(chat, sampling).tokens, job.length) for chat in chats),
        )
        oracle.close()
        model.close()
    return to_json(found)


if __name__ == "__main__":
    serve(_work, refusals=(UserError,))
