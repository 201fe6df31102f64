"""LlamaBackend: a ChatBackend that runs a GGUF in this process."""

from __future__ import annotations

import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from common.system import free_memory
from engine.config import USUAL_ANSWER, EngineConfig, SamplingParams, sampling_over
from engine.core.engine import Engine
from engine.core.speculative import BatchCostModel, measure
from engine.core.stats import Counters, EngineStats
from engine.errors import EngineStopped, RequestError
from engine.llama.constraint import compile_constraint
from engine.llama.model import Adapter, Model
from engine.llama.runner import Runner
from engine.llama.tool_grammar import compile_tools
from engine.probe.cpu_backend import CpuChoice, check_adapter, is_known, load_choice
from engine.probe.describe import describe
from engine.prompt.chat_template import PromptBuilder
from engine.prompt.message_checks import check_prompt
from engine.prompt.truncation import Window, keep_all, last_turn, too_long, truncate
from engine.serving.model_pool import check_room
from engine.serving.reading_queue import Reading, prepare_reading, reading_queue
from engine.serving.stream import EventStream, Sink
from engine.serving.worker import Worker
from engine.types import (
    Message,
    MessagesDropped,
    ModelInfo,
    ProgressCallback,
    PromptInput,
    TextDelta,
    TextToRead,
    ToolRequest,
    no_progress,
    scaled,
)


@dataclass(frozen=True)
class Prompt:
    """A prompt ready to be queued: `dropped` of its turns do not fit, `continues` begins its answer.

    `reading` is what is wanted of the tokens in place of an answer.

    `sampling` has a compiled schema or grammar.
    """

    tokens: list[int]
    sampling: SamplingParams
    dropped: MessagesDropped | None
    continues: bool
    reading: Reading | None = None


_FAR = 2  # times too long: how many tokens it is exactly does not matter any more
_PROBED = 0.5  # share of the progress, for a file without a cached probe


class LlamaBackend:
    """Answers chats with one GGUF. Safe to use from any thread and any event loop."""

    def __init__(
        self,
        model: Model,
        prompts: PromptBuilder,
        worker: Worker,
        info: ModelInfo,
        *,
        settings: EngineConfig,
        choice: CpuChoice,
        adapter: Adapter | None = None,
    ) -> None:
        """Use `open`."""
        self._model, self._prompts, self._worker, self._info = model, prompts, worker, info
        self._settings, self._choice, self._adapter = settings, choice, adapter
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls,
        model_path: Path,
        settings: EngineConfig | None = None,
        progress: ProgressCallback = no_progress,
        on_described: Callable[[ModelInfo], None] = lambda info: None,
    ) -> LlamaBackend:
        """Probe the file in a child process (once), load it, and start the engine.

        `on_described` gets the description after the probe, before the weights are loaded.
        Raises ModelError, BackendError, and EngineError when memory is short or `progress` returns False.
        """
        settings = settings or EngineConfig()
        is_probed = is_known(model_path, settings.use_extra_buffers, settings.chat_template)
        begun = 0.0 if is_probed else _PROBED
        known = describe(model_path, settings, scaled(progress, 0.0, _PROBED))
        info, facts, choice = known.info, known.probe.facts, known.probe.choice
        on_described(info)
        load_choice(model_path, choice)
        model = Model(model_path, extra_buffers=choice.extra_buffers, progress=scaled(progress, begun, 1.0))
        try:
            prompts = facts.prompt_builder(model.vocab)
            worker = _worker(model, info, settings, known.costs, measures=not known.timed)
        except Exception:
            model.close()
            raise
        progress(1.0)
        return cls(model, prompts, worker, info, settings=settings, choice=choice)

    def with_adapter(
        self, path: Path, scale: float = 1.0, progress: ProgressCallback = no_progress
    ) -> LlamaBackend:
        """Return a second backend on the same weights, with one LoRA adapter's GGUF at `scale`.

        The two are closed independently, in any order. Raises ModelError, or EngineError as `open` does.
        """
        checking = scaled(progress, 0.0, 0.7)
        check_adapter(Path(self._info.path), path, self._choice, self._info.threads, checking)
        info, settings, choice = replace(self._info, adapter=str(path)), self._settings, self._choice
        with ExitStack() as undo:
            model = self._shared()
            undo.callback(model.close)
            adapter = Adapter(model, path, scale)
            undo.callback(adapter.close)
            worker = _worker(model, info, settings, adapter=adapter)
            undo.pop_all()
        progress(1.0)
        return LlamaBackend(
            model, self._prompts, worker, info, settings=settings, choice=choice, adapter=adapter
        )

    @property
    def info(self) -> ModelInfo:
        """Return the description of the model."""
        return self._info

    @property
    def settings(self) -> EngineConfig:
        """Return the settings of the engine."""
        return self._settings

    @property
    def failed(self) -> bool:
        """Return whether the engine is closed or failed permanently, so that a new backend is needed."""
        return self._worker.failed

    @property
    def given_up(self) -> bool:
        """Return False: a new backend starts afresh."""
        return False

    def stats(self) -> EngineStats:
        """Return the engine's counters, which survive its restarts."""
        return self._worker.stats()

    def stream(self, prompt: PromptInput, sampling: SamplingParams | None = None) -> EventStream:
        """Start an answer. Raises RequestError, QueueFull or EngineStopped at once.

        A text is continued as it is, and refused if it is too long. A conversation that outgrew its context
        loses its oldest turns (the first event is then MessagesDropped) or is refused, depending on
        `sampling.overflow`.
        """
        self.check_room()
        prepared = self.prepare(prompt, sampling or SamplingParams())
        return EventStream(partial(self.submit, prepared), self._worker.cancel, prepared.dropped)

    def check_room(self, preparing: int = 0) -> None:
        """Raise QueueFull or EngineStopped if `submit` would; `preparing` prompts are not submitted yet."""
        self._worker.check_room(preparing)

    def prepare(self, prompt: PromptInput, sampling: SamplingParams) -> Prompt:
        """Return a prompt, ready to be queued. Raises RequestError, and EngineStopped after `close`."""
        check_prompt(prompt)
        if isinstance(prompt, TextToRead):
            with self._open_prompts() as prompts:
                read = prepare_reading(prompt, prompts, self._info, self._model.vocab.size)
            return Prompt(read.tokens, sampling, read.dropped, True, read.wanted)
        said = prompt.messages if isinstance(prompt, ToolRequest) else prompt
        window = self._window(said, sampling, prompt.functions if isinstance(prompt, ToolRequest) else ())
        self._check(window.tokens)
        continues = isinstance(said, str) or said[-1]["role"] == "assistant"
        return Prompt(window.tokens, self._compile(prompt, sampling), window.dropped, continues)

    def submit(self, prompt: Prompt, sink: Sink) -> int:
        """Queue a prompt; `sink` gets its events and must not block. Raises as Worker.submit."""
        return self._worker.submit(
            prompt.tokens, prompt.sampling, sink, continues=prompt.continues, reading=prompt.reading
        )

    def cancel(self, request: int) -> None:
        """Stop a submitted request. Returns at once."""
        self._worker.cancel(request)

    def ask(self, question: str, system_prompt: str = "", **sampling: Any) -> str:
        """Return the whole answer to one question; `sampling` sets fields of SamplingParams by name.

        Fields that are not given have the model's recommended values. Raises as `stream` does.
        """
        messages: list[Message] = [{"role": "system", "content": system_prompt}] if system_prompt else []
        messages.append({"role": "user", "content": question})
        stream = self.stream(messages, sampling_over(self._info.recommended, sampling))
        return "".join(event.delta for event in stream if isinstance(event, TextDelta))

    def _window(
        self,
        prompt: Sequence[Message] | str,
        sampling: SamplingParams,
        functions: Sequence[Mapping[str, Any]],
    ) -> Window:
        """Truncate the conversation to leave room for the answer: up to a quarter of the context.

        What is far too long is refused before it is rendered. Raises RequestError.
        """
        context = self._info.context
        answer = min(
            sampling.max_tokens or USUAL_ANSWER, self._settings.max_new_tokens or context, context // 4
        )
        room = min(context - answer, self._max_prompt)
        with self._open_prompts() as plain:
            if isinstance(prompt, str):
                return Window([], plain.raw_tokens(prompt, room), None)
            messages, prompts = prompt, plain.with_functions(functions)
            if sampling.overflow == "refuse":
                if prompts.exceeds(messages, _FAR * room):
                    raise too_long(room)
                return keep_all(messages, prompts.tokens(messages), room)
            if prompts.exceeds(last_turn(messages), _FAR * self._max_prompt):
                raise RequestError(
                    f"the message is far too long: it has more than {_FAR * self._max_prompt} tokens, and "
                    f"{self._max_prompt} are the most that it may have here; shorten it or raise the context"
                )
            return truncate(messages, room, prompts)

    @contextmanager
    def _open_prompts(self) -> Iterator[PromptBuilder]:
        """Hold a share of the model, so that its vocabulary stays valid inside the block."""
        model = self._shared()
        try:
            yield self._prompts
        finally:
            model.close()

    def _shared(self) -> Model:
        with self._lock:
            if self._closed:
                raise EngineStopped("the engine was shut down")
            return self._model.share()

    def prompt_tokens(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of a conversation's prompt. Raises RequestError."""
        with self._open_prompts() as prompts:
            return prompts.tokens(messages)

    def _compile(self, prompt: PromptInput, sampling: SamplingParams) -> SamplingParams:
        with self._open_prompts() as prompts:
            if isinstance(prompt, ToolRequest):
                assert prompts.tools is not None  # `with_functions` refuses a model without
                return compile_tools(prompt, prompts.tools, sampling, self._model.vocab)
            return compile_constraint(sampling, self._model.vocab)

    @property
    def _max_prompt(self) -> int:
        longest = self._info.context - 1
        return min(longest, self._settings.max_prompt_tokens or longest)

    def _check(self, tokens: list[int]) -> None:
        longest = self._max_prompt
        if not tokens:
            raise RequestError("the prompt is empty: send a message")
        if len(tokens) > longest:
            raise RequestError(
                f"the message is {len(tokens) - longest} tokens too long: the prompt has {len(tokens)}, and "
                f"{longest} are the most that it may have here; shorten it or raise the context"
            )

    def close(self) -> None:
        """Stop all answers (their streams raise EngineStopped) and free the model. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._worker.close()
        if self._adapter is not None:
            self._adapter.close()
        self._model.close()

    def __enter__(self) -> LlamaBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _worker(
    model: Model,
    info: ModelInfo,
    settings: EngineConfig,
    costs: BatchCostModel | None = None,
    *,
    adapter: Adapter | None = None,
    measures: bool = True,
) -> Worker:
    """Return a worker that rebuilds its engine on failure; `measures` times batches if `costs` is None."""
    counters = Counters()

    def build() -> Engine:
        runner = Runner(
            model,
            slots=settings.slots,
            context=info.context,
            batch=settings.batch,
            threads=info.threads,
            kv_type=settings.kv_type,
            adapter=adapter,
        )
        try:
            timed = (
                None
                if settings.deterministic
                else costs or (_measured(runner, settings) if measures else None)
            )
        except Exception:
            runner.close()
            raise
        return Engine(
            runner,
            slots=settings.slots,
            context=info.context,
            queue=settings.queue,
            batch=settings.batch,
            cache_ram=settings.cache_ram,
            costs=timed,
            limits=settings.limits,
            deterministic=settings.deterministic,
            counters=counters,
        )

    return Worker(build, reading_queue(model, info, adapter), capacity=settings.slots + settings.queue)


def _measured(runner: Runner, settings: EngineConfig) -> BatchCostModel | None:
    """Measure the cost of batches; None when speculation is off or caches cannot be truncated."""
    if not settings.speculation or settings.deterministic or not runner.can_truncate:
        return None
    return measure(runner, time.perf_counter)


class ModelLoader:
    """Opens models with the same settings, all from one thread (see engine.serving.model_pool)."""

    def __init__(self, settings: EngineConfig) -> None:
        self._settings = settings
        self._opened: dict[Path, weakref.WeakSet[LlamaBackend]] = defaultdict(weakref.WeakSet)

    def __call__(
        self, path: Path, adapter: Path | None = None, progress: ProgressCallback = no_progress
    ) -> LlamaBackend:
        """Open a model, with an adapter's GGUF if one is given. Raises as LlamaBackend.open."""
        opened = self._adapted(path, adapter, progress) if adapter is not None else self._open(path, progress)
        self._opened[path].add(opened)
        return opened

    def describe(self, path: Path) -> ModelInfo:
        """Describe a model without opening it. Raises ModelError or BackendError."""
        return describe(path, self._settings).info

    def _open(self, path: Path, progress: ProgressCallback) -> LlamaBackend:
        """Load weights. The memory check is skipped when no other model is loaded."""
        if any(self._opened.values()):
            check_room(path, free_memory())
        return LlamaBackend.open(path, self._settings, progress)

    def _adapted(self, path: Path, adapter: Path, progress: ProgressCallback) -> LlamaBackend:
        for there in list(self._opened[path]):
            try:
                return there.with_adapter(adapter, progress=progress)
            except EngineStopped:  # closed, but not collected yet
                continue
        with self._open(path, scaled(progress, 0.0, 0.6)) as plain:
            return plain.with_adapter(adapter, progress=scaled(progress, 0.6, 1.0))
