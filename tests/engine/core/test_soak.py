"""Many conversations through few slots with real weights: none lost or mixed up, and memory stays flat."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil

from engine.config import EngineConfig, SamplingParams
from engine.serving.backend import LlamaBackend
from engine.types import Finished
from tests.engine.helpers import user

USERS, CONVERSATIONS, WARM_UP = 10, 200, 60
SAMPLING = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=3)
WORDS = ("apple", "river", "seven", "green", "monday", "piano", "tiger", "paris", "cloud", "spoon")


def _question(number: int) -> str:
    return f"Say the word {WORDS[number % len(WORDS)]}. " + "And nothing else. " * 12


def test_two_hundred_conversations_through_four_slots(smollm2: Path, cache: Path) -> None:
    settings = EngineConfig(context=256, slots=4, cache_ram=32 << 20)
    process, numbers, lock = psutil.Process(), iter(range(CONVERSATIONS)), threading.Lock()
    answers: dict[int, str] = {}
    sizes: list[int] = []

    def talk(backend: LlamaBackend) -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            stream = backend.stream(user(_question(number)), SAMPLING)
            if number % 17 == 5:
                stream.cancel()
            pieces = list(stream)
            assert isinstance(pieces[-1], Finished)
            answers[number] = "" if number % 17 == 5 else "".join(getattr(p, "delta", "") for p in pieces)
            if len(answers) >= WARM_UP:
                sizes.append(process.memory_info().rss)

    with LlamaBackend.open(smollm2, settings) as backend:
        threads = [threading.Thread(target=talk, args=(backend,)) for _ in range(USERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = backend.stats()
        assert (stats.requests, stats.running, stats.waiting) == (CONVERSATIONS, 0, 0)
        assert stats.evictions > 20 and stats.restores > 20 and stats.saved_bytes <= 32 << 20
    assert len(answers) == CONVERSATIONS
    for first in range(len(WORDS)):
        distinct = {a for n, a in answers.items() if n % len(WORDS) == first and a}
        assert len(distinct) == 1, f"the same question, several answers: {distinct}"
    assert max(sizes) - sizes[0] < 12 << 20, "memory grows"
