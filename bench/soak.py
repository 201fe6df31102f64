"""Many people for minutes, who cancel and hang up: no answer lost or crossed, and memory stays flat."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.oracle import Oracle, SureTalk, SureTurn, assistant, user
from engine.config import EngineConfig, SamplingParams
from engine.core.stats import EngineStats
from engine.llama.model import Model
from engine.probe.cpu_backend import load_cpu_backend
from engine.serving.backend import LlamaBackend
from engine.types import Finished, Message, TextDelta
from pipeline.errors import InputError

_SAMPLE_SECONDS = 0.25
_LULL_EVERY = 5.0  # seconds
_CLEAN_UP = 10.0  # seconds in which the engine must see that the last user is gone
_WARM_UP = 0.1  # of the time, in which caches fill up and every thread gets its memory
_FATES, _ODDS = ("read", "cancel", "hang up", "cancel at once"), (12, 2, 2, 1)


@dataclass(frozen=True)
class SoakConfig:
    """`users` talk at a time, out of `talks` conversations; `context` is in tokens, `cache_ram` in bytes."""

    model: Path
    users: int
    minutes: float
    talks: int
    slots: int
    cache_ram: int
    turns: int = 3
    context: int = 1024
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError."""
        if not self.model.is_file():
            raise InputError(f"--model {self.model} is not a file: give a GGUF")
        if self.users < 1 or self.talks < 1 or self.minutes <= 0:
            raise InputError("--users and --talks are 1 or more, --minutes is more than 0")


@dataclass
class SoakResult:
    """What happened. `memory` is resident bytes over time, `wrong` what an answer should not have been."""

    fates: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    stats: EngineStats = field(default_factory=EngineStats)
    seconds: float = 0.0

    @property
    def thirds(self) -> tuple[float, float]:
        """Mean resident bytes of the first and of the last third, after the warm-up."""
        warm = self.memory[int(len(self.memory) * _WARM_UP) :]
        third = max(1, len(warm) // 3)
        return statistics.fmean(warm[:third]), statistics.fmean(warm[-third:])

    @property
    def growth(self) -> float:
        """The last third's memory against the first's; 1 is flat."""
        first, last = self.thirds
        return last / first


def soak(config: SoakConfig, say: Callable[[str], None] = lambda line: None) -> SoakResult:
    """Open the model, work out the answers, let the users talk. Raises what a user's thread raised."""
    settings = EngineConfig(
        context=config.context,
        slots=config.slots,
        queue=config.users,
        cache_ram=config.cache_ram,
        threads=config.threads,
    )
    with LlamaBackend.open(config.model, settings) as backend:
        say(f"working out {config.talks} conversations")
        talks = _sure_talks(config, backend)
        say(f"{config.users} users for {config.minutes:g} minutes")
        return _Crowd(config, backend, talks).run()


def _sure_talks(config: SoakConfig, backend: LlamaBackend) -> list[SureTalk]:
    threads = backend.info.threads
    model = Model(config.model, extra_buffers=load_cpu_backend(config.model, threads=threads).extra_buffers)
    oracle = Oracle(model, backend.prompt_tokens, threads, config.context)
    try:
        return [oracle.talk(config.seed * config.talks + n, config.turns) for n in range(config.talks)]
    finally:
        oracle.close()
        model.close()


class _Crowd:
    """The users, each in a thread, and what they saw."""

    def __init__(self, config: SoakConfig, backend: LlamaBackend, talks: Sequence[SureTalk]) -> None:
        self._config, self._backend, self._talks = config, backend, talks
        self._result, self._lock = SoakResult(), threading.Lock()
        self._errors: list[BaseException] = []
        self._may_ask = threading.Event()
        self._end = 0.0

    def run(self) -> SoakResult:
        """Let them talk until the time is up, and wait for their last answers."""
        process, began = psutil.Process(), time.monotonic()
        self._end, lull = began + self._config.minutes * 60, began + _LULL_EVERY
        self._may_ask.set()
        threads = [threading.Thread(target=self._user, args=(n,)) for n in range(self._config.users)]
        for thread in threads:
            thread.start()
        while time.monotonic() < self._end and not self._errors:
            self._result.memory.append(process.memory_info().rss)
            time.sleep(_SAMPLE_SECONDS)
            if time.monotonic() > lull:
                self._let_all_fall_silent()
                lull = time.monotonic() + _LULL_EVERY
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        self._result.stats = self._idle(time.monotonic() + _CLEAN_UP)
        if left := self._result.stats.running + self._result.stats.waiting:
            self._result.wrong.append(f"{left} answers for nobody")
        self._result.seconds = time.monotonic() - began
        return self._result

    def _let_all_fall_silent(self) -> None:
        """Nobody asks until all is answered. Then all ask at once, and find every slot free."""
        self._may_ask.clear()
        self._idle(self._end)
        self._may_ask.set()

    def _idle(self, until: float) -> EngineStats:
        """The engine's counts, once it has nothing to do, or at that time."""
        while (stats := self._backend.stats()).running + stats.waiting and time.monotonic() < until:
            time.sleep(0.01)
        return stats

    def _user(self, number: int) -> None:
        draw = random.Random(f"{self._config.seed} {number}")
        try:
            while time.monotonic() < self._end and not self._errors:
                self._converse(draw.choice(self._talks), draw)
        except BaseException as error:  # noqa: BLE001 - the thread's boundary: raised again by `run`
            self._errors.append(error)

    def _converse(self, talk: SureTalk, draw: random.Random) -> None:
        messages = [talk.system]
        last = draw.randrange(len(talk.turns))
        for number, turn in enumerate(talk.turns[: last + 1]):
            messages.append(user(turn.question))
            self._may_ask.wait()
            fate = draw.choices(_FATES, _ODDS)[0]
            # Only a whole answer has a next turn; the last one may be of any length.
            length = turn.most + turn.ends if number < last else draw.randint(1, turn.most)
            self._ask(messages, turn, fate, length, draw.randrange(12))
            if fate != "read" or time.monotonic() > self._end:
                return
            messages.append(assistant(turn.shown[-1]))

    def _ask(
        self, messages: Sequence[Message], turn: SureTurn, fate: str, length: int, patience: int
    ) -> None:
        """One question, given up after `patience` events if that is its fate; checks what was said."""
        sampling = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=length)
        stream = self._backend.stream(messages, sampling)
        if fate == "cancel at once":
            stream.cancel()
        said, finished = "", None
        for count, event in enumerate(stream):
            if isinstance(event, TextDelta):
                said += event.delta
            elif isinstance(event, Finished):
                finished = event
            if count == patience and fate == "hang up":
                break
            if count == patience and fate == "cancel":
                stream.cancel()
        fault = _fault(turn, fate, length, said, finished)
        with self._lock:
            self._result.fates[fate] += 1
            if fault:
                self._result.wrong.append(f"{messages[-1]['content']!r}: {fault}")


def _fault(turn: SureTurn, fate: str, length: int, said: str, finished: Finished | None) -> str:
    """What is wrong with an answer, or nothing."""
    if finished is None:
        return "" if turn.shown[-1].startswith(said) else f"said {said!r}, not {turn.shown[-1]!r}"
    count = finished.stats.generated_tokens
    if said != turn.shown[min(count, turn.most)]:
        return f"said {said!r} with {count} tokens, not {turn.shown[min(count, turn.most)]!r}"
    if finished.reason == "cancelled" and fate.startswith("cancel"):
        return ""
    due = ("stop", turn.most) if length > turn.most else ("length", length)
    return "" if (finished.reason, count) == due else f"ended with {finished.reason} after {count}, not {due}"
