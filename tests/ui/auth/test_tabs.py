"""Sessions of tabs: each belongs to the visitor who uses it, however another one names it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.ui.conftest import FakeSite, until
from tests.ui.fake_backend import FakeBackend
from ui.auth.identity import COOKIE
from ui.auth.tabs import MAX_BODY

Start = Callable[[FakeBackend], FakeSite]


class Visitor:
    """A browser's requests to Gradio, with a visitor's cookie (None: it keeps none)."""

    def __init__(self, url: str, cookie: str | None) -> None:
        self.http = httpx.Client(
            base_url=f"{url}/gradio_api", cookies={COOKIE: cookie} if cookie else {}, timeout=20
        )
        config = httpx.get(f"{url}/config").json()
        chat = next(one for one in config["dependencies"] if one["api_name"] == "chat")
        self.chat, self._unset = chat["id"], [None] * (len(chat["inputs"]) - 3)

    def ask(self, session: str, text: str = "Hello") -> str:
        data = [text, [], "", *self._unset]
        body = {"data": data, "fn_index": self.chat, "session_hash": session}
        return str(self.http.post("/queue/join", json=body).raise_for_status().json()["event_id"])

    def read(self, path: str, **params: str) -> Iterator[str]:
        """Yield the lines of a stream until its end; Gradio breaks off that of an unknown session."""
        with suppress(httpx.RemoteProtocolError), self.http.stream("GET", path, params=params) as events:
            yield from events.iter_lines()

    def messages(self, session: str) -> Iterator[dict[str, Any]]:
        for line in self.read("/queue/data", session_hash=session):
            if line.startswith("data:"):
                yield json.loads(line.removeprefix("data:"))

    def follow(self, session: str) -> Callable[[], list[dict[str, Any]]]:
        """Read an answer in a thread; return the function that waits for its end."""
        found: list[dict[str, Any]] = []
        reader = threading.Thread(target=lambda: found.extend(self.messages(session)), daemon=True)
        reader.start()

        def end() -> list[dict[str, Any]]:
            reader.join(20)
            return found

        return end


@pytest.fixture
def site(fake_site: Start) -> FakeSite:
    return fake_site(FakeBackend("word " * 40, pause=0.05))


@pytest.fixture
def anna(site: FakeSite) -> Visitor:
    return Visitor(site.url, "a" * 22)


@pytest.fixture(params=["b" * 22, None], ids=["another visitor", "one without a cookie"])
def other(site: FakeSite, request: pytest.FixtureRequest) -> Visitor:
    return Visitor(site.url, request.param)


def complete(messages: list[dict[str, Any]]) -> bool:
    ended = [one for one in messages if one["msg"] == "process_completed"]
    return (
        bool(ended)
        and ended[0]["success"]
        and ended[0]["output"].get("data", [""])[0].split() == ["word"] * 40
    )


def test_another_visitors_tab_is_neither_read_nor_stopped(
    site: FakeSite, anna: Visitor, other: Visitor
) -> None:
    event = anna.ask("tab")
    end = anna.follow("tab")
    until(lambda: site.backend.streams)
    assert "word" not in str(list(other.messages("tab")))
    for path in (f"/call/chat/{event}", "/call/chat/tab", f"/call/v2/chat/{event}"):
        assert "word" not in str(list(other.read(path)))
    cancel = {"session_hash": "tab", "fn_index": anna.chat, "event_id": event}
    assert other.http.post("/cancel", json=cancel).status_code == 403
    assert other.http.post("/cancel", json={**cancel, "event_id": "none"}).status_code == 200
    with other.http.stream("GET", "/heartbeat/tab") as alive:
        next(alive.iter_raw())  # closing it would end the tab's events
    assert complete(end())


def test_what_another_visitor_asks_in_it_comes_to_them_alone(anna: Visitor, other: Visitor) -> None:
    anna.ask("tab")
    end = anna.follow("tab")
    mine = other.ask("tab")
    theirs = list(other.messages("tab"))
    assert complete(theirs) and {one.get("event_id") for one in theirs} <= {mine, None}
    annas = end()
    assert complete(annas) and mine not in {one.get("event_id") for one in annas}


def test_its_own_visitor_stops_it(site: FakeSite, anna: Visitor) -> None:
    event = anna.ask("tab")
    end = anna.follow("tab")
    until(lambda: site.backend.streams)
    cancel = {"session_hash": "tab", "fn_index": anna.chat, "event_id": event}
    assert anna.http.post("/cancel", json=cancel).json() == {"success": True}
    assert not complete(end())
    until(lambda: site.backend.streams[0].cancelled)


def test_a_tab_that_is_closed_ends_its_answer(site: FakeSite, anna: Visitor) -> None:
    anna.ask("tab")
    with anna.http.stream("GET", "/heartbeat/tab") as alive:
        next(alive.iter_raw())
        anna.follow("tab")
        until(lambda: site.backend.streams)
    until(lambda: site.backend.streams[0].cancelled)


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"session_hash": 3, "data": []}', b"[" * 5000])
def test_what_is_no_event_is_refused_as_before(anna: Visitor, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    refused = anna.http.post("/queue/join", content=body, headers=headers)
    assert 400 <= refused.status_code < 500


def test_an_event_without_bounds_is_refused(anna: Visitor) -> None:
    pieces = (b"x" * (1 << 20) for _ in range(1 + (MAX_BODY >> 20)))
    headers = {"Content-Type": "application/json"}
    assert anna.http.post("/queue/join", content=pieces, headers=headers).status_code == 413
