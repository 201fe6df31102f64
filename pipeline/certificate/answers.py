"""What the models are compared on: prompts, the tuned model's own answers, and those of the user's data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from engine.cpu import ModelFacts
from engine.errors import RequestError
from engine.model import Model
from engine.offload import common_prefix
from engine.request import Message
from engine.runner import Runner
from engine.scheduler import Row
from engine.settings import SamplingSettings
from engine.template import ChatTemplate, PromptBuilder
from pipeline.certificate.logits import Sample
from pipeline.certificate.prompts import PROMPTS
from pipeline.certificate.subject import Subject
from pipeline.dataset import IGNORED, Chat, Example, Turn, encode_chat, read_chats
from pipeline.errors import InputError

_SIDE_BY_SIDE = 16
_BATCH = 128
_GREEDY = SamplingSettings(temperature=0, repeat_penalty=1)
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


def make_samples(subject: Subject, model: Model, facts: ModelFacts, size: Size) -> list[Sample]:
    """Ask the tuned model, which is loaded as `model`, and put the user's answers beside its own.

    Raises InputError for what is wrong with the user's data.
    """
    chats = _chats(subject, size.prompts)
    builder = PromptBuilder(ChatTemplate(facts.template, facts.bos, facts.eos), model.vocab, facts.control)
    theirs, refused = _answers_of(subject, chats, size.tokens)
    prompts = {
        number: theirs[number].prompt if number in theirs else _prompt(builder, chat)
        for number, chat in enumerate(chats)
    }
    prompts = {number: prompt for number, prompt in prompts.items() if 0 < len(prompt) <= _LONGEST}
    if not prompts:
        raise InputError(f"no chat can be asked: the template refuses all that have up to {_LONGEST} tokens")
    own = dict(
        zip(prompts, greedy_answers(model, list(prompts.values()), size.tokens, subject.threads), strict=True)
    )
    samples: list[Sample] = []
    for number, prompt in prompts.items():
        why = refused.get(number, "")
        samples.append(Sample(number, _question(chats[number]), prompt, own[number], own=True, refused=why))
        if number in theirs:
            samples.append(theirs[number])
    return samples


def _chats(subject: Subject, most: int) -> list[Chat]:
    if subject.evaluation is None:
        return [Chat((Turn("user", text),), line) for line, text in enumerate(spread(PROMPTS, most), 1)]
    return spread(read_chats(subject.evaluation, answered=False), most)


def spread(items: Sequence[T], most: int) -> list[T]:
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
    model: Model, prompts: Sequence[Sequence[int]], most: int, threads: int
) -> Iterator[tuple[int, ...]]:
    """The likeliest answer to each prompt, of at most `most` tokens, with its end token if it came so far."""
    for start in range(0, len(prompts), _SIDE_BY_SIDE):
        group = prompts[start : start + _SIDE_BY_SIDE]
        context = max(map(len, group)) + most
        runner = Runner(model, slots=len(group), context=context, batch=_BATCH, threads=threads)
        try:
            yield from _answer_group(runner, group, most)
        finally:
            runner.close()


def _answer_group(runner: Runner, prompts: Sequence[Sequence[int]], most: int) -> list[tuple[int, ...]]:
    answers: list[list[int]] = []
    for slot, prompt in enumerate(prompts):
        shared = min(common_prefix(prompts[0], prompt), len(prompt) - 1) if slot else 0
        kept = runner.prepare(slot, shared, 0) if shared else 0
        runner.start(slot, _GREEDY)
        for start in range(kept, len(prompt), _BATCH):
            runner.decode([Row(slot, start, prompt[start : start + _BATCH], 1)])
        answers.append([runner.sample(slot)])
    for _ in range(most - 1):
        going = [slot for slot, answer in enumerate(answers) if not runner.vocab.is_end(answer[-1])]
        if not going:
            break
        runner.decode(
            [Row(slot, len(prompts[slot]) + len(answers[slot]) - 1, answers[slot][-1:], 1) for slot in going]
        )
        for slot in going:
            answers[slot].append(runner.sample(slot))
    return [tuple(answer) for answer in answers]
