"""Soak test: users cancel and disconnect for minutes; checks every answer, and memory over time."""

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

from bench.oracle import Oracle, ReferenceConversation, ReferenceTurn, assistant, user
from engine.config import EngineConfig, SamplingParams
from engine.core.stats import EngineStats
from engine.llama.model import Model
from engine.probe.cpu_backend import load_cpu_backend
from engine.serving.backend import LlamaBackend
from engine.types import Finished, Message, TextDelta
from pipeline.errors import InputError

_SAMPLE_SECONDS = 0.25
_PAUSE_INTERVAL = 5.0  # seconds
_CLEAN_UP = 10.0  # seconds within which the engine must notice the last disconnect
_WARM_UP = 0.1  # of the run: caches fill up and every thread allocates its memory
_ACTIONS, _WEIGHTS = ("read", "cancel", "hang up", "cancel at once"), (12, 2, 2, 1)


@dataclass(frozen=True)
class SoakConfig:
    """Settings of a soak test: `users` threads choose among `conversations` reference conversations.

    `context` is in tokens, `cache_ram` in bytes.
    """

    model: Path
    users: int
    minutes: float
    conversations: int
    slots: int
    cache_ram: int
    turns: int = 3
    context: int = 1024
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options. Raises InputError."""
        if not self.model.is_file():
            raise InputError(f"--model {self.model} is not a file: give a GGUF")
        if self.users < 1 or self.conversations < 1 or self.minutes <= 0:
            raise InputError("--users and --talks are 1 or more, --minutes is more than 0")


@dataclass
class SoakResult:
    """Counts of user `actions`, descriptions of `wrong` answers, and `memory`: resident bytes over time."""

    actions: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    stats: EngineStats = field(default_factory=EngineStats)
    seconds: float = 0.0

    @property
    def thirds(self) -> tuple[float, float]:
        """Return the mean resident bytes of the first and of the last third, after the warm-up."""
        warm = self.memory[int(len(self.memory) * _WARM_UP) :]
        third = max(1, len(warm) // 3)
        return statistics.fmean(warm[:third]), statistics.fmean(warm[-third:])

    @property
    def growth(self) -> float:
        """Return the memory of the last third over that of the first; 1 means no growth."""
        first, last = self.thirds
        return last / first


def soak(config: SoakConfig, log: Callable[[str], None] = lambda line: None) -> SoakResult:
    """Open the model, compute the reference answers and run the users. Re-raises a user thread's error."""
    settings = EngineConfig(
        context=config.context,
        slots=config.slots,
        queue=config.users,
        cache_ram=config.cache_ram,
        threads=config.threads,
    )
    with LlamaBackend.open(config.model, settings) as backend:
        log(f"working out {config.conversations} conversations")
        conversations = _reference_conversations(config, backend)
        log(f"{config.users} users for {config.minutes:g} minutes")
        return _Users(config, backend, conversations).run()


def _reference_conversations(config: SoakConfig, backend: LlamaBackend) -> list[ReferenceConversation]:
    threads = backend.info.threads
    model = Model(config.model, extra_buffers=load_cpu_backend(config.model, threads=threads).extra_buffers)
    oracle = Oracle(model, backend.prompt_tokens, threads, config.context)
    try:
        first = config.seed * config.conversations
        return [oracle.conversation(first + n, config.turns) for n in range(config.conversations)]
    finally:
        oracle.close()
        model.close()


class _Users:
    """The user threads and their findings."""

    def __init__(
        self, config: SoakConfig, backend: LlamaBackend, conversations: Sequence[ReferenceConversation]
    ) -> None:
        self._config, self._backend, self._conversations = config, backend, conversations
        self._result, self._lock = SoakResult(), threading.Lock()
        self._errors: list[BaseException] = []
        self._may_ask = threading.Event()
        self._end = 0.0

    def run(self) -> SoakResult:
        """Run the users until the time is up, wait for their last answers and return the result."""
        process, began = psutil.Process(), time.monotonic()
        self._end, next_pause = began + self._config.minutes * 60, began + _PAUSE_INTERVAL
        self._may_ask.set()
        threads = [threading.Thread(target=self._user, args=(n,)) for n in range(self._config.users)]
        for thread in threads:
            thread.start()
        while time.monotonic() < self._end and not self._errors:
            self._result.memory.append(process.memory_info().rss)
            time.sleep(_SAMPLE_SECONDS)
            if time.monotonic() > next_pause:
                self._pause()
                next_pause = time.monotonic() + _PAUSE_INTERVAL
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        self._result.stats = self._idle(time.monotonic() + _CLEAN_UP)
        if left := self._result.stats.running + self._result.stats.waiting:
            self._result.wrong.append(f"{left} answers for nobody")
        self._result.seconds = time.monotonic() - began
        return self._result

    def _pause(self) -> None:
        """Hold new questions until the engine is idle; then all users ask at once, with every slot free."""
        self._may_ask.clear()
        self._idle(self._end)
        self._may_ask.set()

    def _idle(self, until: float) -> EngineStats:
        """Wait until the engine is idle, or `until` (monotonic seconds), and return its statistics."""
        while (stats := self._backend.stats()).running + stats.waiting and time.monotonic() < until:
            time.sleep(0.01)
        return stats

    def _user(self, number: int) -> None:
        draw = random.Random(f"{self._config.seed} {number}")
        try:
            while time.monotonic() < self._end and not self._errors:
                self._converse(draw.choice(self._conversations), draw)
        except BaseException as error:  # noqa: BLE001 - the thread's boundary: raised again by `run`
            self._errors.append(error)

    def _converse(self, conversation: ReferenceConversation, draw: random.Random) -> None:
        messages = [conversation.system]
        last = draw.randrange(len(conversation.turns))
        for number, turn in enumerate(conversation.turns[: last + 1]):
            messages.append(user(turn.question))
            self._may_ask.wait()
            action = draw.choices(_ACTIONS, _WEIGHTS)[0]
            # The next turn needs the whole answer; the last answer may have any length.
            length = turn.num_tokens + turn.ends if number < last else draw.randint(1, turn.num_tokens)
            self._ask(messages, turn, action, length, draw.randrange(12))
            if action != "read" or time.monotonic() > self._end:
                return
            messages.append(assistant(turn.texts[-1]))

    def _ask(
        self, messages: Sequence[Message], turn: ReferenceTurn, action: str, length: int, patience: int
    ) -> None:
        """Ask one question and check its answer; "cancel" and "hang up" happen after `patience` events."""
        sampling = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=length)
        stream = self._backend.stream(messages, sampling)
        if action == "cancel at once":
            stream.cancel()
        text, finished = "", None
        for count, event in enumerate(stream):
            if isinstance(event, TextDelta):
                text += event.delta
            elif isinstance(event, Finished):
                finished = event
            if count == patience and action == "hang up":
                break
            if count == patience and action == "cancel":
                stream.cancel()
        fault = _fault(turn, action, length, text, finished)
        with self._lock:
            self._result.actions[action] += 1
            if fault:
                self._result.wrong.append(f"{messages[-1]['content']!r}: {fault}")


def _fault(turn: ReferenceTurn, action: str, length: int, text: str, finished: Finished | None) -> str:
    """Return how an answer differs from its reference, or an empty string."""
    if finished is None:
        return "" if turn.texts[-1].startswith(text) else f"said {text!r}, not {turn.texts[-1]!r}"
    count = finished.stats.generated_tokens
    if text != turn.texts[min(count, turn.num_tokens)]:
        return f"said {text!r} with {count} tokens, not {turn.texts[min(count, turn.num_tokens)]!r}"
    if finished.reason == "cancelled" and action.startswith("cancel"):
        return ""
    expected = ("stop", turn.num_tokens) if length > turn.num_tokens else ("length", length)
    if (finished.reason, count) == expected:
        return ""
    return f"ended with {finished.reason} after {count}, not {expected}"
