"""Download large files of the Hub so that an interrupted download goes on, also after `kill -9`.

huggingface_hub gives each download a file of its own, and begins anew. Here what came is kept beside
the finished ones in the Hub's cache, where `snapshot_download` then finds the whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from common.files import sha256
from engine.errors import EngineStopped
from engine.types import ProgressCallback

_LARGE = 10_000_000
"""Bytes; huggingface_hub writes blocks of this size, so that nothing is kept of a smaller file."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_POLL_SECONDS = 0.2
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


@dataclass(frozen=True)
class _RemoteFile:
    """A file on the Hub: its address, its SHA-256, its size in bytes, and its place in the cache."""

    url: str
    digest: str
    size: int
    blob: Path


def download_large_files(
    repository: str, revision: str | None, names: Iterable[str], progress: ProgressCallback
) -> None:
    """Bring the large files among `names` into the Hub's cache, as far as they are not there.

    Each goes on where an earlier download of it ended. Raises the Hub's errors and OSError, and EngineStopped
    when `progress` returns False; what came until then is kept.
    """
    files = [found for name in names if (found := _missing(repository, revision, name)) is not None]
    total, before = sum(file.size for file in files), 0
    for file in files:

        def of_all(share: float, file: _RemoteFile = file, before: int = before) -> bool:
            return progress((before + share * file.size) / total)

        _download(file, of_all)
        before += file.size


def _missing(repository: str, revision: str | None, name: str) -> _RemoteFile | None:
    """Return a large file that the cache lacks; None for others, and where the Hub does not say."""
    import huggingface_hub
    from huggingface_hub import constants, errors
    from huggingface_hub.file_download import repo_folder_name

    if constants.HF_XET_HIGH_PERFORMANCE:
        return None  # Xet, with all of the connection, was asked for
    if isinstance(huggingface_hub.try_to_load_from_cache(repository, name, revision=revision), str):
        return None
    url = huggingface_hub.hf_hub_url(repository, name, revision=revision)
    try:
        found = huggingface_hub.get_hf_file_metadata(url)
    except (errors.HTTPError, errors.HFValidationError, OSError):  # type: ignore[attr-defined]
        return None  # snapshot_download says why, or takes what the cache has
    size, digest = found.size or 0, found.etag or ""
    if not _SHA256.fullmatch(digest) or not _LARGE <= size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
        return None
    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"))
    blob = folder / "blobs" / digest
    return None if blob.exists() else _RemoteFile(url, digest, size, blob)


def _download(remote: _RemoteFile, progress: ProgressCallback) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    partial = remote.blob.with_name(f"{remote.digest}.gguf-chat.incomplete")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with _locked(partial, progress) as file:
        if remote.blob.exists():  # another process was faster
            partial.unlink(missing_ok=True)
            return
        kept = os.fstat(file.fileno()).st_size
        for start in (kept if kept <= remote.size else 0, 0):
            file.seek(start)
            if start == 0:
                file.truncate()
            http_get(
                remote.url,
                file,
                resume_size=start,
                headers=headers,
                expected_size=remote.size,
                tqdm_class=progress_bar(progress),
            )
            file.flush()
            if start == 0 or sha256(partial) == remote.digest:
                break
        partial.replace(remote.blob)


@contextmanager
def _locked(path: Path, progress: ProgressCallback) -> Iterator[BinaryIO]:
    """Open a file that no other process writes; wait while one does.

    Raises EngineStopped when `progress` returns False.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with os.fdopen(handle, "r+b") as file:
            if _lock(handle) and _is_at(path, handle):  # else it is written, or was finished and moved
                yield file
                return
        if not progress(0.0):
            raise EngineStopped("nobody waits for this download any more")
        time.sleep(_POLL_SECONDS)


def _lock(handle: int) -> bool:
    """Lock a file unless another process has; True also where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_at(path: Path, handle: int) -> bool:
    """Return whether an open file is the one at a path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def progress_bar(progress: ProgressCallback) -> type[Any]:
    """Return a class of progress bars for the Hub's downloads, which also calls `progress`."""
    from huggingface_hub.utils.tqdm import tqdm as hub_bar

    class Bar(hub_bar):
        """Counts bytes by itself, as tqdm does not where it is disabled, for instance without a terminal."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            self._done = float(options.get("initial") or 0)
            super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            self._done += n or 0
            if self._counts_bytes and self.total and not progress(min(1.0, self._done / self.total)):
                raise EngineStopped("nobody waits for this download any more")
            shown: bool | None = super().update(n)
            return shown

    return Bar
