"""The server as a process of its own, with a fake backend."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import pytest

from tests.ui.app_process import running

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
