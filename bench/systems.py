"""The contenders in this process: our engine, and one `Llama` behind a lock, as most apps use it.

Each runs in its own child process (bench.run_system) with the CPU backend that engine.probe chose. See
bench.llama_server and bench.web_page for the others.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llama_cpp import llama_cpp as llama

from common.system import process_memory
from engine.config import EngineConfig, SamplingParams
from engine.probe.cpu_backend import load_cpu_backend
from engine.process.supervisor import ProcessLoader
from engine.serving.backend import LlamaBackend
from engine.serving.protocols import ChatBackend
from engine.types import Finished, Message, TextDelta
from pipeline.errors import PipelineError

OnText = Callable[[str], None]


@dataclass(frozen=True)
class Setup:
    """Settings shared by all contenders: `slots` concurrent conversations, `context` tokens each."""

    model: Path
    slots: int
    context: int
    threads: int


@dataclass(frozen=True)
class TokenCounts:
    """An answer's tokens, as the contender reports them; 0 where it reports none."""

    prompt_tokens: int
    cached_tokens: int
    tokens: int


class Contender(Protocol):
    """Answers chats greedily and to the full length, so that all contenders do the same work."""

    decode_seconds: float  # in llama_decode so far; NaN where it cannot be measured

    def answer(self, messages: Sequence[Message], new_tokens: int, on_text: OnText) -> TokenCounts:
        """Answer a conversation and call `on_text` with each piece of text. Thread-safe.

        Raises PipelineError when the answer fails or is too short.
        """
        ...

    def close(self) -> int:
        """Stop, and return the peak resident memory in bytes."""
        ...


class OurProcess:
    """Our engine in a process of its own, as the page uses it."""

    def __init__(self, setup: Setup, *, speculation: bool, deterministic: bool) -> None:
        self.decode_seconds = float("nan")
        settings = _engine_config(setup, speculation=speculation, deterministic=deterministic)
        self._backend = ProcessLoader(settings)(setup.model)

    def answer(self, messages: Sequence[Message], new_tokens: int, on_text: OnText) -> TokenCounts:
        """See Contender."""
        return _answer(self._backend, messages, new_tokens, on_text)

    def close(self) -> int:
        """See Contender."""
        peak = own_peak() + process_memory("VmHWM", self._backend.pid)
        self._backend.close()
        return peak


class OurEngine:
    """Our engine in this process, as a notebook uses it."""

    def __init__(self, setup: Setup) -> None:
        self.decode_seconds = 0.0
        self._time_decode()
        self._backend = LlamaBackend.open(setup.model, _engine_config(setup))

    def _time_decode(self) -> None:
        decode = llama.llama_decode

        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return decode(*arguments)
            finally:
                self.decode_seconds += time.perf_counter() - began

        llama.llama_decode = timed

    def answer(self, messages: Sequence[Message], new_tokens: int, on_text: OnText) -> TokenCounts:
        """See Contender."""
        return _answer(self._backend, messages, new_tokens, on_text)

    def close(self) -> int:
        """See Contender."""
        self._backend.close()
        return own_peak()


def _engine_config(setup: Setup, *, speculation: bool = True, deterministic: bool = False) -> EngineConfig:
    return EngineConfig(
        context=setup.context,
        slots=setup.slots,
        threads=setup.threads,
        speculation=speculation,
        deterministic=deterministic,
    )


def _answer(
    backend: ChatBackend, messages: Sequence[Message], new_tokens: int, on_text: OnText
) -> TokenCounts:
    sampling = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=new_tokens, ignore_end=True)
    for event in backend.stream(messages, sampling):
        if isinstance(event, TextDelta):
            on_text(event.delta)
        elif isinstance(event, Finished):
            stats = event.stats
            return TokenCounts(stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens)
    raise PipelineError("our engine ended an answer without a word")


class LockedLlama:
    """One `llama_cpp.Llama` that serves its users one at a time, as in the usual Gradio app."""

    def __init__(self, setup: Setup) -> None:
        choice = load_cpu_backend(setup.model, threads=setup.threads)
        self.decode_seconds = float("nan")
        self._lock = threading.Lock()
        self._llama = _open_llama(setup, choice.extra_buffers)

    def answer(self, messages: Sequence[Message], new_tokens: int, on_text: OnText) -> TokenCounts:
        """See Contender."""
        with self._lock:
            for chunk in self._llama.create_chat_completion(
                messages=list(messages), max_tokens=new_tokens, temperature=0, repeat_penalty=1.0, stream=True
            ):
                choice = chunk["choices"][0]
                if text := choice["delta"].get("content"):
                    on_text(text)
            if choice["finish_reason"] != "length":
                raise PipelineError(f"Llama ended an answer early: {choice['finish_reason']}")
            prompt = self._llama.n_tokens - new_tokens + 1  # the answer's last token is not computed
        return TokenCounts(prompt, 0, new_tokens)

    def close(self) -> int:
        """See Contender."""
        self._llama.close()
        return own_peak()


def _open_llama(setup: Setup, extra_buffers: bool) -> Any:
    import llama_cpp
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    # Llama has no argument for these: it stops at end tokens, and always requests extra buffers.
    llama_cpp.llama_vocab_is_eog = llama.llama_vocab_is_eog = lambda *_: False
    defaults = llama.llama_model_default_params

    def model_params() -> Any:
        params = defaults()
        params.use_extra_bufts = extra_buffers
        return params

    llama_cpp.llama_model_default_params = llama.llama_model_default_params = model_params
    model = llama_cpp.Llama(
        model_path=str(setup.model),
        n_ctx=setup.context,
        n_threads=setup.threads,
        n_threads_batch=setup.threads,
        verbose=False,
    )
    # Llama's default formatter of this template also stops at the end token; NUL never occurs in an answer.
    template = model.metadata["tokenizer.chat_template"]
    model.chat_handler = Jinja2ChatFormatter(template, eos_token="\0", bos_token="").to_chat_handler()
    return model


def own_peak() -> int:
    """Return this process's peak resident memory in bytes (getrusage(2): KiB on Linux, bytes on macOS)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
