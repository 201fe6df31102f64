"""Gradio is imported without generating its type stubs, and logs no values."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from gradio import blocks_events, component_meta

from tests.ui.conftest import FakeSite, until
from tests.ui.fake_backend import FakeBackend
from ui.gradio_patches import drop_values
from ui.models.registry import Models

PROMPT = "my secret prompt"


def test_nothing_is_written_for_editors() -> None:
    assert component_meta.create_or_modify_pyi.__module__ == "ui.gradio_patches"
    assert blocks_events.create_or_modify_pyi is component_meta.create_or_modify_pyi


@pytest.mark.parametrize("data", [[PROMPT], [{"a": PROMPT}], [5, PROMPT]])
@pytest.mark.parametrize("route", ["call/chat", "run/predict", "queue/join"])
def test_a_malformed_call_leaves_no_prompt_in_the_log(
    fake_site: Callable[[FakeBackend | Models], FakeSite],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    data: list[Any],
    route: str,
) -> None:
    url = fake_site(FakeBackend()).url
    fns = [] if route == "call/chat" else httpx.get(f"{url}/config").json()["dependencies"]
    settings = next((fn["id"] for fn in fns if fn["backend_fn"] and len(fn["inputs"]) > 5), 0)
    body = {"data": data, "fn_index": settings, "session_hash": "s", "event_data": {"x": PROMPT}}
    httpx.post(f"{url}/gradio_api/{route}", json=body)
    until(lambda: "an event failed: " in caplog.text)
    written = "".join(capfd.readouterr())
    assert PROMPT not in written + caplog.text and "Traceback" not in written + caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_a_logged_error_names_its_place_and_quotes_nothing() -> None:
    try:
        raise ValueError(PROMPT) from KeyError(PROMPT)
    except ValueError:
        record = logging.LogRecord("asyncio", 40, "", 0, "It broke\nby %s", (PROMPT,), sys.exc_info())
    assert drop_values(record)
    line = logging.Formatter().format(record)
    assert line.startswith("It broke: ValueError at ui/test_gradio_patches.py:") and "KeyError" in line
    assert PROMPT not in line and "\n" not in line
