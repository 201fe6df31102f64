"""The web app for bench.web_page: `python -m bench.web_page_app MODEL SLOTS CONTEXT THREADS`.

Prints its address when it is ready; stops when its standard input closes, and prints its peak memory in
bytes.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import uvicorn

from bench.systems import own_peak
from engine.config import EngineConfig, SamplingParams
from engine.serving.backend import LlamaBackend
from engine.serving.protocols import ChatStream
from engine.types import ModelInfo, PromptInput
from ui.cli import address_of, bind
from ui.models.registry import one_model
from ui.server.app import create_app


class FullLength:
    """A backend that ignores end tokens, so that all contenders generate the same number of tokens."""

    def __init__(self, backend: LlamaBackend) -> None:
        self._backend = backend

    @property
    def info(self) -> ModelInfo:
        """See ChatBackend."""
        return self._backend.info

    def stream(self, prompt: PromptInput, sampling: SamplingParams) -> ChatStream:
        """See ChatBackend."""
        return self._backend.stream(prompt, replace(sampling, ignore_end=True))

    def close(self) -> None:
        """See ChatBackend."""
        self._backend.close()


def main(model: Path, slots: int, context: int, threads: int) -> None:
    """Serve `model` until standard input closes; `context` is tokens per conversation."""
    settings = EngineConfig(slots=slots, context=context, threads=threads)
    backend = FullLength(LlamaBackend.open(model, settings))
    bound = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(one_model(backend), 2 * slots), log_level="error"))
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
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
