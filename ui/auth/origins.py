"""Pages of other sites that the owner lets use /v1 from a browser (CORS)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Not X-Forwarded-*, which only a proxy may write.
_HEADERS = re.compile(
    r"(accept|authorization|cache-control|content-type|http-referer|user-agent|x-requested-with|x-title"
    r"|openai-(organization|project|beta)|x-stainless-[a-z-]+)"
)
_EXPOSED = "X-Model, X-Ignored-Fields, Retry-After"
_MAX_AGE = "600"  # seconds for which a browser remembers the answer to a preflight request


class AllowedOrigins:
    """ASGI middleware for the requests of allowed pages to /v1; others it passes on unchanged.

    Their cookies do not count: such a page sends the API key or a password, not the visitor's login.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        self._app, self._origins = app, frozenset(origins)

    def allows(self, scope: Scope) -> bool:
        """Return whether the request is one of an allowed page, to /v1."""
        path = scope.get("path", "")
        is_api = scope["type"] == "http" and (path == "/v1" or path.startswith("/v1/"))
        return is_api and Headers(scope=scope).get("origin", "").lower() in self._origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight request; pass on others without cookies, and add the CORS headers."""
        if not self.allows(scope):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await _preflight(headers)(scope, receive, send)
            return
        kept = [(name, value) for name, value in scope["headers"] if name not in (b"cookie", b"origin")]

        async def with_origin(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added["Access-Control-Allow-Origin"] = headers["origin"]
                added["Access-Control-Expose-Headers"] = _EXPOSED
                added.add_vary_header("Origin")
                del added["set-cookie"]
            await send(message)

        await self._app({**scope, "headers": kept}, receive, with_origin)


def _preflight(headers: Headers) -> Response:
    asked = (name.strip().lower() for name in headers.get("access-control-request-headers", "").split(","))
    allowed = {
        "Access-Control-Allow-Origin": headers["origin"],
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": ", ".join(filter(_HEADERS.fullmatch, asked)),
        "Access-Control-Max-Age": _MAX_AGE,
        "Vary": "Origin, Access-Control-Request-Headers",
    }
    if "access-control-request-private-network" in headers:  # a public page that asks a server at home
        allowed["Access-Control-Allow-Private-Network"] = "true"
    return Response(status_code=204, headers=allowed)
