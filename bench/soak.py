"""Soak test: users cancel and disconnect for minutes, and one chat gets long.

The model runs in a process of its own, as in the app. Checks every answer of the users and some of the
chat, and the memory and file descriptors of both processes.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.oracle import OracleJob, ReferenceConversation, ReferenceTurn, assistant, system, user, work_out
from bench.process_usage import Sampler, Usage
from bench.workload import story
from engine.config import EngineConfig, SamplingParams
from engine.core.stats import EngineStats
from engine.process.supervisor import ProcessBackend, ProcessLoader
from engine.types import Finished, Message, TextDelta
from pipeline.errors import InputError

_POLL_SECONDS = 0.1
_PAUSE_INTERVAL = 5.0  # seconds
_CLEAN_UP = 10.0  # seconds within which the engine must notice the last disconnect
_ACTIONS, _WEIGHTS = ("read", "cancel", "hang up", "cancel at once"), (12, 2, 2, 1)
_CHAT_TOKENS = 16  # of each answer of the long chat
_CHAT_CHECKS = 20  # answers of the long chat that are checked


@dataclass(frozen=True)
class SoakConfig:
    """Settings of a soak test: `users` threads choose among `conversations` reference conversations.

    Then one chat has `chat_turns` turns; the oldest are dropped when they no longer fit. `context` is in
    tokens, `cache_ram` in bytes.
    """

    model: Path
    users: int
    minutes: float
    conversations: int
    slots: int
    cache_ram: int
    turns: int = 3
    chat_turns: int = 0
    context: int = 1024
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options. Raises InputError."""
        if not self.model.is_file():
            raise InputError(f"--model {self.model} is not a file: give a GGUF")
        if self.users < 1 or self.conversations < 1 or self.minutes <= 0 or self.chat_turns < 0:
            raise InputError(
                "--users and --talks are 1 or more, --minutes more than 0, --chat-turns 0 or more"
            )

    @property
    def engine(self) -> EngineConfig:
        """Return the engine's settings."""
        return EngineConfig(
            context=self.context,
            slots=self.slots,
            queue=self.users,
            cache_ram=self.cache_ram,
            threads=self.threads,
        )


@dataclass
class SoakResult:
    """Counts of user `actions`, descriptions of `wrong` answers, and the `usages` of both processes.

    `checked` answers were compared. `ties` of them left their reference where another token is as likely,
    and are checked up to there.
    """

    actions: Counter[str] = field(default_factory=Counter)
    checked: int = 0
    ties: int = 0
    wrong: list[str] = field(default_factory=list)
    usages: dict[str, Usage] = field(default_factory=dict)
    stats: EngineStats = field(default_factory=EngineStats)
    sure_tokens: float = 0.0  # of a reference answer, on average: those before its first near tie
    turns: int = 0  # of the long chat
    seconds: float = 0.0

    @property
    def flat(self) -> bool:
        """Return whether memory and file descriptors of both processes are flat."""
        return all(usage.is_flat for usage in self.usages.values())

    def compare(
        self, turn: ReferenceTurn, action: str, length: int, text: str, finished: Finished | None
    ) -> None:
        """Count an answer, and whether it is the reference's."""
        self.checked += 1
        if not (fault := _fault(turn, action, length, text, finished)):
            return
        if turn.explains(text, finished is not None and finished.reason == "stop"):
            self.ties += 1
        else:
            self.wrong.append(f"{turn.question!r}: {fault}")


def soak(config: SoakConfig, log: Callable[[str], None] = lambda line: None) -> SoakResult:
    """Work out the reference answers, open the model and run the users. Re-raises a user thread's error."""
    log(f"working out {config.conversations} conversations")
    with tempfile.TemporaryDirectory() as folder:
        first = config.seed * config.conversations
        job = OracleJob(config.model, config.engine, first, config.conversations, config.turns)
        conversations = work_out(job, Path(folder) / "oracle.log").conversations
        with ProcessLoader(config.engine)(config.model) as backend:
            users = _Users(config, backend, conversations)
            with Sampler({"server": os.getpid, "model": lambda: backend.pid}) as sampler:
                log(f"{config.users} users for {config.minutes:g} minutes")
                result = users.run()
                if config.chat_turns:
                    log(f"one chat of {config.chat_turns} turns")
                chats = _chat(config, backend, result)
        result.usages = sampler.usages
        _check_chat(config, chats, result, Path(folder) / "chat.log")
    turns = [turn for conversation in conversations for turn in conversation.turns]
    result.sure_tokens = sum(turn.sure_tokens for turn in turns) / len(turns)
    return result


Chat = tuple[list[Message], str, Finished]
"""Messages, the answer's text, and its end."""


def _chat(config: SoakConfig, backend: ProcessBackend, result: SoakResult) -> list[Chat]:
    """Hold one long chat; return some of its turns, to be checked."""
    sampling = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=_CHAT_TOKENS)
    messages, kept = list[Message](), list[Chat]()
    for turn in range(config.chat_turns):
        messages.append(user(story(f"chat {config.seed} {turn}", 1)))
        events = list(backend.stream(messages, sampling))
        text = "".join(event.delta for event in events if isinstance(event, TextDelta))
        assert isinstance(events[-1], Finished)
        if turn % max(1, config.chat_turns // _CHAT_CHECKS) == 0 or turn == config.chat_turns - 1:
            kept.append((list(messages), text, events[-1]))
        messages.append(assistant(text))
        result.turns += 1
    return kept


def _check_chat(config: SoakConfig, chats: Sequence[Chat], result: SoakResult, log: Path) -> None:
    if chats:
        asked = tuple(
            tuple({"role": one["role"], "content": one["content"]} for one in messages)
            for messages, _, _ in chats
        )
        job = OracleJob(config.model, config.engine, chats=asked, length=_CHAT_TOKENS)
        for turn, (_, text, finished) in zip(work_out(job, log).answers, chats, strict=True):
            result.compare(turn, "read", _CHAT_TOKENS, text, finished)


class _Users:
    """The user threads and their findings."""

    def __init__(
        self, config: SoakConfig, backend: ProcessBackend, conversations: Sequence[ReferenceConversation]
    ) -> None:
        self._config, self._backend, self._conversations = config, backend, conversations
        self._result, self._lock = SoakResult(), threading.Lock()
        self._errors: list[BaseException] = []
        self._may_ask = threading.Event()
        self._end = 0.0

    def run(self) -> SoakResult:
        """Run the users until the time is up, wait for their last answers and return the result."""
        began = time.monotonic()
        self._end, next_pause = began + self._config.minutes * 60, began + _PAUSE_INTERVAL
        self._may_ask.set()
        threads = [threading.Thread(target=self._user, args=(n,)) for n in range(self._config.users)]
        for thread in threads:
            thread.start()
        while time.monotonic() < self._end and not self._errors:
            time.sleep(_POLL_SECONDS)
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
        messages = [system(conversation.system)]
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
        with self._lock:
            self._result.actions[action] += 1
            self._result.compare(turn, action, length, text, finished)


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
