"""The web app for bench.web_page: `python -m bench.web_page_app MODEL SLOTS CONTEXT THREADS`.

`HISTORY TOKENS` may follow: with a history's file, the model has a process of its own as in app.py, and each
answer is greedy and TOKENS long. Prints its address when it is ready; stops when its standard input closes,
and prints its peak memory in bytes.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import uvicorn

from bench.systems import Setup, own_peak
from engine.config import EngineConfig, SamplingParams
from engine.process.supervisor import ProcessLoader
from engine.serving.backend import LlamaBackend
from engine.serving.protocols import ChatBackend, ChatStream
from engine.types import ModelInfo, PromptInput
from ui.cli import address_of, bind
from ui.conversations.store import Store
from ui.models.registry import one_model
from ui.server.app import create_app


class FullLength:
    """A backend that ignores end tokens, so that all contenders generate the same number of tokens."""

    def __init__(self, backend: ChatBackend, tokens: int = 0) -> None:
        """Wrap a backend; with `tokens`, that many end an answer, and its other settings do not count."""
        self._backend, self._tokens = backend, tokens

    @property
    def info(self) -> ModelInfo:
        """See ChatBackend."""
        return self._backend.info

    def stream(self, prompt: PromptInput, sampling: SamplingParams) -> ChatStream:
        """See ChatBackend."""
        if self._tokens:
            sampling = SamplingParams(temperature=0, max_tokens=self._tokens)
        return self._backend.stream(prompt, replace(sampling, ignore_end=True))

    def close(self) -> None:
        """See ChatBackend."""
        self._backend.close()


def main(setup: Setup, history: str = "", tokens: int = 0) -> None:
    """Serve the model until standard input closes."""
    settings = EngineConfig(slots=setup.slots, context=setup.context, threads=setup.threads)
    opened = ProcessLoader(settings)(setup.model) if history else LlamaBackend.open(setup.model, settings)
    backend = FullLength(opened, tokens)
    store = Store(Path(history)) if history else None
    bound = bind("127.0.0.1", 0)
    app = create_app(one_model(backend), 2 * setup.slots, local=bool(history), store=store)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    print(address_of(bound), flush=True)
    sys.stdin.read()
    server.should_exit = True
    thread.join()
    backend.close()
    print(own_peak())


if __name__ == "__main__":
    model, slots, context, threads, *rest = sys.argv[1:]
    history, tokens = rest or ("", "0")
    main(Setup(Path(model), int(slots), int(context), int(threads)), history, int(tokens))
