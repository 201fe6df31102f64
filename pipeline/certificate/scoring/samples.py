"""What the models are compared on: prompts, the tuned model's own answers, and those of the user's data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from common.system import RENDER_SECONDS, kill_after
from engine.core.types import BatchRow
from engine.errors import RequestError
from engine.llama.model import Model, model_metadata
from engine.llama.runner import Runner
from engine.prompt.chat_template import ChatTemplate, PromptBuilder
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
from pipeline.data.dataset import IGNORED, Chat, ChatTurn, Example, encode_chat, read_chats
from pipeline.errors import InputError

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
_LONGEST = 1024  # tokens of a prompt; a longer conversation is left out
T = TypeVar("T")


@dataclass(frozen=True)
class Size:
    """How many prompts are asked, how many tokens an answer has, how much memory the logits may take."""

    prompts: int
    tokens: int
    stored_bytes: int = 512 << 20

    def within(self, vocabulary: int) -> Size:
        """Fewer prompts, where so many answers in float16 over the vocabulary take too much."""
        most = self.stored_bytes // (2 * vocabulary * self.tokens)
        return Size(max(1, min(self.prompts, most)), self.tokens, self.stored_bytes)


SIZES = {"fast": Size(8, 12), "full": Size(64, 64)}
"""Fast: some 96 tokens. docs/survival.md has the intervals that they give."""


@dataclass
class ScoredAnswer:
    """An answer under way: its tokens, and what the model thought at each place, if that is kept.

    `log_p` are the tokens' log-probabilities; `stored` are those of the whole vocabulary, in float16.
    """

    tokens: list[int] = field(default_factory=list)
    log_p: list[float] = field(default_factory=list)
    stored: list[NDArray[np.float16]] = field(default_factory=list)

    def add(self, logits: Logits, *, keep: bool) -> None:
        """Go on with the likeliest token; `logits` are [1, vocabulary]."""
        token = int(logits.argmax())
        self.tokens.append(token)
        if keep:
            found = log_softmax(logits)[0]
            self.log_p.append(float(found[token]))
            self.stored.append(found.astype(np.float16))


@dataclass(frozen=True)
class Prompts:
    """What the tuned model is asked, and the user's answers to some of it, all by the chat's number.

    `refused` tells why a chat's answer could not be used.
    """

    questions: dict[int, str]
    asked: dict[int, tuple[int, ...]]
    theirs: dict[int, Sample]
    refused: dict[int, str]

    def samples(self, answers: Iterable[ScoredAnswer]) -> list[Sample]:
        """The model's own answers, which are in the order of `asked`, each with the user's beside it."""
        samples: list[Sample] = []
        for (number, prompt), answer in zip(self.asked.items(), answers, strict=True):
            own, why = tuple(answer.tokens), self.refused.get(number, "")
            samples.append(Sample(number, self.questions[number], prompt, own, own=True, refused=why))
            if number in self.theirs:
                samples.append(self.theirs[number])
        return samples


def make_prompts(subject: Subject, model: Model, size: Size) -> Prompts:
    """The user's prompts, or ours, for the subject's full model.

    Raises InputError for what is wrong with the user's data.
    """
    facts = model_metadata(model, subject.full)
    chats = _chats(subject, size.prompts)
    builder = PromptBuilder(ChatTemplate(facts.template, facts.bos, facts.eos), model.vocab, facts.control)
    theirs, refused = _answers_of(subject, chats, size.tokens)
    with kill_after(RENDER_SECONDS):
        prompts = {
            number: theirs[number].prompt if number in theirs else _prompt(builder, chat)
            for number, chat in enumerate(chats)
        }
    asked = {number: prompt for number, prompt in prompts.items() if 0 < len(prompt) <= _LONGEST}
    if not asked:
        raise InputError(f"no chat can be asked: the template refuses all that have up to {_LONGEST} tokens")
    return Prompts({number: _question(chat) for number, chat in enumerate(chats)}, asked, theirs, refused)


def _chats(subject: Subject, most: int) -> list[Chat]:
    if subject.evaluation is None:
        return [
            Chat((ChatTurn("user", text),), line) for line, text in enumerate(sample_evenly(PROMPTS, most), 1)
        ]
    return sample_evenly(read_chats(subject.evaluation, require_answer=False), most)


def sample_evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly from all."""
    count = min(most, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _prompt(builder: PromptBuilder, chat: Chat) -> tuple[int, ...]:
    """The prompt's ids; none where the template refuses the chat."""
    try:
        return tuple(builder.tokens(_messages(chat)))
    except RequestError:
        return ()


def _answers_of(
    subject: Subject, chats: Sequence[Chat], most: int
) -> tuple[dict[int, Sample], dict[int, str]]:
    """The last answer of each chat that has one, tokenized as for training, by the chat's number.

    Of those that cannot be told from their prompts, the second says why.
    """
    answered = {n: chat for n, chat in enumerate(chats) if chat.turns[-1].role == "assistant"}
    if not answered:
        return {}, {}
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(subject.reference)
    found: dict[int, Sample] = {}
    refused: dict[int, str] = {}
    for number, chat in answered.items():
        try:
            example = encode_chat(tokenizer, chat, max_length=2**20)
        except InputError as error:
            refused[number] = str(error)
        else:
            found[number] = _reference(number, chat, example, most)
    return found, refused


def _reference(number: int, chat: Chat, example: Example, most: int) -> Sample:
    """The last answer of the chat, its first `most` tokens."""
    end = max(place for place, label in enumerate(example.labels) if label != IGNORED) + 1
    start = end
    while example.labels[start - 1] != IGNORED:
        start -= 1
    ids = tuple(example.input_ids)
    return Sample(number, _question(chat), ids[:start], ids[start:end][:most], own=False)


def _messages(chat: Chat) -> list[Message]:
    """The conversation up to the question that is to be answered."""
    turns = chat.turns[:-1] if chat.turns[-1].role == "assistant" else chat.turns
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _question(chat: Chat) -> str:
    return _messages(chat)[-1]["content"]


def greedy_answers(
    model: Model, prompts: Sequence[Sequence[int]], most: int, threads: int, *, keep: bool = False
) -> Iterator[ScoredAnswer]:
    """The likeliest answer to each prompt, of at most `most` tokens, with its end token if it came so far.

    With `keep` they hold what the model thought, too. Raises EngineError.
    """
    for group in batches_within([len(prompt) + most for prompt in prompts], [1] * len(prompts)):
        asked = [prompts[place] for place in group]
        runner = open_runner(model, len(group), max(map(len, asked)) + most, threads)
        try:
            yield from _answer_group(runner, asked, most, keep)
        finally:
            runner.close()


def _answer_group(
    runner: Runner, prompts: Sequence[Sequence[int]], most: int, keep: bool
) -> list[ScoredAnswer]:
    answers = [ScoredAnswer() for _ in prompts]
    for answer, logits in zip(
        answers, batched_logits(runner, prompts, [len(p) - 1 for p in prompts]), strict=True
    ):
        answer.add(logits, keep=keep)
    for written in range(1, most):
        going = [slot for slot, answer in enumerate(answers) if not runner.vocab.is_end(answer.tokens[-1])]
        if not going:
            break
        runner.decode(
            [BatchRow(slot, len(prompts[slot]) + written - 1, answers[slot].tokens[-1:], 1) for slot in going]
        )
        for slot in going:
            answers[slot].add(runner.logits(slot, 1), keep=keep)
    return answers
