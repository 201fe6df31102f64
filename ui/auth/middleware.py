"""The door: who is let in where. With logins on, all that is open is /health and /login."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from urllib.parse import urlsplit

from jinja2 import Template
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.auth.access import Access, address_of
from ui.auth.limits import RateLimitExceeded
from ui.i18n.words import translator
from ui.static import STATIC

_GAPS = ("name", "password", "enter", "wrong", "wait")


@cache
def _template() -> Template:
    page: Template = Template((STATIC / "login_page.html").read_text(encoding="utf-8"), autoescape=True)
    return page


def login_page(request: HTTPConnection) -> HTMLResponse:
    """The form in the visitor's language, in place of whatever page was asked for."""
    t = translator(request)
    page = _template().render({gap: t(f"login.{gap}") for gap in _GAPS}, language=t.language)
    return HTMLResponse(page, headers={"Cache-Control": "private, no-store"})


def kept_in_frames(send: Send) -> Send:
    """Makes Gradio's cookie for https a partitioned one: a Space is a frame, where browsers drop others."""

    async def with_partition(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            cookies = headers.getlist("set-cookie")
            del headers["set-cookie"]
            for cookie in cookies:
                headers.append("set-cookie", f"{cookie}; Partitioned" if "; Secure" in cookie else cookie)
        await send(message)

    return with_partition


Sessions = Callable[[Mapping[str, str]], str | None]
"""The cookies of a request -> the name that is logged in with them."""


_HEALTH, _LOGIN = "/health", "/login"
_API = ("/v1", "/metrics")
_REFUSED = "this server wants a login: name and password by HTTP Basic, or its API key as a Bearer token"


class AuthMiddleware:
    """ASGI middleware that lets in who may come in, and says who it is in the request's state.

    `state.access` has the rules for `access.admit`, and `state.user` the name of who logged in.
    """

    def __init__(self, app: ASGIApp, access: Access, sessions: Sessions) -> None:
        self._app, self._access, self._sessions = app, access, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it with 401, or with 429 after too many wrong passwords."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        request.state.access = self._access
        refusal = self._refusal(request)
        is_login = scope["path"].rstrip("/") == _LOGIN
        await (refusal or self._app)(scope, receive, kept_in_frames(send) if is_login else send)

    def _refusal(self, request: HTTPConnection) -> ASGIApp | None:
        path = request.scope["path"].rstrip("/")
        if path == _HEALTH or not self._access.closes_api:
            return None
        try:
            request.state.user = self._user(request, path)
        except RateLimitExceeded as error:
            return _refused(429, str(error), {"Retry-After": str(math.ceil(error.seconds))})
        if request.state.user is not None or path == _LOGIN:
            return None
        if not (self._access.closes_page or _is_api(path)):
            return None
        if self._access.closes_page and "text/html" in request.headers.get("accept", ""):
            return login_page(request)
        return _refused(401, _REFUSED, {"WWW-Authenticate": "Basic"} if _is_api(path) else {})

    def _user(self, request: HTTPConnection, path: str) -> str | None:
        """Return the caller. Raises RateLimitExceeded when an address tried too many passwords."""
        if (name := self._sessions(request.cookies)) is not None:
            return name
        if path == _LOGIN:  # Gradio checks the form's words
            self._access.attempts.take(address_of(request))
        elif _is_api(path) and (authorization := request.headers.get("authorization")) is not None:
            self._access.attempts.take(address_of(request))
            if (user := self._access.user_by(authorization)) is not None:
                self._access.attempts.give_back(address_of(request))
            return user
        return None


def _is_api(path: str) -> bool:
    return any(path == part or path.startswith(f"{part}/") for part in _API)


def _refused(status: int, message: str, headers: Mapping[str, str]) -> JSONResponse:
    """In the form of /v1's errors; what else is closed is read by no one but Gradio's own page."""
    kind, code = ("requests", "rate_limit_exceeded") if status == 429 else (None, "invalid_api_key")
    error = {"message": message, "type": kind or "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error, "detail": message}, status, headers)


class OriginMiddleware:
    """ASGI middleware that refuses other sites' pages and, on a `local` server, names that are not ours.

    `hosts` are more names that the server is known by, behind a proxy for instance.
    """

    def __init__(self, app: ASGIApp, local: bool, hosts: Iterable[str] = ()) -> None:
        self._app, self._local = app, local
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it with 403."""
        wrong = self._wrong(Headers(scope=scope)) if scope["type"] in ("http", "websocket") else None
        if wrong is None:
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse(wrong, 403)(scope, receive, send)

    def _wrong(self, headers: Headers) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._local and not self._is_ours(host):
            return f"this server is not {host!r}: if it should be, start it with --hosts {_name(host)}"
        if origin is not None and not self._is_own_page(origin, headers):
            return f"a page of {origin!r} may not use this server: if that is its own, name it with --hosts"
        return None

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        return name == "localhost" or name in self._hosts or _is_loopback(name)

    def _is_own_page(self, origin: str, headers: Headers) -> bool:
        place = urlsplit(origin).netloc.lower()
        # A page can set X-Forwarded-Host only after asking (a preflight), which is refused for its origin.
        own = (headers.get("host", ""), headers.get("x-forwarded-host", ""))
        return bool(place) and (place in map(str.lower, own) or _name(place) in self._hosts)


def _name(host: str) -> str:
    """The name or address in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # a bracket too many
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
