"""What a download says that the Hub refuses: for a base, and for a GGUF of the chat."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.errors import UserError
from pipeline.sources.model_source import base_source
from tests.publish.conftest import STRANGER
from tests.publish.hub_server import RunningHub
from ui.models.hub import fetch_gguf

FILES = {"m-Q4_K_M.gguf": b"GGUF", "config.json": b"{}"}


def gguf(name: str) -> object:
    return fetch_gguf(f"{name}/m-Q4_K_M.gguf", lambda sizes, certificate: None)


@pytest.mark.parametrize("fetch", [base_source, gguf])
@pytest.mark.parametrize(
    ("name", "token", "wanted"),
    [
        ("you/private", None, "if it is private, log in with `hf auth login` or set HF_TOKEN"),
        ("you/private", STRANGER, "if it is private, your token may not read it: use one of an account"),
        ("you/private", "hf_wrong", "the Hub refuses your token (401)"),
        (
            "you/gated",
            None,
            "it is gated, and the Hub wants you to accept its licence on its page and to log",
        ),
        ("you/gated", STRANGER, "it is gated, and the account of your token is not admitted"),
        ("you/asked", STRANGER, "your request for access awaits its authors' answer"),
        ("you/none", None, "check its spelling"),
        ("you/broken", None, "the Hub itself has a fault (503)"),
    ],
)
def test_a_refused_download_names_the_way_out(
    hub: RunningHub,
    monkeypatch: pytest.MonkeyPatch,
    fetch: Callable[[str], object],
    name: str,
    token: str | None,
    wanted: str,
) -> None:
    hub.state.add_repository("you/private", FILES, private=True)
    hub.state.add_repository("you/gated", FILES, gated="auto")
    hub.state.add_repository("you/asked", FILES, gated="manual", awaiting={"stranger"})
    hub.state.add_repository("you/broken", FILES)
    hub.state.fail("/you/broken", 503, times=99)
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError) as raised:
        fetch(name)
    message = str(raised.value)
    assert wanted in message and "\n" not in message and "hf_" not in message
