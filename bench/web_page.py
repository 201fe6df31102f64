"""The web page as a contender: the app in a child process, used over HTTP as browsers use it.

A user sends the same requests as a browser when a question is typed and sent, and reads the stream of
updates. Rendering is left out: it costs time on the visitor's machine, not on the server.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import Queue
from typing import Any

from bench.llama_server import chunks_of, response
from bench.systems import OnText, Setup, TokenCounts
from engine.types import Message
from pipeline.errors import PipelineError

_PREFIX = "/gradio_api"
_LEAST_TOKENS = 16  # minimum of the page's slider


class WebPage:
    """The web app with one model, whose answers always have the full length."""

    def __init__(self, setup: Setup) -> None:
        """Start the app and wait until it is ready. Raises PipelineError."""
        self.decode_seconds = float("nan")
        sizes = [str(setup.slots), str(setup.context), str(setup.threads)]
        command = [sys.executable, "-m", "bench.web_page_app", str(setup.model), *sizes]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not (found := re.search(r":(\d+)$", line.strip())):
            raise PipelineError(f"the page does not start: {line.strip() or 'it said nothing'}")
        self._port = int(found.group(1))
        with response(self._port, "GET", "/config") as answer:
            self._events = _events(json.loads(answer.read()))
        self._sessions: Queue[str] = Queue()
        for number in range(setup.slots + 1):  # one more for the warm-up
            self._open(f"bench{number}")

    def _open(self, session: str) -> None:
        """Run the event that a browser sends after it has loaded the page."""
        self._run(self._events.opening.body({}, session))
        self._sessions.put(session)

    def _run(self, body: dict[str, Any]) -> None:
        """Run an event that bypasses the queue, in one request. Raises PipelineError."""
        with response(self._port, "POST", f"{_PREFIX}/run/predict", body) as answer:
            if answer.status != http.client.OK:
                raise PipelineError(f"the page failed in an event: {answer.read()[:300]!r}")
            answer.read()

    def answer(self, messages: Sequence[Message], new_tokens: int, on_text: OnText) -> TokenCounts:
        """See bench.systems.Contender. Only for a first turn: the page keeps the conversation itself."""
        assert len(messages) == 1
        new_tokens = max(new_tokens, _LEAST_TOKENS)
        chosen = {
            "set-temperature": 0,
            "set-max_tokens": new_tokens,
            "set-repeat_penalty": 1.0,
        }
        session = self._sessions.get_nowait()
        self._run(self._events.begin.body(chosen, session, {"text": messages[0]["content"]}))
        for _ in self._updates(self._events.grow.body({}, session)):
            on_text("")  # only the times matter
        self._run(self._events.end.body({}, session))
        on_text("")  # the page now shows the whole answer
        return TokenCounts(0, 0, new_tokens)

    def _updates(self, body: dict[str, Any]) -> Iterator[None]:
        """Send an event through the queue, and yield at each update. Raises PipelineError."""
        with response(self._port, "POST", f"{_PREFIX}/queue/join?", body) as joined:
            if joined.status != http.client.OK:
                raise PipelineError(f"the page refused an event: {joined.read()[:300]!r}")
            event = str(json.loads(joined.read())["event_id"])
        session = body["session_hash"]
        with response(self._port, "GET", f"{_PREFIX}/queue/data?session_hash={session}") as stream:
            yield from _updates(stream, event)

    def close(self) -> int:
        """See bench.systems.Contender."""
        out, _ = self._process.communicate()  # closes its standard input: it prints its peak memory
        return int(str(out).split()[-1])


class _Event:
    """One of the page's events: its number, and its inputs with the values of a new page."""

    def __init__(self, number: int, inputs: Sequence[dict[str, Any]]) -> None:
        self.number, self._inputs = number, inputs

    def body(
        self, chosen: Mapping[str, Any], session: str, data: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the body that a browser would send, with an event's data; `chosen` has values by elem_id."""
        values = [chosen.get(props.get("elem_id", ""), props.get("value")) for props in self._inputs]
        event = {"fn_index": self.number, "session_hash": session, "trigger_id": None}
        return {"data": values, "event_data": data, **event}


@dataclass(frozen=True)
class _Events:
    """The events that open a chat and generate an answer: see ui/pages/chat/generation_events.py."""

    opening: _Event
    begin: _Event
    grow: _Event
    end: _Event


def _events(config: dict[str, Any]) -> _Events:
    """Find the events in the page's configuration. Raises PipelineError."""
    components: dict[int, dict[str, Any]] = {
        component["id"]: component["props"] for component in config["components"]
    }
    events = {event["id"]: event for event in config["dependencies"]}

    def event(found: Iterator[dict[str, Any]]) -> _Event:
        one = next(found, None)
        if one is None:
            raise PipelineError("the page has no event for a question, or none that opens a chat")
        return _Event(one["id"], [components[number] for number in one["inputs"]])

    def after(number: int) -> _Event:
        return event(one for one in events.values() if one["trigger_after"] == number)

    chat = next(number for number, props in components.items() if props.get("elem_id") == "chat")
    begin = event(one for one in events.values() if [chat, "send"] in one["targets"])
    opening = event(one for one in events.values() if chat in one["outputs"] and len(one["inputs"]) == 1)
    grow = after(begin.number)
    return _Events(opening, begin, grow, after(grow.number))


def _updates(stream: http.client.HTTPResponse, event: str) -> Iterator[None]:
    """Yield at each update that shows part of the answer, until it is complete. Raises PipelineError."""
    begun = False  # True once the assistant's row is there
    for message in chunks_of(stream):
        if message.get("event_id") != event:
            continue
        if message["msg"] == "process_completed":
            if not message["success"]:
                raise PipelineError(f"the page failed in an answer: {message['output']}")
            return
        if message["msg"] == "process_generating":
            begun = begun or '"assistant"' in json.dumps(message["output"]["data"])
            if begun:
                yield
