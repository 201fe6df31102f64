"""Identity of a request: a logged-in user, this machine's own user, or a browser known by a random cookie.

`VisitorMiddleware` (ASGI) puts the result into the request's state; `owner_of` reads it there, from a Gradio
or a Starlette request. Data of one owner is never shown to another. `state.is_known` is true when the visitor
sent a valid id, false when a new one was made for this request.
"""

from __future__ import annotations

import re
import secrets

import gradio as gr
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.conversations.model import LOCAL, VISITOR

COOKIE = "gguf-chat-visitor"
_LIFETIME = 400 * 24 * 60 * 60  # seconds; browsers keep no cookie for longer
_VISITOR_ID = re.compile(r"[A-Za-z0-9_-]{22}")  # 128 bits, as token_urlsafe writes them
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


def owner_of(request: gr.Request | HTTPConnection) -> str:
    """Return the owner of a request's data: "user:NAME", "local" or "visitor:ID".

    Needs `VisitorMiddleware` around the app.
    """
    name = getattr(request, "username", None) or getattr(request.state, "user", None)
    return f"user:{name}" if name else str(request.state.visitor)


def on_own_machine(request: gr.Request | HTTPConnection) -> bool:
    """Return whether the user sits at the serving machine, and so may name its files.

    Needs `VisitorMiddleware` around the app.
    """
    return bool(request.state.visitor == LOCAL)


class VisitorMiddleware:
    """ASGI middleware that identifies browsers by a random cookie that no script can read.

    `local` means that only this machine can reach the server. Then every request belongs to its one user,
    except those that come through a proxy, which may forward anyone's.
    """

    def __init__(self, app: ASGIApp, local: bool = False) -> None:
        self._app, self._local = app, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set `state.visitor` and `state.is_known`; give a new browser that opens a page its cookie."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        known = _visitor_id(headers)
        visitor = known or secrets.token_urlsafe(16)
        local = self._local and not any(name in headers for name in _FORWARDED)
        state = scope.setdefault("state", {})
        state["visitor"] = LOCAL if local else f"{VISITOR}{visitor}"
        state["is_known"] = local or known is not None
        # Only pages carry the cookie: a shared cache may store a script or a picture with its headers.
        new = not (known or local) and "text/html" in headers.get("accept", "")
        await self._app(scope, receive, _with_cookie(send, visitor, scope) if new else send)


def _visitor_id(headers: Headers) -> str | None:
    """Return the id in the request's cookie, None unless it has the form of ours."""
    value = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
    return value if _VISITOR_ID.fullmatch(value) else None


def _with_cookie(send: Send, visitor: str, scope: Scope) -> Send:
    # A Space is a frame in another site's page, where browsers keep only partitioned cookies.
    secure = scope["scheme"] in ("https", "wss")
    policy = "SameSite=None; Secure; Partitioned" if secure else "SameSite=Lax"
    cookie = f"{COOKIE}={visitor}; Path=/; Max-Age={_LIFETIME}; HttpOnly; {policy}"

    async def with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.append("Set-Cookie", cookie)
            headers["Cache-Control"] = "private, no-store"
        await send(message)

    return with_cookie
