"""LlamaBackend: a ChatBackend with a GGUF in this process."""

from __future__ import annotations

import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.system import free_memory
from engine.config import EngineConfig, SamplingParams, sampling_over
from engine.core.engine import Engine
from engine.core.speculative import BatchCostModel, measure
from engine.core.stats import Counters, EngineStats
from engine.errors import EngineStopped, QueueFull, RequestError
from engine.llama.grammar import compile_grammar
from engine.llama.model import Adapter, Model
from engine.llama.runner import Runner
from engine.probe.cpu_backend import CpuChoice, check_adapter, is_known, load_cpu_backend
from engine.probe.describe import describe
from engine.prompt.chat_template import ChatTemplate, PromptBuilder
from engine.prompt.truncation import Window, keep_all, truncate
from engine.serving.stream import LlamaStream
from engine.serving.worker import Worker
from engine.types import Message, ModelInfo, ProgressCallback, TextDelta, no_progress, scaled
from ggufio import shards


def check_room(path: Path, free: int | None) -> None:
    """Raise QueueFull if a model's weights alone are more than the `free` bytes; None lets all pass."""
    size = shards.size(path)
    if free is not None and size > free:
        raise QueueFull(
            f"{path.name} needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB of memory are free: "
            "try again when fewer models are in use, or choose a smaller one"
        )


_PROBED = 0.5  # of the way to an answer, where the file was never seen


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
        cls, model_path: Path, settings: EngineConfig | None = None, reach: ProgressCallback = no_progress
    ) -> LlamaBackend:
        """Vouch for the file in a child process (once), load it, start the engine.

        `reach` is told how far that is. Raises ModelError, BackendError, or EngineError when the memory does
        not suffice or `reach` says to stop.
        """
        settings = settings or EngineConfig()
        begun = 0.0 if is_known(model_path, settings.use_extra_buffers) else _PROBED
        known = describe(model_path, settings, scaled(reach, 0.0, _PROBED))
        info, facts, choice = known.info, known.probe.facts, known.probe.choice
        load_cpu_backend(model_path, threads=info.threads, extra_buffers=settings.use_extra_buffers)
        model = Model(model_path, extra_buffers=choice.extra_buffers, reach=scaled(reach, begun, 1.0))
        try:
            prompts = PromptBuilder(
                ChatTemplate(facts.template, facts.bos, facts.eos), model.vocab, facts.control
            )
            worker = _worker(model, info, settings, known.costs, measures=not known.timed)
        except Exception:
            model.close()
            raise
        reach(1.0)
        return cls(model, prompts, worker, info, settings=settings, choice=choice)

    def with_adapter(
        self, path: Path, scale: float = 1.0, reach: ProgressCallback = no_progress
    ) -> LlamaBackend:
        """A second backend: the same weights in memory, with one LoRA adapter's GGUF on them at `scale`.

        Each is closed on its own, in any order. Raises ModelError, or EngineError as `open` does.
        """
        checking = scaled(reach, 0.0, 0.7)
        check_adapter(Path(self._info.path), path, self._choice, self._info.threads, checking)
        info, settings, choice = replace(self._info, adapter=str(path)), self._settings, self._choice
        with ExitStack() as undo:
            model = self._shared()
            undo.callback(model.close)
            adapter = Adapter(model, path, scale)
            undo.callback(adapter.close)
            worker = _worker(model, info, settings, adapter=adapter)
            undo.pop_all()
        reach(1.0)
        return LlamaBackend(
            model, self._prompts, worker, info, settings=settings, choice=choice, adapter=adapter
        )

    @property
    def info(self) -> ModelInfo:
        """The model that answers."""
        return self._info

    @property
    def down(self) -> bool:
        """Whether the engine is closed or failed for good, so that only a new backend helps."""
        return self._worker.down

    def stats(self) -> EngineStats:
        """What the engine has done so far; after a restart the counts go on."""
        return self._worker.stats()

    def stream(self, messages: Sequence[Message], sampling: SamplingParams | None = None) -> LlamaStream:
        """Start an answer. Raises RequestError, QueueFull or EngineStopped at once.

        A conversation that outgrew its context loses its oldest turns (a `Dropped` then comes first) or is
        refused, as `sampling.overflow` says.
        """
        sampling = sampling or SamplingParams()
        window = self._window(messages, sampling)
        self._check(window.tokens)
        begun = messages[-1]["role"] == "assistant"
        settled = self._settle(sampling)
        return LlamaStream(self._worker, window.tokens, settled, window.dropped, continues=begun)

    def ask(self, question: str, system_prompt: str = "", **sampling: Any) -> str:
        """Return the whole answer to one question; `sampling` sets fields of SamplingParams by name.

        Fields that are not given have the model's recommended values. Raises as `stream` does.
        """
        messages: list[Message] = [{"role": "system", "content": system_prompt}] if system_prompt else []
        messages.append({"role": "user", "content": question})
        stream = self.stream(messages, sampling_over(self._info.recommended, sampling))
        return "".join(event.delta for event in stream if isinstance(event, TextDelta))

    def _window(self, messages: Sequence[Message], sampling: SamplingParams) -> Window:
        """The turns that leave the answer its room: what it may need, but no more than a quarter."""
        context = self._info.context
        answer = min(sampling.max_tokens, self._settings.max_new_tokens or context, context // 4)
        room = min(context - answer, self._longest_prompt)
        with self._reading() as prompts:
            if sampling.overflow == "refuse":
                return keep_all(messages, prompts.tokens(messages), room)
            return truncate(messages, room, prompts.tokens, prompts.measure)

    @contextmanager
    def _reading(self) -> Iterator[PromptBuilder]:
        """The vocabulary outlives what is read with it: for that long it has one more owner."""
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
        """The prompt of a conversation as token ids. Raises RequestError."""
        with self._reading() as prompts:
            return prompts.tokens(messages)

    def _settle(self, sampling: SamplingParams) -> SamplingParams:
        with self._reading():
            return compile_grammar(sampling, self._model.vocab)

    @property
    def _longest_prompt(self) -> int:
        most = self._info.context - 1
        return min(most, self._settings.max_prompt_tokens or most)

    def _check(self, tokens: list[int]) -> None:
        most = self._longest_prompt
        if not tokens:
            raise RequestError("the prompt is empty: send a message")
        if len(tokens) > most:
            raise RequestError(
                f"the message is {len(tokens) - most} tokens too long: the prompt has {len(tokens)}, and "
                f"{most} are the most that it may have here; shorten it or raise the context"
            )

    def close(self) -> None:
        """Stop all answers (their streams raise EngineStopped) and free the model. Twice is no error."""
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
    """With an engine, built anew when it fails; without `costs`, it measures them or does without."""
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
            timed = costs or (_measured(runner, settings) if measures else None)
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
            counters=counters,
        )

    return Worker(build, capacity=settings.slots + settings.queue)


def _measured(runner: Runner, settings: EngineConfig) -> BatchCostModel | None:
    """What guessing ahead costs, or None where it is not wanted or cannot be taken back."""
    if not settings.speculation or not runner.can_cut:
        return None
    return measure(runner, time.perf_counter)


class ModelLoader:
    """Opens models with the same settings, all from one thread (see engine.serving.model_pool)."""

    def __init__(self, settings: EngineConfig) -> None:
        self._settings = settings
        self._opened: dict[Path, weakref.WeakSet[LlamaBackend]] = defaultdict(weakref.WeakSet)

    def __call__(
        self, path: Path, adapter: Path | None = None, reach: ProgressCallback = no_progress
    ) -> LlamaBackend:
        """The model of a file, with an adapter's GGUF on it if one is given. Raises as LlamaBackend does."""
        opened = self._adapted(path, adapter, reach) if adapter is not None else self._open(path, reach)
        self._opened[path].add(opened)
        return opened

    def describe(self, path: Path) -> ModelInfo:
        """What is known of a model before it is opened. Raises ModelError or BackendError."""
        return describe(path, self._settings).info

    def _open(self, path: Path, reach: ProgressCallback) -> LlamaBackend:
        """Load weights, if there is room beside those in memory; the only model always has its try."""
        if any(self._opened.values()):
            check_room(path, free_memory())
        return LlamaBackend.open(path, self._settings, reach)

    def _adapted(self, path: Path, adapter: Path, reach: ProgressCallback) -> LlamaBackend:
        for there in list(self._opened[path]):
            try:
                return there.with_adapter(adapter, reach=reach)
            except EngineStopped:  # it was closed, and only lingers until it is collected
                continue
        with self._open(path, scaled(reach, 0.0, 0.6)) as plain:
            return plain.with_adapter(adapter, reach=scaled(reach, 0.6, 1.0))
