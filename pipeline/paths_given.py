"""Where a command is told to write to: an empty text, as of an unset variable of the shell, is no place."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import InputError


def given_path(option: str, text: str) -> Path:
    """The path; raises InputError for an empty one, which Path would take as the folder at hand."""
    if not text.strip():
        raise InputError(f"{option} is empty: name a place to write to, or give . for this folder")
    return Path(text)


def certificate_path(text: str) -> Path:
    """Where `certify` writes its certificate; raises InputError where that cannot be."""
    path = given_path("--out", text)
    if path.is_dir():
        raise InputError(
            f"--out {text!r} is a folder: name a file in it, such as {path / 'certificate.json'}"
        )
    if not path.absolute().parent.is_dir():
        raise InputError(f"--out {text!r}: the folder {path.parent} does not exist: make it first")
    return path
