"""Models in processes of their own that are started again when they end: ProcessBackend, ProcessLoader."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import defaultdict, deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from common.system import free_memory
from engine.config import EngineConfig, SamplingParams
from engine.core.stats import EngineStats, at_rest, total
from engine.errors import EngineError, EngineStopped
from engine.process.client import Answer, DiedLoading, ModelProcess
from engine.serving.model_pool import check_room
from engine.serving.stream import EventStream
from engine.types import ModelInfo, ProgressCallback, PromptInput, no_progress, scaled

DEATHS, WINDOW = 3, 600.0
"""A model is given up when its process ended so often within so many seconds."""
_BACK_OFF = 2.0  # seconds before it is started again, from the second time on
_log = logging.getLogger("engine")


class SupervisedModel:
    """The process of one model, for the model itself (adapter 0) and its adapters.

    When it ends, its answers raise EngineStopped, and it is started again with the same adapters; requests
    wait for that. After `DEATHS` within `WINDOW`, or when the file does not load any more, it is given up.
    """

    def __init__(self, path: Path, settings: EngineConfig) -> None:
        """Start the process; `open` waits for the model."""
        self.path, self._settings = path, settings
        self._lock = threading.RLock()
        self._adapters: dict[int, Path | None] = {0: None}  # in use; None is the model itself
        self._numbers = itertools.count(1)
        self._past: dict[int, EngineStats] = {}  # counters of dead processes, by adapter
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._closed = threading.Event()
        self.failure: EngineError | None = None
        self._ready: Future[ModelProcess] = Future()
        self._process = ModelProcess(path, settings, self._restart)

    @property
    def usable(self) -> bool:
        """Return whether it is neither closed nor given up."""
        return self.failure is None and not self._closed.is_set()

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._process.pid

    def describe(self) -> ModelInfo:
        """Wait for the description, which comes before the weights are loaded. Raises as `open`."""
        return self._process.described.result()

    def open(self, progress: ProgressCallback = no_progress) -> ProcessBackend:
        """Wait until the model is loaded. Raises ModelError, BackendError and EngineError."""
        self._process.follow(progress)
        try:
            info = self._process.opened.result()
        except EngineError:
            self.close()
            raise
        self._publish(self._process)
        progress(1.0)
        return ProcessBackend(self, 0, info)

    def attach(self, path: Path, progress: ProgressCallback = no_progress) -> ProcessBackend:
        """Start an engine with a LoRA adapter on the same weights. Raises ModelError and EngineError."""
        number = next(self._numbers)
        info = self._ready.result().attach(number, path, progress).result()
        with self._lock:
            self._adapters[number] = path
        progress(1.0)
        return ProcessBackend(self, number, info)

    def start(
        self, adapter: int, prompt: PromptInput, sampling: SamplingParams
    ) -> tuple[EventStream, Future[None]]:
        """Send a request, once the process is up; return its stream and whether it was accepted, at once."""
        answer = Answer(adapter, prompt, sampling)
        stream = EventStream(answer.listen, answer.cancel)
        self._ready.add_done_callback(answer.send)
        return stream, answer.accepted

    def stats(self, adapter: int) -> EngineStats:
        """Return the counters of an adapter's engine, those of earlier processes included."""
        return total([self._past.get(adapter, EngineStats()), self._process.stats(adapter)])

    def detach(self, adapter: int) -> None:
        """Stop an adapter's engine; the last one ends the process."""
        with self._lock:
            self._adapters.pop(adapter, None)
            last = not self._adapters
        if last:
            self.close()
        else:
            self._process.detach(adapter)

    def close(self) -> None:
        """End the process. Idempotent."""
        self._closed.set()
        with self._lock:
            self._process.close()
        self._give_up(EngineStopped("the engine was shut down"))

    def _restart(self, _: EngineError) -> None:
        """Start again in another thread, as this one is the dead process's reader."""
        with self._lock:
            if self._closed.is_set():
                return
            if self._ready.done():
                self._ready = Future()
            for adapter, stats in self._process.take_stats().items():
                self._past[adapter] = total([self._past.get(adapter, EngineStats()), at_rest(stats)])
        threading.Thread(target=self._start_again, name="restart", daemon=True).start()

    def _start_again(self) -> None:
        """Start the process until it is up, or given up."""
        while not self._is_hopeless() and not self._closed.wait(_BACK_OFF if len(self._deaths) > 1 else 0.0):
            try:
                process = self._new_process()
                process.opened.result()
                self._attach_again(process)
            except (DiedLoading, OSError, RuntimeError) as error:  # such as no memory for another thread
                _log.error("%s could not be started: %s", self.path.name, error)
            except EngineError as error:
                self._give_up(error)
                return
            else:
                self._publish(process)
                return

    def _new_process(self) -> ModelProcess:
        """Raises OSError, and EngineStopped after `close`."""
        with self._lock:
            if self._closed.is_set():
                raise EngineStopped("the engine was shut down")
            self._process = ModelProcess(self.path, self._settings, self._restart)
            return self._process

    def _publish(self, process: ModelProcess) -> None:
        """Let requests use a process, unless it ended meanwhile: then `_restart` starts the next one."""
        with self._lock:
            if process is not self._process or process.ended or self._ready.done():
                return
            _log.info("the process of %s is up", self.path.name)
            self._ready.set_result(process)

    def _is_hopeless(self) -> bool:
        """Count a death; return whether it was one too many, and the model is given up."""
        self._deaths.append(time.monotonic())
        hopeless = len(self._deaths) == DEATHS and self._deaths[-1] - self._deaths[0] < WINDOW
        if hopeless:
            self._give_up(
                EngineStopped(
                    f"{self.path.name} is not started again, as its process ended {DEATHS} times in "
                    f"{WINDOW / 60:.0f} minutes: choose another model, or restart the app"
                )
            )
        return hopeless

    def _attach_again(self, process: ModelProcess) -> None:
        """Attach the adapters in use; requests to one that does not fit any more are refused."""
        with self._lock:
            adapters = dict(self._adapters)
        for number, path in adapters.items():
            if path is not None:
                try:
                    process.attach(number, path).result()
                except EngineError as error:
                    _log.error("%s: %s", self.path.name, error)
        with self._lock:
            for number in {0, *adapters} - self._adapters.keys():  # closed meanwhile
                process.detach(number)

    def _give_up(self, error: EngineError) -> None:
        """Give `error` to all who wait, and to all later requests; only the first call has an effect."""
        with self._lock:
            if self.failure is not None:
                return
            self.failure = error
            if self._ready.done():
                self._ready = Future()
            self._ready.set_exception(error)


class ProcessBackend:
    """A ChatBackend whose model runs in a process of its own. Safe to use from any thread or event loop."""

    def __init__(self, model: SupervisedModel, adapter: int, info: ModelInfo) -> None:
        """Use `ProcessLoader`."""
        self.model, self._adapter, self._info = model, adapter, info
        self._close = threading.Lock()
        self._closed = False

    @property
    def info(self) -> ModelInfo:
        """Return the description of the model."""
        return self._info

    @property
    def failed(self) -> bool:
        """Return whether the model is closed or given up, so that it does not answer."""
        return self._closed or not self.model.usable

    @property
    def pid(self) -> int:
        """Return the number of the model's process, another one after it was started again."""
        return self.model.pid

    @property
    def given_up(self) -> bool:
        """Return whether its process ended too often, so that opening it again is pointless."""
        return not self._closed and self.model.failure is not None

    def start(self, prompt: PromptInput, sampling: SamplingParams) -> tuple[EventStream, Future[None]]:
        """Start an answer without waiting; the future is done when it is queued, or raises as `stream`."""
        return self.model.start(self._adapter, prompt, sampling)

    def stream(self, prompt: PromptInput, sampling: SamplingParams | None = None) -> EventStream:
        """Start an answer. Raises RequestError, QueueFull or EngineStopped at once."""
        stream, accepted = self.start(prompt, sampling or SamplingParams())
        accepted.result()
        return stream

    def stats(self) -> EngineStats:
        """Return the engine's counters, as of the last second or the last answer."""
        return self.model.stats(self._adapter)

    def close(self) -> None:
        """Stop all answers (their streams raise EngineStopped) and free the model. Idempotent."""
        with self._close:
            closed, self._closed = self._closed, True
        if not closed:
            self.model.detach(self._adapter)

    def __enter__(self) -> ProcessBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ProcessLoader:
    """Opens models with the same settings, each in a process of its own. Call it from one thread.

    A `chat_template` is as in EngineConfig, for one model; "" uses that of the settings.
    """

    def __init__(self, settings: EngineConfig) -> None:
        self._settings = settings
        self._models: dict[_Key, list[SupervisedModel]] = defaultdict(list)
        self._started: dict[_Key, SupervisedModel] = {}  # ahead, and not opened yet

    def __call__(
        self,
        path: Path,
        adapter: Path | None = None,
        progress: ProgressCallback = no_progress,
        *,
        chat_template: str = "",
    ) -> ProcessBackend:
        """Open a model, with an adapter's GGUF if one is given. Raises ModelError, BackendError, EngineError.

        Raises QueueFull when the memory is short because of other models.
        """
        key = path, chat_template
        if adapter is None:
            return self._open(key, progress)
        for model in self._usable(key):
            with suppress(EngineStopped):  # closed meanwhile
                return model.attach(adapter, progress)
        with self._open(key, scaled(progress, 0.0, 0.6)) as plain:
            return plain.model.attach(adapter, scaled(progress, 0.6, 1.0))

    def start(self, path: Path, chat_template: str = "") -> SupervisedModel:
        """Start a model's process ahead of its first use, and begin to load the model. Returns at once."""
        key = path, chat_template
        if key not in self._started:
            self._started[key] = self._new(key)
        return self._started[key]

    def describe(self, path: Path, chat_template: str = "") -> ModelInfo:
        """Describe a model as soon as it is probed, before it is loaded. Raises as a load."""
        return self.start(path, chat_template).describe()

    def close(self) -> None:
        """End the processes that were started and not opened."""
        while self._started:
            self._started.popitem()[1].close()

    def _new(self, key: _Key) -> SupervisedModel:
        path, chat_template = key
        settings = replace(self._settings, chat_template=chat_template or self._settings.chat_template)
        return SupervisedModel(path, settings)

    def _open(self, key: _Key, progress: ProgressCallback) -> ProcessBackend:
        if (model := self._started.pop(key, None)) is None:
            if any(self._usable(other) for other in list(self._models)):
                check_room(key[0], free_memory())
            model = self._new(key)
        backend = model.open(progress)
        self._models[key] = [*self._usable(key), model]
        return backend

    def _usable(self, key: _Key) -> list[SupervisedModel]:
        return [model for model in self._models[key] if model.usable]


_Key = tuple[Path, str]
"""A model's file and the chat template that replaces its own."""
