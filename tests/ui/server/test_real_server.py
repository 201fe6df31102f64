"""The server as a process of its own, with a fake backend."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.ui.app_process import running
from tests.ui.fake_app import WORDS

FAKE = ("-m", "tests.ui.fake_app")
ASK = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}


def statuses(url: str, forwarded: Sequence[str]) -> list[int]:
    return [
        httpx.post(f"{url}/v1/chat/completions", json=ASK, headers={"X-Forwarded-For": seen}).status_code
        for seen in forwarded
    ]


@pytest.mark.parametrize(
    ("proxies", "variables", "counted"),
    [
        ([], {}, False),
        (["--trusted-proxy", "10.0.0.0/8"], {}, False),
        (["--trusted-proxy", "127.0.0.1"], {}, True),
        ([], {"FORWARDED_ALLOW_IPS": "127.0.0.1"}, True),  # uvicorn's own variable
    ],
)
def test_a_forwarded_address_counts_only_from_a_proxy_that_is_named(
    proxies: list[str], variables: dict[str, str], counted: bool
) -> None:
    limit = ("--port", "0", "--requests-per-minute", "2")
    with running(*limit, *proxies, env=variables, command=FAKE) as app:
        url = app.address()
        forged = statuses(url, [f"203.0.113.{number}" for number in range(4)])
        assert forged == ([200] * 4 if counted else [200, 200, 429, 429])
        assert statuses(url, ["1.2.3.4, 203.0.113.9", "1.2.3.5, 203.0.113.9", "203.0.113.9"])[-1] == 429


HALVES = (
    b"",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\n{",
    b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\n{",
)
FEW_FILES = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
runpy.run_module("tests.ui.fake_app", run_name="__main__")
"""


def slow_client(url: str, half: bytes) -> socket.socket:
    """Connect and send half a request; the server may close the connection at any time."""
    made = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5)
    with suppress(OSError):
        made.sendall(half)
    return made


def health(url: str) -> float:
    """Return the seconds that /health takes."""
    began = time.monotonic()
    assert httpx.get(f"{url}/health", timeout=10).status_code == 200
    return time.monotonic() - began


def answer(url: str) -> float:
    """Stream an answer to its end; return the seconds that it takes."""
    began = time.monotonic()
    body = {"messages": ASK["messages"], "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as events:
        text = events.read().decode()
    assert text.count("word") == WORDS and text.endswith("data: [DONE]\n\n")
    return time.monotonic() - began


def test_slow_clients_stop_nobody() -> None:
    with running("--port", "0", command=("-c", FEW_FILES)) as app, ExitStack() as clients:
        url = app.address()
        alone = answer(url)
        for number in range(1100):
            clients.enter_context(slow_client(url, HALVES[number % len(HALVES)]))
        assert max(health(url) for _ in range(5)) < 1
        assert answer(url) < 2 * alone
        for number in range(300):  # they come again
            clients.enter_context(slow_client(url, HALVES[number % len(HALVES)]))
        assert health(url) < 1
        clients.close()
        assert app.stop() == 0
    assert len(app.log) < 2000 and "Traceback" not in app.log
