"""Messages for failed downloads from the Hugging Face Hub."""

from __future__ import annotations

_LOGIN = "log in with `hf auth login`"


def hub_refusal(error: Exception, local: str, revision: str | None = None) -> str | None:
    """Return why the Hub refused a download; None for any other failure, such as a lost connection.

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
        (
            errors.GatedRepoError,
            "the Hub wants you to accept its licence on its page and to log in (`hf auth login`)",
        ),
        (errors.DisabledRepoError, "the Hub has disabled this repository: choose another"),
        (
            errors.RepositoryNotFoundError,
            f"there is no such {local} here and no such public repository on the Hub: check its spelling; "
            f"if it is private, {_LOGIN}",
        ),
        (errors.RemoteEntryNotFoundError, "the Hub has the repository, but not that file: check its name"),
    ]
    if revision is not None and isinstance(error, errors.RevisionNotFoundError):
        return f"the Hub has it, but not the revision {revision!r}"
    if found := next((text for kind, text in kinds if isinstance(error, kind)), None):
        return found
    if isinstance(error, errors.HfHubHTTPError):
        return _by_status(error.response.status_code)
    return None


def _by_status(code: int) -> str | None:
    if code == 401:
        return f"the Hub refuses your token (401), which is mistyped or expired: {_LOGIN}, or unset HF_TOKEN"
    if code == 403:
        return (
            "the Hub denies your token access to it (403): allow it to read this repository in the token's "
            "settings, or use another token"
        )
    if code == 429:
        return f"the Hub limits your requests (429): wait some minutes, or {_LOGIN}"
    if code >= 500:
        return f"the Hub itself has a fault ({code}): try again later"
    return None if code == 404 else f"the Hub refused it (HTTP {code}): check its name"
