"""Download a GGUF from the Hugging Face Hub: `owner/name`, or `owner/name/file.gguf`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from common.hub_errors import hub_refusal
from engine.errors import EngineStopped, ModelError
from engine.types import ProgressCallback, no_progress
from ggufio import shards

_SPEC = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(?P<file>.+\.gguf))?")
Choose = Callable[[Sequence[str]], str | None]
"""Picks a file from the names of a repository's GGUF files, or None."""


def looks_like_hub(spec: str) -> bool:
    """Return whether a text has the form of a Hub name."""
    return _SPEC.fullmatch(spec) is not None


def fetch_gguf(spec: str, choose: Choose, progress: ProgressCallback = no_progress) -> Path:
    """Return the file's path in the Hub's cache (its first shard's), after downloading what is missing.

    Raises ModelError, and EngineStopped when `progress` returns False; the partial download is kept.
    """
    match = _SPEC.fullmatch(spec)
    assert match is not None, spec
    repository, file = match["repository"], match["file"]
    if file and ".." in PurePosixPath(file).parts:
        raise ModelError(f"model {spec!r} names a file outside of its repository")
    import huggingface_hub
    from huggingface_hub import errors

    try:
        if file is None:
            names = [item.rfilename for item in huggingface_hub.model_info(repository).siblings or []]
            file = choose([name for name in names if name.endswith(".gguf")])
            if file is None:
                raise ModelError(f"the repository {repository!r} holds no GGUF model: name one that does")
        folder = huggingface_hub.snapshot_download(
            repository, allow_patterns=shards.names(file), tqdm_class=_progress_bar(progress)
        )
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:  # type: ignore[attr-defined] # httpx's
        unreachable = f"there is no such path here, and the Hub cannot be reached ({type(error).__name__})"
        reason = hub_refusal(error, "path") or unreachable
    else:
        path = Path(folder) / shards.names(file)[0]
        if path.is_file():
            return path
        reason = f"the Hub's {repository} has no file {file}"
    raise ModelError(f"model {spec!r}: {reason}")


def _progress_bar(progress: ProgressCallback) -> type[Any]:
    """Return a class of progress bars for the Hub's downloads, which also calls `progress`."""
    from huggingface_hub.utils.tqdm import tqdm as hub_bar

    class Bar(hub_bar):
        """Counts bytes by itself, as tqdm does not where it is disabled, for instance without a terminal."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._counts_bytes, self._done = options.get("unit") == "B", 0.0
            super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            self._done += n or 0
            if self._counts_bytes and self.total and not progress(min(1.0, self._done / self.total)):
                raise EngineStopped("nobody waits for this download any more")
            shown: bool | None = super().update(n)
            return shown

    return Bar


def stem_of(path: Path) -> str:
    """Return a file's name without its extension and without a shard's number."""
    return Path(shards.whole_name(path.name)).stem
