"""Middleware for logins and origins. With logins configured, only /health, /login and the face are open."""

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
from ui.auth.origins import AllowedOrigins
from ui.i18n.words import translator
from ui.static import STATIC
from ui.static.look import FACE, head

_TEXTS = ("name", "password", "enter", "wrong", "wait")


@cache
def _template() -> Template:
    page: Template = Template((STATIC / "login_page.html").read_text(encoding="utf-8"), autoescape=True)
    return page


def login_page(request: HTTPConnection) -> HTMLResponse:
    """The form in the visitor's language, in place of whatever page was asked for."""
    t = translator(request)
    root = getattr(request.state, "root_path", "")  # "/login" would leave the path of a proxy
    page = _template().render({gap: t(f"login.{gap}") for gap in _TEXTS}, language=t.language, root=root)
    page = page.replace("</head>", f"{head(f'{root}/', sheets=False)}</head>", 1)
    return HTMLResponse(page, headers={"Cache-Control": "private, no-store"})


def partition_cookies(send: Send) -> Send:
    """Add Partitioned to Gradio's https cookie: browsers drop any other in a frame, as a Space is."""

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
"""Maps a request's cookies to the name that is logged in with them."""


_LOGIN = "/login"
_OPEN = ("/health", f"/{FACE}")
_API = ("/v1", "/metrics")
_REFUSED = "this server wants a login: name and password by HTTP Basic, or its API key as a Bearer token"


class AuthMiddleware:
    """ASGI middleware that authenticates requests.

    It sets `state.access` to the rules for `access.admit`, and `state.user` to the logged-in name.
    """

    def __init__(self, app: ASGIApp, access: Access, sessions: Sessions) -> None:
        self._app, self._access, self._sessions = app, access, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401, or 429 after too many wrong passwords."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        request.state.access = self._access
        refusal = self._refusal(request)
        is_login = scope["path"].rstrip("/") == _LOGIN
        await (refusal or self._app)(scope, receive, partition_cookies(send) if is_login else send)

    def _refusal(self, request: HTTPConnection) -> ASGIApp | None:
        path = request.scope["path"].rstrip("/")
        if path in _OPEN or not self._access.api_needs_auth:
            return None
        try:
            request.state.user = self._user(request, path)
        except RateLimitExceeded as error:
            return _json_error(429, str(error), {"Retry-After": str(math.ceil(error.seconds))})
        if request.state.user is not None or path == _LOGIN:
            return None
        if not (self._access.page_needs_login or _is_api(path)):
            return None
        if self._access.page_needs_login and "text/html" in request.headers.get("accept", ""):
            return login_page(request)
        return _json_error(401, _REFUSED, {"WWW-Authenticate": "Basic"} if _is_api(path) else {})

    def _user(self, request: HTTPConnection, path: str) -> str | None:
        """Return the caller. Raises RateLimitExceeded when an address tried too many passwords."""
        if (name := self._sessions(request.cookies)) is not None:
            return name
        if path == _LOGIN:  # Gradio checks the form's password
            self._access.login_attempts.take(address_of(request))
        elif _is_api(path) and (authorization := request.headers.get("authorization")) is not None:
            self._access.login_attempts.take(address_of(request))
            if (user := self._access.authenticate(authorization)) is not None:
                self._access.login_attempts.refund(address_of(request))
            return user
        return None


def _is_api(path: str) -> bool:
    return any(path == part or path.startswith(f"{part}/") for part in _API)


def _json_error(status: int, message: str, headers: Mapping[str, str]) -> JSONResponse:
    """Return an error in the form of /v1's; of other routes only Gradio's own page reads it (`detail`)."""
    if status == 429:
        error_type, code = "requests", "rate_limit_exceeded"
    else:
        error_type, code = "invalid_request_error", "invalid_api_key"
    error = {"message": message, "type": error_type, "param": None, "code": code}
    return JSONResponse({"error": error, "detail": message}, status, headers)


class OriginMiddleware:
    """ASGI middleware that refuses other sites' pages and, on a `local` server, unknown Host headers.

    `hosts` are more names of the server, for instance those behind a proxy. Pages of `origins`, as
    `checked_origins` returns them, may use /v1.
    """

    def __init__(
        self, app: ASGIApp, local: bool, hosts: Iterable[str] = (), origins: Iterable[str] = ()
    ) -> None:
        self._app, self._local = app, local
        self._allowed = AllowedOrigins(app, origins)
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        problem = self._problem(scope) if scope["type"] in ("http", "websocket") else None
        if problem is None:
            await self._allowed(scope, receive, send)
        else:
            await PlainTextResponse(problem, 403)(scope, receive, send)

    def _problem(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._local and not self._is_own_host(host):
            return f"this server is not {host!r}: if it should be, start it with --hosts {_hostname(host)}"
        if origin is None or self._allowed.allows(scope):
            return None
        asks_first = scope.get("method") == "OPTIONS" and "access-control-request-method" in headers
        if self._is_own_page(origin, headers) and not asks_first:  # browsers ask only for another page
            return None
        if origin == "null":
            return (
                "a page without an origin, as one of a file, may not use this server: open it from a server"
            )
        return (
            f"a page of {origin!r} may not use this server: start it with --allow-origin {origin} to let it "
            "use /v1, or with --hosts if that is a name of this server"
        )

    def _is_own_host(self, host: str) -> bool:
        name = _hostname(host)
        return name == "localhost" or name in self._hosts or _is_loopback(name)

    def _is_own_page(self, origin: str, headers: Headers) -> bool:
        host = urlsplit(origin).netloc.lower()
        # A page can set X-Forwarded-Host only after a preflight request, which is refused for its origin.
        own = (headers.get("host", ""), headers.get("x-forwarded-host", ""))
        return bool(host) and (host in map(str.lower, own) or _hostname(host) in self._hosts)


def _hostname(host: str) -> str:
    """Return the name or address in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # an unmatched bracket
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
