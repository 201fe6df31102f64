"""Download a GGUF from the Hugging Face Hub: `owner/name`, or `owner/name/file.gguf`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from common.certificate import NAME as CERTIFICATE
from common.certificate import Certificate, Reason, Recommendation, load_certificate
from common.errors import InputError
from common.hub_errors import hub_refusal
from common.shard_names import model_sizes
from engine.errors import EngineStopped, ModelError
from engine.types import ProgressCallback, no_progress
from ggufio import shards

_SPEC = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(?P<file>.+\.gguf))?")
Choose = Callable[[Mapping[str, int], Certificate | None], Recommendation | None]
"""Picks one of a repository's GGUF files, given their sizes by name and its certificate; or None."""


def looks_like_hub(spec: str) -> bool:
    """Return whether a text has the form of a Hub name."""
    return _SPEC.fullmatch(spec) is not None


def fetch_gguf(
    spec: str, choose: Choose, progress: ProgressCallback = no_progress
) -> tuple[Path, Reason | None]:
    """Return the file's path in the Hub's cache (its first shard's), after downloading what is missing.

    The reason is that of the choice; None where the file was named.

    Raises ModelError, and EngineStopped when `progress` returns False; the partial download is kept.
    """
    match = _SPEC.fullmatch(spec)
    assert match is not None, spec
    repository, file = match["repository"], match["file"]
    if file and ".." in PurePosixPath(file).parts:
        raise ModelError(f"model {spec!r} names a file outside of its repository")
    import huggingface_hub
    from huggingface_hub import errors

    reason: Reason | None = None
    try:
        if file is None:
            best = _chosen(repository, choose)
            file, reason = best.name, best.reason
        folder = huggingface_hub.snapshot_download(
            repository, allow_patterns=shards.names(file), tqdm_class=_progress_bar(progress)
        )
    except (
        errors.HTTPError,  # type: ignore[attr-defined] # httpx's
        errors.HFValidationError,
        OSError,
        RuntimeError,  # hf_xet's
    ) as error:
        unreachable = f"there is no such path here, and the Hub cannot be reached ({type(error).__name__})"
        refusal = hub_refusal(error, "path") or unreachable
    else:
        path = Path(folder) / shards.names(file)[0]
        if path.is_file():
            return path, reason
        refusal = f"the Hub's {repository} has no file {file}"
    raise ModelError(f"model {spec!r}: {refusal}")


def _chosen(repository: str, choose: Choose) -> Recommendation:
    """Return the choice out of a repository's files. Raises ModelError, and the Hub's errors."""
    import huggingface_hub

    listed = huggingface_hub.model_info(repository, files_metadata=True).siblings or []
    sizes = {item.rfilename: item.size or 0 for item in listed}
    certificate = None
    if CERTIFICATE in sizes:
        path = huggingface_hub.hf_hub_download(repository, CERTIFICATE)
        try:
            certificate = load_certificate(Path(path), strict=False)
        except InputError as error:
            raise ModelError(f"the repository {repository!r}: {error}, or name a file of it") from None
    ggufs = {name: size for name, size in sizes.items() if name.endswith(".gguf")}
    best = choose(model_sizes(ggufs), certificate)
    if best is None:
        raise ModelError(f"the repository {repository!r} holds no GGUF model: name one that does")
    return best


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
