"""The page as a contender: the web app in a process of its own, and its users over HTTP as browsers do it.

A user sends what a browser sends when someone types a question and presses Send, and reads the stream of the
page's updates; drawing them is left out, for that costs the visitor's machine and not the server's.
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from bench.llama_server import chunks_of, response
from bench.peers import OnText, Setup, Spent
from engine.request import Message
from pipeline.errors import PipelineError

_PREFIX = "/gradio_api"
_LEAST_TOKENS = 16  # where the page's slider begins


class WebPage:
    """The web app with one model, whose answers are all written to the full length."""

    def __init__(self, setup: Setup) -> None:
        """Start it and wait until it answers. Raises PipelineError."""
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
            self._event = _question_event(json.loads(answer.read()))
        self._sessions = itertools.count()

    def answer(self, messages: Sequence[Message], new_tokens: int, on_text: OnText) -> Spent:
        """See bench.peers.Contender. The first turn alone: the page keeps the conversation itself."""
        assert len(messages) == 1
        new_tokens = max(new_tokens, _LEAST_TOKENS)
        session = f"bench{next(self._sessions)}"
        body = self._event.body(messages[0]["content"], new_tokens, session)
        with response(self._port, "POST", f"{_PREFIX}/queue/join?", body) as joined:
            if joined.status != http.client.OK:
                raise PipelineError(f"the page refused a question: {joined.read()[:300]!r}")
            event = json.loads(joined.read())["event_id"]
        with response(self._port, "GET", f"{_PREFIX}/queue/data?session_hash={session}") as stream:
            for update in _updates(stream, event):
                on_text(update)
        return Spent(0, 0, new_tokens)

    def close(self) -> int:
        """See bench.peers.Contender."""
        out, _ = self._process.communicate()  # its standard input closes: it ends and tells its peak memory
        return int(out.split()[-1])


class _Event:
    """The page's event for a question: its number, and its inputs' values as they are on a fresh page."""

    def __init__(self, number: int, inputs: Sequence[dict[str, Any]]) -> None:
        self._number, self._inputs = number, inputs

    def body(self, question: str, new_tokens: int, session: str) -> dict[str, Any]:
        """What a browser would send."""
        set_to = {
            "question": question,
            "set-temperature": 0,
            "set-max_tokens": new_tokens,
            "set-repeat_penalty": 1.0,
        }
        values = [set_to.get(props.get("elem_id", ""), props.get("value")) for props in self._inputs]
        return {"data": values, "fn_index": self._number, "session_hash": session, "trigger_id": None}


def _question_event(config: dict[str, Any]) -> _Event:
    """The event of pressing Send, found in the page's own description."""
    components = {component["id"]: component["props"] for component in config["components"]}
    boxes = (number for number, props in components.items() if props.get("elem_id") == "question")
    box = next(boxes)  # the chat's: the comparison has one too
    for event in config["dependencies"]:
        if [box, "submit"] in event["targets"] and event["inputs"]:
            return _Event(event["id"], [components[number] for number in event["inputs"]])
    raise PipelineError("the page has no event for a question")


def _updates(stream: http.client.HTTPResponse, event: str) -> Iterator[str]:
    """The updates that show more of the answer, until it is complete. Raises PipelineError."""
    for message in chunks_of(stream):
        if message.get("event_id") != event:
            continue
        if message["msg"] == "process_completed":
            if not message["success"]:
                raise PipelineError(f"the page failed in an answer: {message['output']}")
            return
        if message["msg"] == "process_generating":
            yield json.dumps(message["output"]["data"])
