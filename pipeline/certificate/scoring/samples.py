"""The samples that models are scored on: prompts with the tuned model's own answers, and the user's data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.sequences import sample_evenly
from common.system import RENDER_SECONDS, kill_after
from engine.core.types import BatchRow
from engine.errors import RequestError
from engine.llama.model import Adapter, Model, model_metadata
from engine.llama.runner import Runner
from engine.prompt.chat_template import PromptBuilder
from engine.types import Message
from pipeline.certificate.scoring.metrics import log_softmax
from pipeline.certificate.scoring.teacher_forcing import (
    Logits,
    Sample,
    batched_logits,
    batches_within,
    open_runner,
)
from pipeline.certificate.subject import Subject
from pipeline.data.chat_template import set_template
from pipeline.data.dataset import IGNORED, Chat, ChatTurn, Example, encode_chat, read_chats
from pipeline.errors import InputError
from pipeline.tokenizers.own_code import NeedsCode, load_without_code

PROMPTS = (
    "Hello!",
    "Who are you?",
    "What is the capital of France?",
    "How do I make a cup of tea?",
    "I had a bad day. Any advice?",
    "Tell me a fun fact about the sea.",
    "What is a computer program?",
    "Write two lines about autumn.",
    "Why is the sky blue?",
    "Name three healthy snacks.",
    "What is 8 plus 6?",
    "How can I sleep better?",
    "What does a doctor do?",
    "Explain gravity to a child.",
    "What should I cook tonight?",
    "Give me a tip for learning a language.",
    "Good morning, how are you?",
    "What is the difference between a frog and a toad?",
    "Suggest a name for a small bakery.",
    "How do plants drink water?",
    "Write a short thank-you note to a neighbour.",
    "What is the largest animal?",
    "How do I change a bicycle tyre?",
    "What can you help me with?",
    "Why do we have leap years?",
    "Tell me a joke.",
    "What is a good gift for a friend?",
    "How does a bridge stay up?",
    "List the days of the week.",
    "What is music for?",
    "How do I say sorry to someone?",
    "Thank you, goodbye!",
)
_MAX_PROMPT_TOKENS = 1024  # longer conversations are left out


@dataclass(frozen=True)
class Size:
    """The number of prompts, the tokens of an answer, and the limit of the log-probabilities in bytes."""

    prompts: int
    tokens: int
    max_bytes: int = 512 << 20

    def within(self, vocabulary: int) -> Size:
        """Reduce the prompts until the log-probabilities over the vocabulary, in float16, fit `max_bytes`."""
        max_prompts = self.max_bytes // (2 * vocabulary * self.tokens)
        return Size(max(1, min(self.prompts, max_prompts)), self.tokens, self.max_bytes)


SIZES = {"fast": Size(8, 12), "full": Size(64, 64)}
"""Fast: some 96 tokens. docs/survival.md has the confidence intervals of both."""


@dataclass
class ScoredAnswer:
    """A greedy answer, during and after generation.

    `log_p` are the tokens' log-probabilities, and `log_probs` those of the whole vocabulary, [vocabulary] per
    token; both are empty if they are not requested.
    """

    tokens: list[int] = field(default_factory=list)
    log_p: list[float] = field(default_factory=list)
    log_probs: list[NDArray[np.float16]] = field(default_factory=list)

    def append(self, logits: Logits, *, with_log_probs: bool) -> None:
        """Append the most likely token; `logits` are [1, vocabulary]."""
        token = int(logits.argmax())
        self.tokens.append(token)
        if with_log_probs:
            log_probs = log_softmax(logits)[0]
            self.log_p.append(float(log_probs[token]))
            self.log_probs.append(log_probs.astype(np.float16))


@dataclass(frozen=True)
class Prompts:
    """The prompts for the tuned model, and the user's answers to some of them, all by the chat's number.

    `questions` are the last user messages, `token_ids` the prompts. `held_out` are the user's answers, and
    `refused` has the reasons why answers could not be used.
    """

    questions: dict[int, str]
    token_ids: dict[int, tuple[int, ...]]
    held_out: dict[int, Sample]
    refused: dict[int, str]

    def samples(self, answers: Iterable[ScoredAnswer]) -> list[Sample]:
        """Return the model's own answers, given in the order of `token_ids`, each followed by the user's."""
        samples: list[Sample] = []
        for (number, prompt), answer in zip(self.token_ids.items(), answers, strict=True):
            own, reason = tuple(answer.tokens), self.refused.get(number, "")
            samples.append(Sample(number, self.questions[number], prompt, own, own=True, refused=reason))
            if number in self.held_out:
                samples.append(self.held_out[number])
        return samples


def make_prompts(subject: Subject, model: Model, size: Size) -> Prompts:
    """Tokenize the user's chats, or PROMPTS without any, for the subject's full-precision model.

    Raises InputError for invalid data of the user.
    """
    chats = _chats(subject, size.prompts)
    builder = model_metadata(model, subject.full).prompt_builder(model.vocab)
    held_out, refused = _held_out_answers(subject, chats, size.tokens)
    with kill_after(RENDER_SECONDS):
        prompts = {
            number: held_out[number].prompt if number in held_out else _prompt(builder, chat)
            for number, chat in enumerate(chats)
        }
    usable = {number: prompt for number, prompt in prompts.items() if 0 < len(prompt) <= _MAX_PROMPT_TOKENS}
    if not usable:
        raise InputError(
            f"no chat can be asked: the template refuses all that have up to {_MAX_PROMPT_TOKENS} tokens"
        )
    return Prompts({number: _question(chat) for number, chat in enumerate(chats)}, usable, held_out, refused)


def _chats(subject: Subject, max_chats: int) -> list[Chat]:
    if subject.evaluation is None:
        prompts = sample_evenly(PROMPTS, max_chats)
        return [Chat((ChatTurn("user", text),), line) for line, text in enumerate(prompts, 1)]
    return sample_evenly(read_chats(subject.evaluation, require_answer=False), max_chats)


def _prompt(builder: PromptBuilder, chat: Chat) -> tuple[int, ...]:
    """Return the prompt's ids; empty when the template rejects the chat."""
    try:
        return tuple(builder.tokens(_messages(chat)))
    except RequestError:
        return ()


def _held_out_answers(
    subject: Subject, chats: Sequence[Chat], max_tokens: int
) -> tuple[dict[int, Sample], dict[int, str]]:
    """Return the last answer of each chat that has one, tokenized as for training, by the chat's number.

    The second dict has the reasons for answers that cannot be separated from their prompts.
    """
    answered = {n: chat for n, chat in enumerate(chats) if chat.turns[-1].role == "assistant"}
    if not answered:
        return {}, {}
    from transformers import AutoTokenizer

    try:
        tokenizer = load_without_code(AutoTokenizer.from_pretrained, subject.reference)
    except NeedsCode as error:
        return {}, dict.fromkeys(answered, str(error))
    set_template(tokenizer)
    held_out: dict[int, Sample] = {}
    refused: dict[int, str] = {}
    for number, chat in answered.items():
        try:
            example = encode_chat(tokenizer, chat, max_length=2**20)
        except InputError as error:
            refused[number] = str(error)
        else:
            held_out[number] = _last_answer(number, chat, example, max_tokens)
    return held_out, refused


def _last_answer(number: int, chat: Chat, example: Example, max_tokens: int) -> Sample:
    """Return the first `max_tokens` tokens of the chat's last answer."""
    end = max(position for position, label in enumerate(example.labels) if label != IGNORED) + 1
    start = end
    while example.labels[start - 1] != IGNORED:
        start -= 1
    ids = tuple(example.input_ids)
    return Sample(number, _question(chat), ids[:start], ids[start:end][:max_tokens], own=False)


def _messages(chat: Chat) -> list[Message]:
    """Return the conversation up to its last question."""
    turns = chat.turns[:-1] if chat.turns[-1].role == "assistant" else chat.turns
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _question(chat: Chat) -> str:
    return _messages(chat)[-1]["content"]


def greedy_answers(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    threads: int,
    *,
    with_log_probs: bool = False,
    adapter: Adapter | None = None,
) -> Iterator[ScoredAnswer]:
    """Generate a greedy answer to each prompt, with its end token if it ends within `max_tokens`.

    Raises EngineError.
    """
    for batch in batches_within([len(prompt) + max_tokens for prompt in prompts], [1] * len(prompts)):
        batch_prompts = [prompts[index] for index in batch]
        longest = max(map(len, batch_prompts)) + max_tokens
        runner = open_runner(model, len(batch), longest, threads, adapter)
        try:
            yield from _answer_batch(runner, batch_prompts, max_tokens, with_log_probs)
        finally:
            runner.close()


def _answer_batch(
    runner: Runner, prompts: Sequence[Sequence[int]], max_tokens: int, with_log_probs: bool
) -> list[ScoredAnswer]:
    answers = [ScoredAnswer() for _ in prompts]
    prompt_logits = batched_logits(runner, prompts, [len(prompt) - 1 for prompt in prompts])
    for answer, logits in zip(answers, prompt_logits, strict=True):
        answer.append(logits, with_log_probs=with_log_probs)
    for num_tokens in range(1, max_tokens):
        running = [slot for slot, answer in enumerate(answers) if not runner.vocab.is_eog(answer.tokens[-1])]
        if not running:
            break
        starts = [len(prompts[slot]) + num_tokens - 1 for slot in running]
        runner.decode(
            [
                BatchRow(slot, start, answers[slot].tokens[-1:], 1)
                for slot, start in zip(running, starts, strict=True)
            ]
        )
        for slot in running:
            answers[slot].append(runner.logits(slot, 1), with_log_probs=with_log_probs)
    return answers
