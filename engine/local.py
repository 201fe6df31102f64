"""LocalBackend: a ChatBackend with a GGUF in this process."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from engine.backend import ModelInfo
from engine.cpu import Probe, load_cpu_backend, physical_cores, probe_model
from engine.engine import Engine
from engine.errors import EngineError, EngineStopped, RequestError
from engine.request import Event, Finished, Message
from engine.runner import Model, Runner
from engine.settings import EngineSettings, SamplingSettings
from engine.stats import Counters, EngineStats
from engine.template import ChatTemplate, PromptBuilder
from engine.worker import Worker


class LocalBackend:
    """Answers chats with one GGUF. Safe to use from any thread and any event loop."""

    def __init__(
        self,
        model: Model,
        prompts: PromptBuilder,
        worker: Worker,
        info: ModelInfo,
        settings: EngineSettings,
    ) -> None:
        """Use `open`."""
        self._model, self._prompts, self._worker, self._info = model, prompts, worker, info
        self._settings = settings
        self._lock = threading.Lock()  # held while the vocabulary is read, so that `close` cannot free it
        self._closed = False

    @classmethod
    def open(cls, model_path: Path, settings: EngineSettings | None = None) -> LocalBackend:
        """Vouch for the file in a child process (once), load it, start the engine.

        Raises ModelError, BackendError, or EngineError when the memory does not suffice.
        """
        settings = settings or EngineSettings()
        threads = settings.threads or physical_cores()
        extra = settings.use_extra_buffers
        probe = probe_model(model_path, threads=threads, extra_buffers=extra)
        load_cpu_backend(model_path, threads=threads, extra_buffers=extra)
        model = Model(model_path, extra_buffers=probe.choice.extra_buffers)
        try:
            info = _info(model_path, probe, settings, threads)
            facts = probe.facts
            prompts = PromptBuilder(
                ChatTemplate(facts.template, facts.bos, facts.eos), model.vocab, facts.control
            )
            worker = _worker(model, info, settings)
        except Exception:
            model.close()
            raise
        return cls(model, prompts, worker, info, settings)

    @property
    def info(self) -> ModelInfo:
        """The model that answers."""
        return self._info

    def stats(self) -> EngineStats:
        """What the engine has done so far; after a restart the counts go on."""
        return self._worker.stats()

    def stream(self, messages: Sequence[Message], sampling: SamplingSettings | None = None) -> LocalStream:
        """Start an answer. Raises RequestError, QueueFull or EngineStopped at once."""
        return self.stream_tokens(self.prompt_tokens(messages), sampling or SamplingSettings())

    def prompt_tokens(self, messages: Sequence[Message]) -> list[int]:
        """The prompt of a conversation as token ids. Raises RequestError."""
        with self._lock:
            if self._closed:
                raise EngineStopped("the engine was shut down")
            return self._prompts.tokens(messages)

    def stream_tokens(self, tokens: list[int], sampling: SamplingSettings) -> LocalStream:
        """Start an answer to a prompt that is tokenized already. Raises as `stream` does."""
        most = min(self._info.context - 1, self._settings.max_prompt_tokens or self._info.context)
        if not tokens:
            raise RequestError("the prompt is empty: send a message")
        if len(tokens) > most:
            raise RequestError(
                f"the conversation is {len(tokens) - most} tokens too long: it has {len(tokens)}, and {most} "
                "are the most that a prompt may have here; shorten it or raise the context"
            )
        return LocalStream(self._worker, tokens, sampling)

    def close(self) -> None:
        """Stop all answers (their streams raise EngineStopped) and free the model. Twice is no error."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._worker.close()
        self._model.close()

    def __enter__(self) -> LocalBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _worker(model: Model, info: ModelInfo, settings: EngineSettings) -> Worker:
    counters = Counters()
    return Worker(lambda: _engine(model, info, settings, counters), capacity=settings.slots + settings.queue)


def _engine(model: Model, info: ModelInfo, settings: EngineSettings, counters: Counters) -> Engine:
    runner = Runner(
        model,
        slots=settings.slots,
        context=info.context,
        batch=settings.batch,
        threads=info.threads,
        kv_type=settings.kv_type,
    )
    return Engine(
        runner,
        slots=settings.slots,
        context=info.context,
        queue=settings.queue,
        batch=settings.batch,
        limits=settings.limits,
        counters=counters,
    )


def _info(path: Path, probe: Probe, settings: EngineSettings, threads: int) -> ModelInfo:
    facts, choice = probe.facts, probe.choice
    return ModelInfo(
        name=facts.name,
        path=str(path),
        architecture=facts.architecture,
        quantization=facts.quantization,
        parameters=facts.parameters,
        size=facts.size,
        context=min(settings.context, facts.trained_context or settings.context),
        cpu_variant=choice.variant + ("" if choice.extra_buffers else " (no extra buffers)"),
        threads=threads,
    )


class LocalStream:
    """One answer under way; see engine.backend.ChatStream. Iterate it once, from one thread or one task.

    Leaving the loop, cancelling the task, or dropping the stream cancels the answer.
    """

    def __init__(self, worker: Worker, tokens: list[int], sampling: SamplingSettings) -> None:
        """Queue the request. Raises QueueFull and EngineStopped."""
        self._mail = _Mailbox()
        request = worker.submit(tokens, sampling, self._mail.put)
        # The engine knows the mailbox alone, so a stream that nobody holds is collected, and cancels.
        self._cancel = weakref.finalize(self, worker.cancel, request)
        self._cancel.atexit = False
        self._worker, self._request = worker, request

    def cancel(self) -> None:
        """Stop the answer; the stream then ends with Finished(reason="cancelled"). Returns at once."""
        self._worker.cancel(self._request)

    def __iter__(self) -> Iterator[Event]:
        try:
            while True:
                event = _unwrap(self._mail.get())
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.cancel()  # nothing happens when the answer is complete

    async def __aiter__(self) -> AsyncIterator[Event]:
        try:
            while True:
                event = _unwrap(await self._mail.aget())
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.cancel()


def _unwrap(item: Event | EngineError) -> Event:
    if isinstance(item, EngineError):
        raise item
    return item


class _Mailbox:
    """Events from the engine's thread to one reader, who may wait in a thread or in an event loop."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._items: deque[Event | EngineError] = deque()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    def put(self, item: Event | EngineError) -> None:
        """Add an item and wake the reader; never blocks."""
        with self._ready:
            self._items.append(item)
            self._ready.notify()
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            loop, future = waiter
            try:
                loop.call_soon_threadsafe(_wake, future)
            except RuntimeError:  # the reader's event loop is closed: there is no one to wake
                return

    def get(self) -> Event | EngineError:
        """The next item; blocks the thread."""
        with self._ready:
            while not self._items:
                self._ready.wait()
            return self._items.popleft()

    async def aget(self) -> Event | EngineError:
        """The next item; waits in the event loop, and takes no thread for it."""
        while True:
            with self._ready:
                if self._items:
                    return self._items.popleft()
                loop = asyncio.get_running_loop()
                future: asyncio.Future[None] = loop.create_future()
                self._waiter = (loop, future)
            await future


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
