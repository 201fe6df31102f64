"""The stand-in for the Hub, which the real huggingface_hub client of this process uses."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download, hf_api
from huggingface_hub.utils import _http, _xet

from publish import space_files
from tests.publish.hub_server import RunningHub, running_hub
from tests.publish.spaces import FILE

WRITE, READ, FREE, STRANGER = "hf_canary_write", "hf_canary_read", "hf_canary_free", "hf_canary_stranger"
"""Tokens: of "you" with PRO, of "you" for reading only, of "free" without PRO, of a stranger."""

BASE = "maker/base"
"""A public model on it, whose card says its license and language."""

# hf_xet reads these once: it would try for minutes.
for _name, _value in (("BASE_DELAY", "10ms"), ("MAX_DURATION", "1s"), ("MAX_ATTEMPTS", "3")):
    os.environ.setdefault(f"HF_XET_CLIENT_RETRY_{_name}", _value)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningHub]:
    """Serve an empty Hub, used by this process with the token WRITE; its retries do not wait."""
    with running_hub(tmp_path / "hub") as served:
        served.state.add_account(WRITE, "you", pro=True, organizations=("your-org",))
        served.state.add_account(READ, "you", role="read", pro=True)
        served.state.add_account(FREE, "free")
        served.state.add_account(STRANGER, "stranger")
        card = b"---\nlicense: apache-2.0\nlanguage: [en]\n---\n"
        served.state.add_repository(BASE, {"README.md": card, "config.json": b"{}"})
        for name, value in (("HF_TOKEN", WRITE), ("HF_ENDPOINT", served.url), ("HF_HUB_OFFLINE", "0")):
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
        monkeypatch.setattr(constants, "HF_XET_CACHE", str(tmp_path / "cache" / "xet"), raising=False)
        monkeypatch.setattr(hf_api.api, "endpoint", served.url)
        for module in (_http, file_download):
            without_sleep = SimpleNamespace(**vars(time) | {"sleep": lambda _: None})
            monkeypatch.setattr(module, "time", without_sleep)
        _xet.XET_CONNECTION_INFO_CACHE.clear()
        yield served
        huggingface_hub.utils.close_session()


@pytest.fixture(params=["xet", "lfs"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return by which road files go to the Hub and come from it; both are tried."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    return str(request.param)


@pytest.fixture
def few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a Space's app have a few files only; test_space_files.py has all of them."""
    monkeypatch.setattr(space_files, "app_files", lambda: ["app.py", space_files.OUR_FILE])


@pytest.fixture
def model(hub: RunningHub) -> None:
    """Publish the two files of you/bob."""
    hub.state.add_repository("you/bob", FILE)
