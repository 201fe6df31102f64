"""Binds the sessions of browser tabs to their visitors.

A page makes up the `session_hash` of its tab, and Gradio gives the tab's events, state and answers to anyone
who names it. `TabMiddleware` replaces it, in every request, by one that is derived from the visitor as well.
So another visitor who sends the same hash has another session, and no table has to be kept.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.auth.access import counted_owner

MAX_BODY = 16 << 20  # bytes of an event; the longest question has a million characters
_PREFIX = "/gradio_api/"
_SESSION_IN_PATH = re.compile(r"(/gradio_api/heartbeat/|/gradio_api/stream/(?=[^/]+/.))([^/]+)(.*)")
_EVENT_IN_PATH = re.compile(r"/gradio_api/(?:call/.+|stream)/([^/]+?)(?:/close)?/?")
SessionOfEvent = Callable[[str], str | None]
"""Maps a running event's id to the session that it belongs to; None for an unknown event."""


class _Refused(Exception):
    """The request is answered with `response`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.response = JSONResponse({"detail": message}, status)


class TabMiddleware:
    """ASGI middleware that replaces each `session_hash` sent to Gradio by one of the visitor's own.

    An event can be read and cancelled only by the visitor who has started it. Needs `AuthMiddleware` and
    `VisitorMiddleware` around it.
    """

    def __init__(self, app: ASGIApp, session_of: SessionOfEvent) -> None:
        self._app, self._session_of = app, session_of
        self._key = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its session replaced; answer 403 for another visitor's event, or 413."""
        if scope["type"] != "http" or not scope["path"].startswith(_PREFIX):
            await self._app(scope, receive, send)
            return
        try:
            own_scope, own_receive = await self._own(scope, receive)
        except _Refused as refusal:
            await refusal.response(scope, receive, send)
        except ClientDisconnect:
            return
        else:
            await self._app(own_scope, own_receive, send)

    async def _own(self, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
        """Return the request with the visitor's own session. Raises _Refused or ClientDisconnect."""
        owner = self._digest(counted_owner(HTTPConnection(scope)))
        self._check_event(owner, event_in_path(scope["path"]))
        scope = self._with_own_session(scope, owner)
        if not _has_json(scope):
            return scope, receive
        body, event = self._with_own_session_in(await _read(Request(scope, receive)), owner)
        self._check_event(owner, event)
        return _with_length(scope, len(body)), _replay(body, receive)

    def _session(self, owner: str, session: str) -> str:
        return f"{owner}{self._digest(f'{owner}{session}')}"

    def _digest(self, text: str) -> str:
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]

    def _check_event(self, owner: str, event: str | None) -> None:
        """Raise _Refused for another visitor's event; without a session it has its own id."""
        session = self._session_of(event) if event else None
        if session not in (None, event) and not str(session).startswith(owner):
            raise _Refused(403, "this event belongs to another visitor")

    def _with_own_session(self, scope: Scope, owner: str) -> Scope:
        """Return the scope with the session in its path and query replaced."""
        scope = {**scope}
        if found := _SESSION_IN_PATH.fullmatch(scope["path"]):
            scope["path"] = f"{found[1]}{self._session(owner, found[2])}{found[3]}"
            scope["raw_path"] = quote(scope["path"]).encode()
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if any(name == "session_hash" for name, _ in query):
            own = [
                (name, self._session(owner, text) if name == "session_hash" else text) for name, text in query
            ]
            scope["query_string"] = urlencode(own).encode()
        return scope

    def _with_own_session_in(self, body: bytes, owner: str) -> tuple[bytes, str | None]:
        """Return a JSON body with its session replaced, and the event that it names."""
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            return body, None  # Gradio refuses it
        if not isinstance(fields, dict):
            return body, None
        event = fields.get("event_id")
        if isinstance(fields.get("session_hash"), str):
            fields["session_hash"] = self._session(owner, fields["session_hash"])
            body = json.dumps(fields).encode()
        return body, event if isinstance(event, str) else None


def event_in_path(path: str) -> str | None:
    """Return the id of the event that a path names."""
    found = _EVENT_IN_PATH.fullmatch(path)
    return found[1] if found else None


def _has_json(scope: Scope) -> bool:
    """Return whether a body may hold a session: forms are uploads, which belong to none."""
    kind = Headers(scope=scope).get("content-type", "")
    return scope["method"] == "POST" and not kind.startswith("multipart/")


async def _read(request: Request) -> bytes:
    """Return the body. Raises _Refused above `MAX_BODY`, and ClientDisconnect."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise _Refused(413, f"the request is too large: {MAX_BODY} bytes are the most")
    return bytes(body)


def _with_length(scope: Scope, length: int) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body, which was read already, and then what follows it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
