"""Where the conversations are kept: the file that was named, or what suits a laptop or a Space."""

from __future__ import annotations

import os
from pathlib import Path

import places
from ui.settings import OFF, on_a_space

SPACE_DISK = Path("/data")  # a Space's persistent storage, where it has one
FILE = "history.sqlite"


def history_file(named: Path | None) -> Path | None:
    """The file, or None to keep them in memory alone, until the app ends."""
    if named is not None:
        return None if str(named) == OFF else named.expanduser()
    if not on_a_space():
        return places.data_folder() / FILE
    return SPACE_DISK / FILE if SPACE_DISK.is_dir() and os.access(SPACE_DISK, os.W_OK) else None


def history_text(file: Path | None) -> str:
    """What is said about it at the start."""
    return "Conversations are kept " + (f"in {file}" if file else "in memory, until the app ends")
