from __future__ import annotations

import errno

import httpx
import pytest
from huggingface_hub import errors

from common.hub_errors import hub_refusal
from common.text import first_line

ANSWER = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("error", "revision", "wanted"),
    [
        (errors.GatedRepoError("", response=ANSWER), None, "accept its licence"),
        (errors.RepositoryNotFoundError("", response=ANSWER), None, "no such folder here and no such public"),
        (errors.RevisionNotFoundError("", response=ANSWER), "v2", "not the revision 'v2'"),
    ],
)
def test_a_refusal_of_the_hub_says_why(error: Exception, revision: str | None, wanted: str) -> None:
    assert wanted in str(hub_refusal(error, "folder", revision))


def answered(code: int) -> errors.HfHubHTTPError:
    response = httpx.Response(code, request=httpx.Request("GET", "https://huggingface.co"))
    return errors.HfHubHTTPError("", response=response)


def missing_locally(cause: Exception) -> Exception:
    """Return the error by which snapshot_download hides its cause."""
    error = errors.LocalEntryNotFoundError("Got: ...")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (
            answered(401),
            "refuses your token (401), which is mistyped or expired: log in with `hf auth login`",
        ),
        (answered(403), "denies your token access to it (403)"),
        (answered(429), "limits your requests (429)"),
        (answered(503), "the Hub itself has a fault (503): try again later"),
        (answered(400), "the Hub refused it (HTTP 400)"),
        (missing_locally(answered(403)), "denies your token access to it (403)"),
        (missing_locally(answered(500)), "the Hub itself has a fault (500)"),
        (missing_locally(errors.OfflineModeIsEnabled("")), "cannot be reached: HF_HUB_OFFLINE is set"),
        (errors.DisabledRepoError("", response=ANSWER), "has disabled this repository"),
        (errors.RemoteEntryNotFoundError("", response=ANSWER), "but not that file"),
        (errors.RepositoryNotFoundError("", response=ANSWER), "if it is private, log in"),
        (OSError(errno.ENOSPC, "No space left on device"), "is full: make room, or set HF_HOME"),
        (RuntimeError("Task error: I/O error: No space left on device (os error 28)"), "is full: make room"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache/x"), "/cache/x cannot be written"),
        (ConnectionError("Request error: HTTP status client error (403 Forbidden)"), "denies your token"),
        (ConnectionError("Request error: HTTP status server error (502 Bad Gateway)"), "a fault (502)"),
        (RuntimeError("Task error: CAS object not found"), "with HF_HUB_DISABLE_XET=1"),
    ],
)
def test_the_hubs_answer_names_the_cause(
    error: Exception, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert wanted in str(hub_refusal(error, "path"))


def test_a_lost_connection_is_no_refusal() -> None:
    assert hub_refusal(httpx.ConnectError("no route"), "path") is None
    assert hub_refusal(missing_locally(httpx.ConnectError("no route")), "path") is None
    assert hub_refusal(errors.LocalEntryNotFoundError("none"), "path") is None
    assert hub_refusal(errors.RevisionNotFoundError("", response=ANSWER), "path") is None
    assert hub_refusal(RuntimeError("another library's"), "path") is None


def test_an_error_in_one_line() -> None:
    assert first_line(ValueError("\n first\nsecond")) == "first"
    assert first_line(KeyError()) == "KeyError"
