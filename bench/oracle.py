"""Reference conversations: greedy answers that are the same in every batch shape, up to a known length.

llama.cpp sums in a different order for each batch shape, so where two tokens are almost equally likely,
either may be the greedy one. Here each question is answered without batching, and the reference answer ends
before the first token whose margin rounding could reverse: up to there, every correct engine gives the same
text.
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

MIN_MARGIN = 1.0  # logits; other batch shapes changed differences by up to 0.5 (135 M model, Q4_K_M)
_MIN_TOKENS, _MAX_TOKENS = 6, 48  # per answer
_MAX_ATTEMPTS = 20  # questions tried per turn
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
class ReferenceTurn:
    """A question and the reference part of its answer; `texts[n]` is the text of the first n tokens."""

    question: str
    texts: tuple[str, ...]
    ends: bool  # True when the model ends its answer there

    @property
    def num_tokens(self) -> int:
        """Return the length of the reference part in tokens."""
        return len(self.texts) - 1


@dataclass(frozen=True)
class ReferenceConversation:
    """A conversation whose answers are known in advance."""

    system: Message
    turns: tuple[ReferenceTurn, ...]


def user(text: str) -> Message:
    """Return a user message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """Return an assistant message."""
    return {"role": "assistant", "content": text}


class Oracle:
    """Generates reference conversations, one sequence at a time in a separate context."""

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

    def conversation(self, number: int, turns: int) -> ReferenceConversation:
        """Return conversation `number`, different from all others, with at most `turns` turns.

        It ends before the first turn for which no question has a reference answer. Raises PipelineError when
        that is the first one.
        """
        system: Message = {"role": "system", "content": _SYSTEM_PROMPTS[number % len(_SYSTEM_PROMPTS)]}
        messages, found = [system], list[ReferenceTurn]()
        for turn in range(turns):
            reference = self._turn(messages, f"{number} {turn}")
            if reference is None:
                break
            messages += [user(reference.question), assistant(reference.texts[-1])]
            found.append(reference)
        if not found:
            raise PipelineError(f"none of {_MAX_ATTEMPTS} questions has a sure answer: take another model")
        return ReferenceConversation(system, tuple(found))

    def _turn(self, messages: Sequence[Message], seed: str) -> ReferenceTurn | None:
        """Try questions until a reference answer is long enough; return None when none is."""
        for attempt in range(_MAX_ATTEMPTS):
            text = story(f"{seed} {attempt}", 1 if len(messages) > 1 else 4)
            question = f"{text} {random.Random(f'{seed} {attempt}').choice(_TASKS)}"
            tokens, ends = self._answer(self._prompt_of([*messages, user(question)]))
            if len(tokens) >= _MIN_TOKENS:
                texts = tuple(self._text(tokens[:n]) for n in range(len(tokens) + 1))
                return ReferenceTurn(question, texts, ends)
        return None

    def _answer(self, prompt: list[int]) -> tuple[list[int], bool]:
        """Return greedy tokens up to the first narrow margin, and True when the model ended before it."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        answer: list[int] = []
        logits = self._logits(prompt)
        while len(answer) < _MAX_TOKENS:
            second, first = np.argpartition(logits, -2)[-2:]
            if logits[first] - logits[second] < MIN_MARGIN:
                return answer, False
            if self._vocab.is_eog(int(first)):
                return answer, True
            answer.append(int(first))
            logits = self._logits(answer[-1:])
        return answer, False

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
