"""The whole engine with real weights."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.config import EngineConfig, SamplingParams
from engine.errors import EngineError, ModelError, PromptTooLong, RequestError
from engine.llama.model import Model
from engine.llama.runner import Runner
from engine.serving.backend import LlamaBackend
from engine.types import Finished, Message, PrefillProgress, TextDelta
from tests.engine.helpers import ask, text_of, user

QUESTIONS = [
    "Name a fruit.",
    "Tell me a story about a dog and a cat.",
    "What is 2+2?",
    "Why is the sky blue?",
]
GREEDY = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=12)
LONG = "The quick brown fox jumps over the lazy dog. " * 80


def _ask(
    backend: LlamaBackend, messages: list[Message], sampling: SamplingParams = GREEDY
) -> tuple[str, Finished]:
    return ask(backend, messages, sampling)


def _ask_together(backend: LlamaBackend, questions: list[str]) -> list[str]:
    answers = [""] * len(questions)

    def ask_one(number: int) -> None:
        answers[number] = _ask(backend, user(questions[number]))[0]

    threads = [threading.Thread(target=ask_one, args=(number,)) for number in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _wait_idle(backend: LlamaBackend, seconds: float) -> None:
    end = time.monotonic() + seconds
    while backend._worker._sinks and time.monotonic() < end:
        time.sleep(0.01)
    assert not backend._worker._sinks, "a request is still alive"


def test_batched_greedy_equals_single_for_1_2_4_users(backend: LlamaBackend) -> None:
    single = [_ask(backend, user(question))[0] for question in QUESTIONS]
    assert all(single) and len(set(single)) == len(single)
    for users in (1, 2, 4):
        assert _ask_together(backend, QUESTIONS[:users]) == single[:users]


def test_next_turn_reads_only_what_is_new_and_says_the_same(backend: LlamaBackend) -> None:
    opening = user("My name is Ada. Say hello.")
    said, _ = _ask(backend, opening)
    second: list[Message] = [*opening, {"role": "assistant", "content": said}, *user("What is my name?")]
    reused, finished = _ask(backend, second)
    assert finished.stats.cached_tokens > finished.stats.prompt_tokens // 2
    for number in range(4):  # evict the conversation from every slot, and ask again without a cache
        _ask(backend, user(f"{number} {LONG[:200]}"), SamplingParams(max_tokens=1))
    fresh, again = _ask(backend, second)
    assert again.stats.cached_tokens < finished.stats.cached_tokens and fresh == reused


def test_a_cut_answer_is_continued_where_it_was_cut(backend: LlamaBackend) -> None:
    asked = user(QUESTIONS[1])
    whole, _ = _ask(backend, asked, dataclasses.replace(GREEDY, max_tokens=48))
    cut = whole[: whole.index(" ", len(whole) // 2)]  # the end of a word, which is also the end of a token
    begun: list[Message] = [*asked, {"role": "assistant", "content": cut}]
    rest, finished = _ask(backend, begun, dataclasses.replace(GREEDY, max_tokens=48))
    assert (cut + rest).startswith(whole)
    assert (
        finished.stats.cached_tokens >= len(backend.prompt_tokens(begun)) - 1
    )  # the last one is always computed


def test_a_text_is_continued_as_it_is_without_the_template(backend: LlamaBackend) -> None:
    template = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    said = backend.prepare(template, GREEDY)
    assert said.continues and said.dropped is None
    assert said.tokens == backend._model.vocab.tokenize(template, special=True)  # its tags are control tokens
    continued = text_of(list(backend.stream("1, 2, 3, 4,", GREEDY)))
    assert continued.startswith(" 5, 6, 7")  # with the space that a first word of an answer does not have
    context = backend.info.context
    with pytest.raises(PromptTooLong, match="shorten it, or raise the context"):
        backend.stream("word " * context, GREEDY)
    with pytest.raises(RequestError, match="the prompt is empty"):
        backend.stream("", GREEDY)


def test_the_stop_string_that_ended_an_answer_is_told(backend: LlamaBackend) -> None:
    *_, end = backend.stream("1, 2, 3, 4,", dataclasses.replace(GREEDY, stop=("zebra", "7")))
    assert isinstance(end, Finished) and (end.reason, end.stop) == ("stop", "7")


def test_slots_with_gaps_between_them_answer_the_same(backend: LlamaBackend) -> None:
    single = [_ask(backend, user(question))[0] for question in QUESTIONS]
    # Each of the four conversations now has a slot, and any two of them return to theirs.
    for pair in ([0, 2], [1, 3]):
        assert _ask_together(backend, [QUESTIONS[n] for n in pair]) == [single[n] for n in pair]
    assert _ask_together(backend, QUESTIONS) == single


def test_a_seed_gives_the_same_text_and_another_seed_another(backend: LlamaBackend) -> None:
    def drawn(seed: int) -> str:
        return _ask(
            backend, user("Tell me a story."), SamplingParams(temperature=1.5, max_tokens=16, seed=seed)
        )[0]

    assert drawn(7) == drawn(7) != drawn(8)


def test_the_repeat_penalty_counts_also_under_greedy(backend: LlamaBackend) -> None:
    def repeated(penalty: float) -> float:
        sampling = SamplingParams(temperature=0, repeat_penalty=penalty, max_tokens=32)
        tokens = backend._model.vocab.tokenize(_ask(backend, user(QUESTIONS[1]), sampling)[0], special=False)
        return 1 - len(set(tokens)) / len(tokens)

    assert repeated(3.0) < 0.1 < repeated(1.0)


def test_stats_and_the_token_limit(backend: LlamaBackend) -> None:
    text, finished = _ask(backend, user(QUESTIONS[1]), SamplingParams(max_tokens=5))
    assert text and finished.reason == "length" and finished.stats.generated_tokens == 5
    assert finished.stats.prompt_tokens == len(backend.prompt_tokens(user(QUESTIONS[1])))
    assert finished.stats.prefill_seconds > 0 and finished.stats.decode_seconds > 0


def test_a_prompt_that_is_too_long_says_by_how_much(backend: LlamaBackend) -> None:
    tokens = len(backend.prompt_tokens(user(LONG * 2)))
    with pytest.raises(RequestError, match=f"{tokens - 1023} tokens too long"):
        backend.stream(user(LONG * 2))


def test_cancel_in_prefill_returns_within_200_ms(backend: LlamaBackend) -> None:
    stream = backend.stream(user(LONG), GREEDY)
    events = iter(stream)
    while not isinstance(next(events), PrefillProgress):
        pass
    time.sleep(0.05)  # the first batch is then being decoded
    began = time.monotonic()
    stream.cancel()
    last = list(events)[-1]
    assert isinstance(last, Finished) and last.reason == "cancelled"
    assert time.monotonic() - began < 0.2


def test_leaving_the_loop_and_dropping_the_stream_free_the_slot(backend: LlamaBackend) -> None:
    long = SamplingParams(temperature=0, max_tokens=900)
    for event in backend.stream(user(QUESTIONS[1]), long):
        if isinstance(event, TextDelta):
            break
    dropped = backend.stream(user(QUESTIONS[1]), long)
    del dropped, event
    gc.collect()
    _wait_idle(backend, 5)


def test_async_readers_share_one_loop_and_a_cancelled_task_frees_its_slot(backend: LlamaBackend) -> None:
    async def read(question: str) -> str:
        return "".join(
            [e.delta async for e in backend.stream(user(question), GREEDY) if isinstance(e, TextDelta)]
        )

    async def scene() -> list[str]:
        endless = asyncio.create_task(_endless(backend))
        texts = await asyncio.gather(*(read(question) for question in QUESTIONS[:3]))
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        return texts

    threads = threading.active_count()
    texts = asyncio.run(scene())
    assert threading.active_count() <= threads  # threads of other tests may end meanwhile
    assert texts == [_ask(backend, user(question))[0] for question in QUESTIONS[:3]]
    _wait_idle(backend, 5)


async def _endless(backend: LlamaBackend) -> None:
    async for _ in backend.stream(
        user(QUESTIONS[1]), SamplingParams(temperature=0, max_tokens=900, repeat_penalty=1.5)
    ):
        pass


def test_ignoring_the_end_goes_on_to_the_limit(backend: LlamaBackend) -> None:
    messages = user("What is 2+2? Answer with one number.")
    short = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=64)
    assert _ask(backend, messages, short)[1].reason == "stop"
    _, end = _ask(backend, messages, dataclasses.replace(short, ignore_end=True))
    assert end.reason == "length"
    assert end.stats.generated_tokens == 64


def test_a_load_tells_how_far_it_is(backend: LlamaBackend, reached: list[float]) -> None:
    assert backend.info.path
    assert reached == sorted(reached) and len(set(reached)) > 20
    assert reached[0] >= 0 and reached[-1] == 1


def test_a_load_that_nobody_waits_for_is_given_up(backend: LlamaBackend, smollm2: Path) -> None:
    shares: list[float] = []

    def until_half(share: float) -> bool:
        shares.append(share)
        return share < 0.5

    with pytest.raises(ModelError, match="does not load"):
        Model(smollm2, progress=until_half)
    assert 0.5 <= shares[-1] < 0.9 and backend.info.path


def test_what_the_child_could_not_time_is_not_timed_here(
    backend: LlamaBackend, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise EngineError("timed in the server's own process")

    assert backend.info.path  # the probe result is cached, so opening is quick
    monkeypatch.setattr("engine.probe.describe.batch_costs", lambda *_: None)  # the child crashed
    monkeypatch.setattr("engine.serving.backend.measure", crash)
    small = EngineConfig(context=64, slots=1)
    LlamaBackend.open(smollm2, small).close()
    closed: list[Runner] = []
    close = Runner.close
    monkeypatch.setattr(Runner, "close", lambda runner: (closed.append(runner), close(runner)))
    with pytest.raises(EngineError, match="own process"):  # no child times a cache of this type
        LlamaBackend.open(smollm2, dataclasses.replace(small, kv_type="q8_0"))
    assert len(closed) == 1


def test_who_reads_a_long_question_holds_up_nobody(backend: LlamaBackend) -> None:
    with ThreadPoolExecutor(1) as other, backend._open_prompts():
        assert other.submit(backend.prompt_tokens, user("Hi")).result(10)
        assert backend._model._owners == 2, "the weights stay until it is read, whatever is closed"
    assert backend._model._owners == 1
