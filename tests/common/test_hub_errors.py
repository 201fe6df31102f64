from __future__ import annotations

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


def test_a_lost_connection_is_no_refusal() -> None:
    assert hub_refusal(httpx.ConnectError("no route"), "path") is None
    assert hub_refusal(errors.RevisionNotFoundError("", response=ANSWER), "path") is None


def test_an_error_in_one_line() -> None:
    assert first_line(ValueError("\n first\nsecond")) == "first"
    assert first_line(KeyError()) == "KeyError"
