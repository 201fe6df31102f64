"""Tiny bases, each made once and shared, as no test changes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.tiny import make_base

Bases = Callable[..., Path]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """Return a function (architecture, options) -> folder of such a base, with 320 tokens."""
    made: dict[str, Path] = {}

    def base(architecture: str = "llama", **options: Any) -> Path:
        key = repr((architecture, sorted(options.items(), key=str)))
        if key not in made:
            folder = tmp_path_factory.mktemp("bases") / architecture
            made[key] = make_base(folder, architecture, **{"vocab_size": 320, **options})
        return made[key]

    return base
