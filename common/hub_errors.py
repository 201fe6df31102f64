"""Messages for requests that the Hugging Face Hub refused: one line with the cause and the way out."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from common.files import DISK_FULL
from common.text import first_line

if TYPE_CHECKING:
    from huggingface_hub.errors import GatedRepoError

LOGIN = "log in with `hf auth login` or set HF_TOKEN"


def hub_refusal(error: Exception, local: str, revision: str | None = None) -> str | None:
    """Return why a download failed; None for a lost connection and what is not known.

    `local` is what a name could also have been: "folder" or "path".
    """
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # it only says that the cache does not have it either
    kinds: list[tuple[type[Exception], str]] = [
        (
            errors.OfflineModeIsEnabled,
            f"there is no such {local} here, and the Hub cannot be reached: HF_HUB_OFFLINE is set; "
            "unset it to download",
        ),
        (errors.DisabledRepoError, "the Hub has disabled this repository: choose another"),
        (errors.RemoteEntryNotFoundError, "the Hub has the repository, but not that file: check its name"),
    ]
    if isinstance(error, errors.GatedRepoError):
        return gate_refusal(error)
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such {local} here and no such public repository on the Hub: {_if_private()}"
    if revision is not None and isinstance(error, errors.RevisionNotFoundError):
        return f"the Hub has it, but not the revision {revision!r}"
    if found := next((text for kind, text in kinds if isinstance(error, kind)), None):
        return found
    if isinstance(error, errors.HfHubHTTPError):
        return status_refusal(error.response.status_code)
    return _cache_refusal(error) or xet_refusal(error)


def gate_refusal(error: GatedRepoError) -> str:
    """Return what a gated repository asks for: a login, a request for access, or patience."""
    said = (error.server_message or str(error)).lower()
    if "awaiting" in said:
        return "your request for access awaits its authors' answer: try again when they have admitted you"
    if "rejected" in said:
        return "its authors have rejected your request for access: choose another"
    if error.response.status_code == 403:
        return (
            "it is gated, and the account of your token is not admitted: accept its licence or ask for "
            "access on its page on the Hub, or use the token of an account that is admitted"
        )
    return (
        "it is gated, and the Hub wants you to accept its licence on its page and to log in "
        "(`hf auth login`, or HF_TOKEN)"
    )


def _if_private() -> str:
    """Return the ways out for a repository that is missing or private."""
    from huggingface_hub import get_token

    if get_token():
        return (
            "check its spelling; if it is private, your token may not read it: use one of an account that may"
        )
    return f"check its spelling; if it is private, {LOGIN}"


def status_refusal(code: int) -> str | None:
    """Return the cause of an HTTP status and the way out; None for 404, which others explain."""
    if code == 401:
        return (
            "the Hub refuses your token (401), which is mistyped or expired: log in with `hf auth login`, "
            "or unset HF_TOKEN"
        )
    if code == 403:
        return (
            "the Hub denies your token access to it (403): allow it to read this repository in the token's "
            "settings, or use another token"
        )
    if code == 429:
        return "the Hub limits your requests (429): wait some minutes, or log in with `hf auth login`"
    if code >= 500:
        return f"the Hub itself has a fault ({code}): try again later"
    return None if code == 404 else f"the Hub refused it (HTTP {code}): check its name"


_XET_STATUS = re.compile(r"HTTP status .*\((\d{3}) ")


def xet_refusal(error: Exception) -> str | None:
    """Return what hf_xet says in errors of Python's own types; None for those of other libraries."""
    said = str(error)
    if isinstance(error, ConnectionError) and (found := _XET_STATUS.search(said)):
        return status_refusal(int(found[1]))
    if isinstance(error, RuntimeError) and said.startswith("Task error"):
        return (
            f"the Hub's storage failed ({first_line(error)}): run the same command again, "
            "with HF_HUB_DISABLE_XET=1 if it fails the same way"
        )
    return None


def _cache_refusal(error: Exception) -> str | None:
    """Return what hinders writing to the Hub's cache; None for other errors."""
    from huggingface_hub import constants

    said = str(error).lower()
    number = error.errno if isinstance(error, OSError) else None
    if number in DISK_FULL or "no space left" in said:
        return (
            f"the disk of {constants.HF_HUB_CACHE} is full: make room, or set HF_HOME to a folder elsewhere"
        )
    if isinstance(error, PermissionError) and error.filename:
        return f"{os.fspath(error.filename)} cannot be written: set HF_HOME to a folder that can"
    return None
