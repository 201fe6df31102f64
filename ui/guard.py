"""The door: who is let in where. With logins on, all that is open is /health and /login."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ui.access import Access, address_of
from ui.limits import TooMany
from ui.login_page import kept_in_frames, login_page

Sessions = Callable[[Mapping[str, str]], str | None]
"""The cookies of a request -> the name that is logged in with them."""

_HEALTH, _LOGIN = "/health", "/login"
_API = ("/v1", "/metrics")
_REFUSED = "this server wants a login: name and password by HTTP Basic, or its API key as a Bearer token"


class Guard:
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
        except TooMany as error:
            return _refused(429, str(error), {"Retry-After": str(math.ceil(error.seconds))})
        if request.state.user is not None or path == _LOGIN:
            return None
        if not (self._access.closes_page or _is_api(path)):
            return None
        if self._access.closes_page and "text/html" in request.headers.get("accept", ""):
            return login_page(request)
        return _refused(401, _REFUSED, {"WWW-Authenticate": "Basic"} if _is_api(path) else {})

    def _user(self, request: HTTPConnection, path: str) -> str | None:
        """Who is asking. Raises TooMany where an address tried too many passwords, the right one or not."""
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
