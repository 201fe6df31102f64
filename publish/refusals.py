"""Messages for what the Hub refuses when something is published: one line with the cause and the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from common.errors import InputError
from common.hub_errors import LOGIN, gate_refusal, hub_refusal, status_refusal
from common.text import first_line

Kind = Literal["model", "space"]
TOKENS = "https://huggingface.co/settings/tokens"


class PublishError(InputError):
    """Something cannot be published as it was asked for (exit code 2)."""


@contextmanager
def refusals(repository: str, kind: Kind = "model") -> Iterator[None]:
    """Turn the Hub's errors within the block into PublishError."""
    from huggingface_hub import errors

    handled = (errors.HTTPError, errors.HFValidationError, OSError, RuntimeError, ValueError)  # type: ignore[attr-defined]
    try:
        yield
    except handled as error:
        raise PublishError(f"{kind} {repository!r}: {upload_refusal(error, repository, kind)}") from error


def upload_refusal(error: BaseException, repository: str, kind: Kind = "model") -> str:
    """Return the cause of a failed request to write and the way out."""
    from huggingface_hub import errors

    error = _root(error)
    if isinstance(error, errors.GatedRepoError):
        return gate_refusal(error)
    if text := next((text for kind, text in _texts() if isinstance(error, kind)), None):
        return text
    if isinstance(error, errors.HfHubHTTPError):
        return _by_status(error, repository, kind)
    found = hub_refusal(error, "repository") if isinstance(error, Exception) else None
    if found is None and isinstance(error, ConnectionError | errors.HTTPError):  # type: ignore[attr-defined] # httpx's
        return (
            f"the Hub cannot be reached ({first_line(error)}): check the network, and run the same command "
            "again to go on"
        )
    return found or first_line(error)


def _texts() -> list[tuple[type[BaseException], str]]:
    from huggingface_hub import errors

    return [
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set: unset it to publish"),
        (
            errors.LocalTokenNotFoundError,
            f"there is no token: {LOGIN}; make one that may write at {TOKENS}",
        ),
        (
            errors.RepositoryNotFoundError,
            "the Hub has no such repository that your token may see: check the name and the token",
        ),
        (errors.RevisionNotFoundError, "the Hub has it, but not that branch: check its name"),
    ]


def _root(error: BaseException) -> BaseException:
    """Return the error that led to one which only says that an upload failed."""
    from huggingface_hub import errors

    while isinstance(error, RuntimeError | ValueError) and not isinstance(error, errors.HfHubHTTPError):
        if error.__cause__ is None:
            break
        error = error.__cause__
    return error


def _by_status(error: Exception, repository: str, kind: Kind) -> str:
    """Return the message for an HTTP status, with the Hub's own words where they say more."""
    from huggingface_hub import errors

    assert isinstance(error, errors.HfHubHTTPError)
    code, said = error.response.status_code, " ".join((error.server_message or "").split())
    owner = repository.partition("/")[0]
    quoted = f"; the Hub says: {said}" if said else ""
    if code == 402:
        return payment_refusal(kind) + quoted
    if code == 403:
        return (
            f"your token may not write to {owner} (403): make one with write access at {TOKENS}, or name a "
            f"repository of an account that you may write to{quoted}"
        )
    if code == 409:
        return f"the name is taken (409): choose another{quoted}"
    if code == 412:
        return "somebody else has changed it meanwhile (412): run the same command again"
    if code in (400, 413, 422):
        return f"the Hub refused it (HTTP {code}){quoted}"
    return status_refusal(code) or f"the Hub has not got it (404){quoted}"


def payment_refusal(kind: Kind) -> str:
    """Return what a payment is asked for."""
    if kind == "space":
        return (
            "the Hub wants a paying account for this hardware (402): take --hardware zero-a10g, of which a "
            "free account may have two, or subscribe to PRO"
        )
    return (
        "the Hub wants a paying account for this (402), as the storage of private repositories is used up: "
        "publish it without --private, delete what you no longer need, or subscribe to PRO"
    )
