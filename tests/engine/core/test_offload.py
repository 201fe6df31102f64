from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import EngineConfig, SamplingParams
from engine.core.engine import Engine
from engine.core.prefix_cache import PrefixCache, SavedState
from engine.llama.model import Model
from engine.llama.runner import Runner
from engine.probe.cpu_backend import load_cpu_backend
from engine.serving.backend import LlamaBackend
from engine.types import Message
from tests.engine.fakes import FakeRunner, prompt
from tests.engine.helpers import GREEDY, ask, run, text_of, user

FIRST, SECOND = "first" * 20, "another" * 15


def _engine(runner: FakeRunner, cache_ram: int = 1_000_000) -> Engine:
    return Engine(runner, slots=1, context=1000, queue=8, batch=64, cache_ram=cache_ram)


def _turns(engine: Engine, *texts: str) -> list[str]:
    out = []
    for number, text in enumerate(texts):
        out.append(text_of(run(engine, engine.add(number, prompt(text), GREEDY))[number]))
    return out


def _saved(tokens: list[int], size: int) -> SavedState:
    return SavedState(tokens, bytearray(size))


def test_a_conversation_that_comes_back_is_restored_and_not_read_again() -> None:
    runner = FakeRunner()
    engine = _engine(runner)
    assert _turns(engine, FIRST, SECOND) == [FIRST[::-1], SECOND[::-1]]
    before = runner.computed
    assert _turns(engine, FIRST) == [FIRST[::-1]]
    assert runner.computed - before == len(FIRST), "the answer only: the logits after the prompt are kept"
    stats = engine.stats()
    assert (stats.evictions, stats.saves, stats.restores) == (2, 2, 1) and stats.saved_bytes > 0


@pytest.mark.parametrize("cache_ram", [0, 200])
def test_without_room_it_is_read_again(cache_ram: int) -> None:
    engine = _engine(FakeRunner(), cache_ram)
    assert _turns(engine, FIRST, SECOND, FIRST) == [FIRST[::-1], SECOND[::-1], FIRST[::-1]]
    assert engine.stats().restores == engine.stats().saved_bytes == 0


@pytest.mark.parametrize("refuses", [True, False])
def test_a_state_that_cannot_be_used_is_read_again(refuses: bool) -> None:
    runner = FakeRunner(can_truncate=refuses)
    runner.refuses_states = refuses
    engine = _engine(runner)
    assert _turns(engine, FIRST, SECOND, FIRST) == [FIRST[::-1], SECOND[::-1], FIRST[::-1]]


def test_a_short_one_is_not_worth_saving() -> None:
    engine = _engine(FakeRunner())
    _turns(engine, "ab", "cd", "ef")
    assert engine.stats().saves == 0 and engine.stats().evictions == 2


def test_the_same_conversation_going_on_evicts_nothing() -> None:
    engine = _engine(FakeRunner())
    _turns(engine, FIRST, FIRST, FIRST)
    assert engine.stats().evictions == engine.stats().saves == 0


def test_the_least_recently_used_goes_first_and_the_budget_holds() -> None:
    store = PrefixCache(100)
    one, two, three = (_saved([n] * 5, 40) for n in (1, 2, 3))
    store.insert(one)
    store.insert(two)
    store.pop(one, keep=True)
    store.insert(three)
    assert store.find([2] * 5) == (None, 0) and store.find([1] * 9) == (one, 5)
    assert store.find([1] * 3) == (one, 3) and store.find([1] * 3, whole=True) == (None, 0)
    assert store.used == 80 and len(store) == 2
    assert not store.accepts([9], 101) and not store.accepts([1] * 3, 10) and store.accepts([1] * 6, 10)


def test_a_longer_state_replaces_its_own_beginning() -> None:
    store = PrefixCache(100)
    store.insert(_saved([1, 2], 40))
    store.insert(_saved([1, 2, 3], 50))
    assert len(store) == 1 and store.used == 50


def test_real_text_is_the_same_with_and_without_eviction(smollm2: Path, cache: Path) -> None:
    story = "Once upon a time there was a lighthouse keeper who collected clocks. " * 6
    sampling = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=16)
    talks: list[list[Message]] = [user(f"{name}: {story} What next?") for name in ("Ann", "Ben", "Cid")]

    def answers(settings: EngineConfig) -> tuple[list[str], int, int]:
        with LlamaBackend.open(smollm2, settings) as backend:
            texts, cached = [], 0
            chats = [list(talk) for talk in talks]
            for _ in range(2):
                for chat in chats:
                    text, finished = ask(backend, chat, sampling)
                    chat += [{"role": "assistant", "content": text}, *user("And then?")]
                    texts.append(text)
                    cached += finished.stats.cached_tokens
            return texts, cached, backend.stats().restores

    roomy, roomy_cached, _ = answers(EngineConfig(context=512, slots=4))
    saved, saved_cached, restores = answers(EngineConfig(context=512, slots=1))
    bare, bare_cached, none = answers(EngineConfig(context=512, slots=1, cache_ram=0))
    assert roomy == saved == bare and all(roomy)
    assert restores >= 3 > none == 0 and saved_cached > 3 * bare_cached
    assert saved_cached >= 0.9 * roomy_cached


def test_a_copy_is_of_what_was_there_and_not_of_what_is_restored_after_it(smollm2: Path, cache: Path) -> None:
    """llama.cpp copies when the next decode starts; by then the source slot may hold a restored cache."""
    sampling = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=8)
    model = Model(smollm2, extra_buffers=load_cpu_backend(smollm2).extra_buffers)

    def tokens(text: str) -> list[int]:
        return model.vocab.tokenize(text, special=False)

    rules = tokens("The captain's parrot is green, old and called Peter. It eats nothing but almonds. ")
    long = rules + tokens("Once it flew to the harbour, and then to the market, and back again. " * 3)
    other = tokens("In winter the baker's oven is cold, and nobody knows who has taken the wood. " * 2)
    filler = tokens("One two three four five six seven eight nine ten eleven twelve thirteen. " * 2)
    asked = rules + tokens("What is the parrot called? It is called")

    def answers(slots: int, *batches: list[list[int]]) -> list[str]:
        runner = Runner(model, slots=slots, context=256, batch=256, threads=2)
        engine = Engine(runner, slots=slots, context=256, queue=8, batch=256, cache_ram=64 << 20)
        texts = []
        for number, batch in enumerate(batches):
            for place, one in enumerate(batch):
                engine.add(10 * number + place, list(one), sampling)
            done = run(engine)
            texts += [text_of(done[10 * number + place]) for place in range(len(batch))]
        engine.close()
        return texts

    single = answers(1, [asked])
    # `long` evicts `other` from slot 0, while slot 1 holds `filler`. Then, in one step, `asked` copies from
    # slot 0 to slot 1, and `other` is restored to slot 0.
    together = answers(2, [other], [filler], [long], [asked, other])
    model.close()
    assert together[-2:] == [*single, together[0]]


def test_a_cache_that_is_still_to_be_copied_is_not_saved() -> None:
    """The same prompt again is answered from kept logits, in a copy that is made only at the next decode."""
    runner = FakeRunner()
    engine = Engine(runner, slots=2, context=1000, queue=8, batch=64, cache_ram=1_000_000)
    assert _turns(engine, FIRST) == [FIRST[::-1]]
    events = engine.add(1, prompt(FIRST), replace(GREEDY, max_tokens=1))  # over before any decode
    events += engine.add(2, prompt(SECOND), GREEDY)
    events += engine.add(3, prompt("third" * 12), GREEDY)  # takes the copy's slot
    said = run(engine, events)
    assert [text_of(said[number]) for number in (1, 2, 3)] == [
        FIRST[-1],
        SECOND[::-1],
        ("third" * 12)[::-1],
    ]
    assert _turns(engine, FIRST, SECOND) == [FIRST[::-1], SECOND[::-1]]
