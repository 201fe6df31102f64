"""What several rooms' tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the Hub is wrong


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def python() -> str:
    return sys.executable


@pytest.fixture(scope="session")
def real_base() -> Path:
    """The embedded SmolLM2 as a checkpoint; made once per machine, since nothing in it varies."""
    from pipeline.embedded import make_base
    from places import cache_folder

    return make_base(cache_folder() / "tests" / "smollm2-base")


@pytest.fixture(scope="session")
def demo_adapter() -> Path:
    return ROOT / "models" / "captain-bob-lora"
