"""Gradio's folder of uploads: one for each server, removed at its end, or at the next start if it was killed.

Gradio keeps all servers' files in one folder, which belongs to the first user of the machine who starts one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "GRADIO_TEMP_DIR"  # read when gradio is imported
PREFIX = "gguf-chat-uploads-"
LOCK = "lock"


@contextmanager
def upload_folder() -> Iterator[Path]:
    """Make the folder in $GRADIO_TEMP_DIR or among the temporary files, and name it to Gradio.

    Call it before gradio is imported. Removes the folders of this user's servers that have ended. Raises
    OSError if no temporary folder can be written.
    """
    given = os.environ.get(VARIABLE)
    parent = _parent(given)
    remove_abandoned(parent)
    made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    with (made / LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = made.rename(parent / made.name.removeprefix("."))  # locked before others can see it
        os.environ[VARIABLE] = str(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.environ.pop(VARIABLE)
            if given is not None:
                os.environ[VARIABLE] = given


def _parent(given: str | None) -> Path:
    if given:
        with suppress(OSError):
            Path(given).mkdir(parents=True, exist_ok=True)
            if os.access(given, os.W_OK | os.X_OK):
                return Path(given).absolute()
    return Path(tempfile.gettempdir())


def remove_abandoned(parent: Path) -> None:
    """Remove this user's folders of uploads whose server does not run any more, which holds their lock."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
