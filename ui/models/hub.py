"""A GGUF that lies on the Hugging Face Hub: `owner/name`, or `owner/name/file.gguf`."""

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
"""Picks one of a repository's GGUF files; None when none will do."""


def looks_like_hub(spec: str) -> bool:
    """Whether the words could name something on the Hub."""
    return _SPEC.fullmatch(spec) is not None


def fetch_gguf(spec: str, choose: Choose, reach: ProgressCallback = no_progress) -> Path:
    """Download the file (all of its shards) into the Hub's cache, or find it there.

    Raises ModelError, and EngineStopped when `reach` says to stop; what was fetched by then is kept.
    """
    found = _SPEC.fullmatch(spec)
    assert found is not None, spec
    repository, file = found["repository"], found["file"]
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
            repository, allow_patterns=shards.names(file), tqdm_class=_bar(reach)
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


def _bar(reach: ProgressCallback) -> type[Any]:
    """The class of the Hub's progress bars, those that count bytes telling `reach` besides."""
    from huggingface_hub.utils.tqdm import tqdm as hub_bar

    class Bar(hub_bar):
        """One that the Hub has switched off, without a terminal, counts nothing by itself."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._bytes, self._got = options.get("unit") == "B", 0.0
            super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            self._got += n or 0
            if self._bytes and self.total and not reach(min(1.0, self._got / self.total)):
                raise EngineStopped("nobody waits for this download any more")
            shown: bool | None = super().update(n)
            return shown

    return Bar


def stem_of(path: Path) -> str:
    """A file's name without its ending and, of a split model, without its place."""
    return Path(shards.whole_name(path.name)).stem
