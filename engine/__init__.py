"""Runs a GGUF: continuous batching over llama-cpp-python's low-level API.

    from engine import LlamaBackend, Message, SamplingParams

The names below are imported when they are first used, so `import engine` stays cheap.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from common.lazy import lazy_exports

if TYPE_CHECKING:
    from engine.config import EngineConfig as EngineConfig
    from engine.config import Limits as Limits
    from engine.config import SamplingParams as SamplingParams
    from engine.errors import BackendError as BackendError
    from engine.errors import EngineError as EngineError
    from engine.errors import EngineStopped as EngineStopped
    from engine.errors import ModelError as ModelError
    from engine.errors import QueueFull as QueueFull
    from engine.errors import RequestError as RequestError
    from engine.errors import SettingsError as SettingsError
    from engine.probe.cpu_backend import load_cpu_backend as load_cpu_backend
    from engine.serving.backend import LlamaBackend as LlamaBackend
    from engine.serving.backend import ModelLoader as ModelLoader
    from engine.serving.model_pool import ModelPool as ModelPool
    from engine.serving.protocols import ChatBackend as ChatBackend
    from engine.serving.protocols import ChatStream as ChatStream
    from engine.types import Event as Event
    from engine.types import Finished as Finished
    from engine.types import Message as Message
    from engine.types import MessagesDropped as MessagesDropped
    from engine.types import ModelInfo as ModelInfo
    from engine.types import PrefillProgress as PrefillProgress
    from engine.types import Queued as Queued
    from engine.types import RequestStats as RequestStats
    from engine.types import TextDelta as TextDelta

# libgomp reads this when the first llama.cpp library loads it, so it is set before any module here does.
# Its threads spin 300,000 rounds by default at each of a graph's hundreds of barriers. When another process
# or the web page needs the cores too, spinning takes time from the thread that they wait for; with too little
# spinning, every barrier goes through the kernel. Measured on 2 cores, 135 M model, one answer:
#     rounds               300   1000   3000   300,000
#     quiet, tokens/s       57     95     96        97
#     shared, ms a token    23     35     50       280
SPIN_BEFORE = os.environ.get("GOMP_SPINCOUNT")  # as set by the caller
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_MODULES = {
    "BackendError": "engine.errors",
    "ChatBackend": "engine.serving.protocols",
    "ChatStream": "engine.serving.protocols",
    "EngineConfig": "engine.config",
    "EngineError": "engine.errors",
    "EngineStopped": "engine.errors",
    "Event": "engine.types",
    "Finished": "engine.types",
    "Limits": "engine.config",
    "LlamaBackend": "engine.serving.backend",
    "Message": "engine.types",
    "MessagesDropped": "engine.types",
    "ModelError": "engine.errors",
    "ModelInfo": "engine.types",
    "ModelLoader": "engine.serving.backend",
    "ModelPool": "engine.serving.model_pool",
    "PrefillProgress": "engine.types",
    "QueueFull": "engine.errors",
    "Queued": "engine.types",
    "RequestError": "engine.errors",
    "RequestStats": "engine.types",
    "SamplingParams": "engine.config",
    "SettingsError": "engine.errors",
    "TextDelta": "engine.types",
    "load_cpu_backend": "engine.probe.cpu_backend",
}
__all__ = [
    "BackendError",
    "ChatBackend",
    "ChatStream",
    "EngineConfig",
    "EngineError",
    "EngineStopped",
    "Event",
    "Finished",
    "Limits",
    "LlamaBackend",
    "Message",
    "MessagesDropped",
    "ModelError",
    "ModelInfo",
    "ModelLoader",
    "ModelPool",
    "PrefillProgress",
    "QueueFull",
    "Queued",
    "RequestError",
    "RequestStats",
    "SamplingParams",
    "SettingsError",
    "TextDelta",
    "load_cpu_backend",
]
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
