"""A ChatBackend that streams a scripted answer, so that tests of the page need no model."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence

from engine.config import SamplingParams
from engine.errors import RequestError
from engine.prompt.chat_template import NO_TOOLS
from engine.prompt.message_checks import check_prompt
from engine.types import (
    AnswerToScore,
    EmbeddingVector,
    Event,
    Finished,
    FinishReason,
    Message,
    ModelInfo,
    PrefillProgress,
    PromptInput,
    Queued,
    RequestStats,
    TextDelta,
    TextScores,
    TextToEmbed,
    TextToScore,
    ToolRequest,
)

INFO = ModelInfo("Fake", "fake.gguf", "llama", "Q4_K_M", 135_000_000, 91_000_000, 2048, "haswell", 2)


class FakeStream:
    """Emits its events, each after a pause in seconds; raises an error in the list."""

    def __init__(self, events: Sequence[Event | Exception], pause: float) -> None:
        self._events, self._pause = events, pause
        self._rest: AsyncIterator[Event] | None = None
        self._error: Exception | None = None
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()

    def __iter__(self) -> Iterator[Event]:
        for event in self._events:
            if self._cancelled.wait(self._pause):
                yield finished("cancelled")
                return
            if isinstance(event, Exception):
                raise event
            yield event

    async def batch(self, seconds: float) -> list[Event]:
        if self._error is not None:
            raise self._error
        self._rest = self._rest or aiter(self)
        events, end = [await anext(self._rest)], time.monotonic() + seconds
        while time.monotonic() < end and not isinstance(events[-1], Finished):
            try:
                events.append(await anext(self._rest))
            except Exception as error:  # noqa: BLE001 - raised by the next call
                self._error = error
                break
        return events

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self._events:
            end = time.monotonic() + self._pause
            while not self._cancelled.is_set() and (left := end - time.monotonic()) > 0:
                await asyncio.sleep(min(left, 0.01))
            if self._cancelled.is_set():
                yield finished("cancelled")
                return
            if isinstance(event, Exception):
                raise event
            yield event


class FakeBackend:
    """Answers every question with `answer`, word by word; `asked` and `continued` record the requests."""

    def __init__(
        self,
        answer: str = "one two three",
        pause: float = 0.0,
        error: Exception | None = None,
        *,
        info: ModelInfo = INFO,
    ) -> None:
        self.info = info
        self.answer, self.pause, self.error = answer, pause, error
        self.refuse: Exception | None = None
        self.asked: list[tuple[list[Message], SamplingParams]] = []
        self.embedded: list[str] = []
        self.scored: list[tuple[TextToScore, SamplingParams]] = []
        self.continued: list[tuple[str, SamplingParams]] = []
        self.prompts: list[PromptInput] = []
        self.streams: list[FakeStream] = []
        self.closed = False

    def stream(self, prompt: PromptInput, sampling: SamplingParams) -> FakeStream:
        assert not in_event_loop(), (
            "a long prompt would block the event loop: see ui.models.registry.start_stream"
        )
        if self.refuse is not None:
            raise self.refuse
        check_prompt(prompt)
        if isinstance(prompt, ToolRequest) and self.info.tools is None:
            raise RequestError(NO_TOOLS)
        self.prompts.append(prompt)
        if isinstance(prompt, TextToEmbed):
            self.embedded.append(prompt.text)
            stats = RequestStats(len(prompt.text.split()), 0, 0, 0.0, 0.0, 0.0)
            return FakeStream([EmbeddingVector([0.6, 0.8]), Finished("stop", stats)], self.pause)
        if isinstance(prompt, AnswerToScore):
            words = re.findall(r"\s*\S+", prompt.messages[-1]["content"])
            best = [{word: -0.5, " other": -1.0} for word in words]
            scores = TextScores([*words, ""], [*[-0.5] * len(words), -0.1], [*best, {}])  # type: ignore[list-item]
            return FakeStream([scores, Finished("length", RequestStats(9, 0, 1, 0, 0, 0))], self.pause)
        if isinstance(prompt, TextToScore):
            self.scored.append((prompt, sampling))
            likeliest = [None, {" b": -0.5}, {" c": -1.0}]
            scores = TextScores(["a", " b", " c"], [None, -0.5, -1.0], likeliest)  # type: ignore[arg-type]
            stats = RequestStats(2, 0, 1, 0.0, 0.0, 0.0)
            return FakeStream([scores, Finished("length", stats)], self.pause)
        if isinstance(prompt, str):
            self.continued.append((prompt, sampling))
        elif isinstance(prompt, ToolRequest):
            self.asked.append(([*prompt.messages], sampling))
        else:
            self.asked.append((list(prompt), sampling))
        stream = FakeStream(self._script(sampling), self.pause)
        self.streams.append(stream)
        return stream

    def close(self) -> None:
        self.closed = True

    def _script(self, sampling: SamplingParams) -> list[Event | Exception]:
        words = self.answer.split(" ")
        pieces = [word if not index else f" {word}" for index, word in enumerate(words)]
        most = sampling.max_tokens or self.info.context
        cut = len(pieces) > most
        texts = [TextDelta(piece) for piece in pieces[:most]]
        end: Event | Exception = self.error or finished("length" if cut else "stop", len(texts))
        return [Queued(2), Queued(1), PrefillProgress(0, 10, 0), PrefillProgress(10, 10, 0), *texts, end]


def in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def finished(reason: FinishReason, tokens: int = 0) -> Finished:
    return Finished(reason, RequestStats(10, 0, tokens, 0.0, 0.1, 0.5))


if __name__ == "__main__":  # serves a page without a model: python -m tests.ui.fake_backend [PORT]
    import sys

    from ui.cli import address_of, bind
    from ui.models.registry import one_model
    from ui.server.app import create_app, serve

    text = "Here is **a list** and some `code`:\n\n```python\ndef f(x):\n    return x < 2\n```\n\n" * 4
    bound = bind("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 7999)
    app = create_app(one_model(FakeBackend(text, 0.08)), 64)
    serve(app, bound, lambda: print("Ready:", address_of(bound), flush=True))
