"""Who is asking: a name that logged in, this machine's own person, or a browser known by a random cookie.

`Visitors` is ASGI middleware that leaves its answer in the request's state; `owner_of` reads it there, from a
request of Gradio's or of Starlette's. What is kept for one owner is shown to no other. `state.is_known` says
whether the visitor showed an id or got a new one for this request.
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
_MADE_HERE = re.compile(r"[A-Za-z0-9_-]{22}")  # 128 bits as token_urlsafe writes them
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


def owner_of(request: gr.Request | HTTPConnection) -> str:
    """Whose conversations these are: "user:NAME", "local" or "visitor:ID". Needs `Visitors` around."""
    name = getattr(request, "username", None) or getattr(request.state, "user", None)
    return f"user:{name}" if name else str(request.state.visitor)


def on_own_machine(request: gr.Request | HTTPConnection) -> bool:
    """Whether who asks sits at the machine that serves, and may name its files. Needs `Visitors` around."""
    return bool(request.state.visitor == LOCAL)


class Visitors:
    """Tells browsers apart by a random cookie that no script can read.

    `local` means that the server can be reached from this machine alone: then everyone is its one person,
    except who comes through a proxy, which may let anyone in.
    """

    def __init__(self, app: ASGIApp, local: bool = False) -> None:
        self._app, self._local = app, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name the visitor, and give a browser that opens a page its cookie."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        known = _visitor_in(headers)
        visitor = known or secrets.token_urlsafe(16)
        local = self._local and not any(name in headers for name in _FORWARDED)
        state = scope.setdefault("state", {})
        state["visitor"] = LOCAL if local else f"{VISITOR}{visitor}"
        state["is_known"] = local or known is not None
        # Pages alone carry the cookie: a shared cache may keep a script or a picture, and its headers.
        new = not (known or local) and "text/html" in headers.get("accept", "")
        await self._app(scope, receive, _with_cookie(send, visitor, scope) if new else send)


def _visitor_in(headers: Headers) -> str | None:
    """The id in the request's cookie, when it looks like one of ours."""
    value = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
    return value if _MADE_HERE.fullmatch(value) else None


def _with_cookie(send: Send, visitor: str, scope: Scope) -> Send:
    # A Space is shown in a frame of another site, where only a partitioned cookie is kept.
    secure = scope["scheme"] in ("https", "wss")
    place = "SameSite=None; Secure; Partitioned" if secure else "SameSite=Lax"
    cookie = f"{COOKIE}={visitor}; Path=/; Max-Age={_LIFETIME}; HttpOnly; {place}"

    async def with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.append("Set-Cookie", cookie)
            headers["Cache-Control"] = "private, no-store"
        await send(message)

    return with_cookie
